"""An articulated 3-D person: its size, appearance and pose, and the positions of its joints as a camera sees them.

Coordinates: x to the image's right, y down, z towards the viewer; lengths in units of the person's stature, angles in
degrees. At yaw 0 the person faces the viewer, so the person's left side has positive x.
"""

from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

Rng = np.random.Generator

X, Y, Z = range(3)
SIDES = ("left", "right")
DOWN, FORWARD = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
HEAD_ELONGATION = 1.16

FACE_DIRECTIONS = {
    "nose": np.array([0.0, 0.17, 0.985]),
    "left_eye": np.array([0.40, -0.10, 0.911]), "right_eye": np.array([-0.40, -0.10, 0.911]),
    "left_ear": np.array([0.997, 0.05, -0.06]), "right_ear": np.array([-0.997, 0.05, -0.06]),
}  # fmt: skip
"""Unit directions from the center of the head, in the head's own frame."""

AVERAGE_SIZE = SimpleNamespace(
    shoulder=0.098, hip=0.052, torso=0.285, neck=0.105, head=0.068,
    upper_arm=0.165, forearm=0.145, thigh=0.235, shank=0.225, foot=0.085, girth=1.0,
)  # fmt: skip

_HAIR = np.array([[30, 24, 22], [66, 42, 26], [110, 70, 36], [196, 158, 88], [140, 62, 34], [150, 148, 146]])
_CLOTHES = {
    "sleeves": {"none": 0.1, "short": 0.5, "long": 0.4}, "legs": {"trousers": 0.58, "shorts": 0.28, "skirt": 0.14},
    "hairstyle": {"short": 0.56, "long": 0.3, "hat": 0.14},
    "front": {"zip": 0.3, "buttons": 0.3, "logo": 0.3, "plain": 0.1},
    "back": {"plain": 0.5, "hood": 0.28, "backpack": 0.22},
}  # fmt: skip


def rotation(axis: int, degrees: float) -> np.ndarray:
    """Rotation (3, 3) about X: down to forward; about Y: forward to the right; about Z: down to the image's left."""
    matrix, first, second = np.eye(3), (axis + 1) % 3, (axis + 2) % 3
    matrix[first, first] = matrix[second, second] = np.cos(np.radians(degrees))
    matrix[second, first] = np.sin(np.radians(degrees))
    matrix[first, second] = -matrix[second, first]
    return matrix


def sample_size(rng: Rng) -> SimpleNamespace:
    """Sample the lengths of one person, as in `AVERAGE_SIZE`."""
    around = {name: value * rng.uniform(0.92, 1.08) for name, value in vars(AVERAGE_SIZE).items()}
    return SimpleNamespace(**around | {"girth": rng.uniform(0.88, 1.2)})


def sample_appearance(rng: Rng) -> SimpleNamespace:
    """Sample the colors (RGB, 0-255) and the kinds of clothes of one person."""
    light, dark = np.array([246, 212, 184.0]), np.array([112, 72, 50.0])
    skin = light + rng.beta(1, 1.4) * (dark - light) + rng.normal(0, 4, 3)
    colors = {"skin": skin, "shirt": _cloth_color(rng), "trim": _cloth_color(rng)}
    while np.abs(colors["trim"] - colors["shirt"]).sum() < 180:
        colors["trim"] = _cloth_color(rng)
    colors["hair"] = _HAIR[rng.integers(len(_HAIR))] + rng.normal(0, 6, 3)
    colors |= {name: _cloth_color(rng) for name in ("legwear", "shoes", "hat")}
    clothes = {name: rng.choice(list(shares), p=list(shares.values())) for name, shares in _CLOTHES.items()}
    return SimpleNamespace(**colors, **clothes)


def _cloth_color(rng: Rng) -> Any:
    hue, saturation, value = rng.uniform(0, 6), rng.beta(2, 1.6), rng.uniform(0.28, 0.97)
    channels = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return 255 * value * (1 - saturation + saturation * channels)


@dataclass
class Pose:
    """Joint angles. `arms` and `legs` hold a row for each side (left, right): away from the body, to the front, twist
    (inward positive), and the bend of elbow or knee. `head`: yaw, nod, tilt.
    """

    lean: float = 0.0
    sway: float = 0.0
    twist: float = 0.0
    head: np.ndarray = field(default_factory=lambda: np.zeros(3))
    arms: np.ndarray = field(default_factory=lambda: np.array([[8.0, 0, 0, 10]] * 2))
    legs: np.ndarray = field(default_factory=lambda: np.array([[3.0, 0, 0, 0]] * 2))
    seated: bool = False


def _sample(rng: Rng, law: Any) -> Any:
    """Sample ("uniform", low, high) or ("normal", mean, deviation); a number stands for itself."""
    return getattr(rng, law[0])(*law[1:]) if isinstance(law, tuple) else law


def _place_legs(rng: Rng, left: Any, right: Any = None, lean: Any = 0.0, bow: Any = 0.0) -> Pose:
    start = _sample(rng, lean)
    legs = np.array([[_sample(rng, law) for law in leg] for leg in (left, right or left)])
    legs[:, 3] = np.abs(legs[:, 3])  # knees bend one way
    return Pose(lean=start + _sample(rng, bow), legs=legs)


def _sit(rng: Rng) -> Pose:
    lean, spread = rng.uniform(-8, 18), rng.uniform(4, 16)
    legs = [[spread, rng.uniform(68, 92), 0, rng.uniform(65, 100)] for _ in SIDES]
    return Pose(lean=lean, legs=np.array(legs), seated=True)


def _stride(rng: Rng, stride: Any, swing: Any, knee: Any, elbow: Any, lean: Any, front: Any = None) -> Pose:
    """Walk or run: (low, high) of the angles; `front`: of the front knee."""
    step, arm, lean = rng.uniform(*stride), rng.uniform(*swing), rng.uniform(*lean)
    legs = np.array([[2.0, step, 0, rng.uniform(0, 15)], [2.0, -0.7 * step, 0, rng.uniform(*knee)]])
    arms = np.array([[6.0, -arm, 0, rng.uniform(*elbow)], [6.0, arm, 0, rng.uniform(*elbow)]])
    if front:
        legs[0, 3] = rng.uniform(*front)
    return Pose(lean=lean, arms=arms, legs=legs)


# Laws of a limb's angles: away from the body, to the front, twist, bend.
_STANDING = (("uniform", 1, 9), ("normal", 0, 4), 0, ("normal", 0, 4))
_CROUCHING = (("uniform", 8, 25), ("uniform", 70, 115), 0, ("uniform", 85, 130))
_STEPPING = (("uniform", 5, 20), ("uniform", 45, 75), 0, ("uniform", 50, 85))
_TRAILING = (("uniform", 2, 12), ("uniform", -35, -10), 0, ("uniform", 5, 40))
_STRADDLING = (("uniform", 12, 32), ("normal", 0, 5), 0, ("uniform", 0, 15))
_KICKING = (("uniform", 2, 25), ("uniform", 35, 85), 0, ("uniform", 0, 35))
_WALK = partial(_stride, stride=(14, 30), swing=(10, 32), knee=(5, 45), elbow=(5, 45), lean=(0, 7))
_RUN = partial(_stride, stride=(35, 60), swing=(30, 55), knee=(50, 105), elbow=(70, 110), lean=(6, 18), front=(15, 70))
_LEG_POSES = (
    (partial(_place_legs, left=_STANDING), 0.32), (_WALK, 0.22), (_RUN, 0.10), (_sit, 0.11),
    (partial(_place_legs, left=_CROUCHING, lean=("uniform", 15, 40)), 0.06),
    (partial(_place_legs, left=_STEPPING, right=_TRAILING), 0.05), (partial(_place_legs, left=_STRADDLING), 0.07),
    (partial(_place_legs, left=_KICKING, right=(2, ("normal", 0, 4), 0, 5.0), lean=("uniform", -18, 2)), 0.03),
    (partial(_place_legs, left=_STANDING, bow=("uniform", 18, 55)), 0.04),
)  # fmt: skip
_ARM_POSES = (
    ((("uniform", 4, 22), ("normal", 0, 10), ("normal", 0, 20), ("uniform", 0, 35)), 0.34),  # hanging
    ((("uniform", 35, 52), ("uniform", -15, 5), ("uniform", 75, 100), ("uniform", 75, 100)), 0.13),  # akimbo
    ((("uniform", 120, 172), ("uniform", -5, 20), ("normal", 0, 25), ("uniform", 0, 45)), 0.13),  # raised
    ((("uniform", 60, 105), ("uniform", -5, 15), ("uniform", -110, -70), ("uniform", 60, 120)), 0.10),  # waving
    ((("uniform", 60, 95), ("uniform", -10, 10), ("normal", 0, 25), ("uniform", 0, 35)), 0.10),  # to the side
    ((("uniform", 0, 20), ("uniform", 45, 110), ("uniform", -10, 25), ("uniform", 0, 50)), 0.11),  # reaching
    ((("uniform", 8, 20), ("uniform", 10, 30), ("uniform", 25, 65), ("uniform", 85, 125)), 0.09),  # folded
)
# Ranges of the direction that a person faces, by cumulative share.
_YAWS = ((0.42, (0, 28)), (0.60, (28, 65)), (0.74, (65, 115)), (1.0, (115, 180)))


def _choose(rng: Rng, weighted: Any) -> Any:
    weights = np.array([weight for _, weight in weighted])
    return weighted[rng.choice(len(weighted), p=weights / weights.sum())][0]


def sample_pose(rng: Rng) -> Pose:
    """Sample a pose: legs and arms are sampled independently, for many combinations."""
    legs = _choose(rng, _LEG_POSES)
    pose = legs(rng)
    if legs not in (_WALK, _RUN) or rng.random() < 0.25:
        same, first = rng.random() < 0.55, _choose(rng, _ARM_POSES)
        arms = (first, first if same else _choose(rng, _ARM_POSES))
        pose.arms = np.array([[_sample(rng, law) for law in arm] for arm in arms])
    if rng.random() < 0.5:  # both sides equally often
        pose.arms, pose.legs = pose.arms[::-1].copy(), pose.legs[::-1].copy()
    pose.arms[:, :3] += rng.normal(0, 4, (2, 3))
    pose.legs[:, :2] += rng.normal(0, 2, (2, 2))
    pose.arms[:, 1] += 0.8 * pose.lean  # arms hang by their weight when the torso leans
    pose.lean += rng.normal(0, 2)
    pose.sway, pose.twist = rng.normal(0, 4), rng.normal(0, 8)
    pose.head = rng.normal(0, (14, 7, 6))
    return pose


class Body:
    """A posed person as the camera sees it.

    `joints` maps a name to (x, y, z), the pelvis at the origin; beside the keypoints' names it has neck, head, and for
    each side hand and toe. `torso` and `head` are rotations (3, 3) to the camera.
    """

    def __init__(self, pose: Pose, size: SimpleNamespace, yaw: float, roll: float = 0.0, camera_pitch: float = 0.0):
        """yaw: 0 faces the viewer, 90 the image's right; roll: in the image plane; camera_pitch: it looks down."""
        self.size, self.seated = size, pose.seated
        pelvis = rotation(Z, roll) @ rotation(X, -camera_pitch) @ rotation(Y, yaw)
        self.torso = torso = pelvis @ rotation(Z, pose.sway) @ rotation(X, -pose.lean) @ rotation(Y, pose.twist)
        head_yaw, nod, tilt = pose.head
        # A neck makes up for half of a lean: people look ahead.
        self.head = torso @ rotation(X, 0.5 * pose.lean - nod) @ rotation(Y, head_yaw) @ rotation(Z, tilt)

        self.joints = at = {"neck": torso @ (-size.torso * DOWN)}
        at["head"] = at["neck"] + torso @ (-0.35 * size.neck * DOWN) + self.head @ (-0.65 * size.neck * DOWN)
        for side, outward, arm, leg in zip(SIDES, (1.0, -1.0), pose.arms, pose.legs, strict=True):
            upper, lower = _limb(torso, arm, outward, 1)
            at[f"{side}_shoulder"] = torso @ np.array([outward * size.shoulder, -0.93 * size.torso, 0.0])
            at[f"{side}_elbow"] = at[f"{side}_shoulder"] + size.upper_arm * (upper @ DOWN)
            at[f"{side}_wrist"] = at[f"{side}_elbow"] + size.forearm * (lower @ DOWN)
            at[f"{side}_hand"] = at[f"{side}_wrist"] + 0.045 * (lower @ DOWN)
            thigh, shank = _limb(pelvis, leg, outward, -1)
            at[f"{side}_hip"] = pelvis @ np.array([outward * size.hip, 0.0, 0.0])
            at[f"{side}_knee"] = at[f"{side}_hip"] + size.thigh * (thigh @ DOWN)
            at[f"{side}_ankle"] = at[f"{side}_knee"] + size.shank * (shank @ DOWN)
            foot = shank @ rotation(Y, outward * 12) @ (size.foot * FORWARD + 0.028 * DOWN)
            at[f"{side}_toe"] = at[f"{side}_ankle"] + foot
        at |= {name: self.on_head(direction) for name, direction in FACE_DIRECTIONS.items()}

    def on_head(self, direction: np.ndarray, reach: float = 1.0) -> Any:
        """Return the point (3,) where `direction` (3,), in the head's frame, meets the surface of the head."""
        up, turned = self.head @ -DOWN, self.head @ direction
        return self.joints["head"] + self.size.head * reach * (turned + (HEAD_ELONGATION - 1) * (turned @ up) * up)


def _limb(trunk: np.ndarray, angles: np.ndarray, outward: float, bends: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (3, 3) of both bones; bends: 1 to the front, -1 to the back."""
    away, front, inward, bend = angles
    upper = trunk @ rotation(Z, -outward * away) @ rotation(X, front) @ rotation(Y, -outward * inward)
    return upper, upper @ rotation(X, bends * bend)


def sample_body(rng: Rng) -> Body:
    """Sample pose, size and direction of one person."""
    pose, size, side, kind = sample_pose(rng), sample_size(rng), rng.choice([-1, 1]), rng.random()
    yaw = side * rng.uniform(*next(ends for share, ends in _YAWS if kind < share))
    return Body(pose, size, yaw, roll=rng.normal(0, 4), camera_pitch=rng.uniform(2, 16))
