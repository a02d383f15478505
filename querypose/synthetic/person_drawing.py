"""Renders a posed body as a person with clothes, hair and a face, together with a map of its parts.

Everything is drawn at twice the size of the final image (`SUPERSAMPLING`) and averaged down later.
Positions are continuous coordinates of that large canvas: the pixel in column i covers [i, i + 1].
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES as KEYPOINT_NAMES

from querypose.synthetic.articulated_person import FACE_DIRECTIONS, HEAD_ELONGATION, SIDES, Body

SUPERSAMPLING = 2
# Values of the part map. A prop (backpack, stool) hides the background but is no part of the person.
BACKGROUND, PROP = 0, 255

_PART_NAMES = ("torso", "pelvis", "skirt", "neck", "head", "hair") + tuple(
    f"{side}_{part}" for side in SIDES for part in ("ear", "upper_arm", "forearm", "hand", "thigh", "shank", "foot")
)
PART_IDS = {name: index + 1 for index, name in enumerate(_PART_NAMES)}

_PARTS_SHOWING = {
    "shoulder": ("torso", "{}_upper_arm"), "elbow": ("{}_upper_arm", "{}_forearm"), "wrist": ("{}_forearm", "{}_hand"),
    "hip": ("pelvis", "torso", "skirt", "{}_thigh"), "knee": ("{}_thigh", "{}_shank"), "ankle": ("{}_shank", "{}_foot"),
    "ear": ("{}_ear",),
}  # fmt: skip
# A shoulder or hip this much farther than the body's axis at its height is behind the body, though the pixel at its
# position shows the torso: height as a share of the torso, distance in units of stature.
_BEHIND = {"shoulder": (0.93, 0.072), "hip": (0.0, 0.038)}
# A facial feature is invisible where its direction points away from the viewer by more (a cosine):
# nose and ears stand out of the head, so a profile shows them.
_TURNED_AWAY = {"nose": -0.12, "eye": 0.08, "ear": -0.35}


def _directions(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


_CIRCLE = _directions(np.linspace(0, 2 * np.pi, 24, endpoint=False))


def capsule(start: np.ndarray, end: np.ndarray, radius_start: float, radius_end: float) -> np.ndarray:
    """Return the outline (16, 2) of a tapered capsule between two circles."""
    start, end = start[:2], end[:2]
    along = end - start
    length = np.hypot(*along)
    if length <= abs(radius_start - radius_end) + 1e-6:
        center, radius = (start, radius_start) if radius_start > radius_end else (end, radius_end)
        return center + radius * _CIRCLE
    heading = np.arctan2(along[1], along[0])
    taper = np.arcsin((radius_end - radius_start) / length)
    half = np.linspace(-np.pi / 2, np.pi / 2, 8)
    far = heading + half * (1 + 2 * taper / np.pi)
    near = heading + np.pi + half * (1 - 2 * taper / np.pi)
    return np.concatenate([end + radius_end * _directions(far), start + radius_start * _directions(near)])


class RenderedPerson:
    """A posed body with its appearance on a canvas.

    color: (h, w, 3) uint8. parts: (h, w) uint8, values of `PART_IDS`, `PROP` or `BACKGROUND`. keypoints: (K, 2)
    continuous canvas coordinates in the order of `KEYPOINT_NAMES`. behind: (K,) bool, on the side turned away.
    """

    def __init__(self, body: Body, look: SimpleNamespace, stature: float, light: float = 1.0):
        """stature: in pixels of the final image, were the person upright; light: -1 from the left, 1 from the right."""
        self.body, self.look, self.scale, self.light = body, look, stature * SUPERSAMPLING, light
        self.girth, self.head_radius = self.scale * body.size.girth, self.scale * body.size.head
        points, margin = np.array(list(body.joints.values())) * self.scale, 0.17 * self.scale
        low, high = points[:, :2].min(axis=0) - margin, points[:, :2].max(axis=0) + margin
        origin = np.append(np.floor(low), 0.0)
        width, height = np.ceil(high - origin[:2]).astype(int)
        self.color, self.parts = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
        self.at = dict(zip(body.joints, points - origin, strict=True))
        self.middle = -origin  # the pelvis, which is the origin of the body
        self.keypoints = np.array([self.at[name][:2] for name in KEYPOINT_NAMES])
        self.behind = np.array([self.is_behind(name) for name in KEYPOINT_NAMES])
        for _, draw, *arguments in sorted(self.steps(), key=lambda step: step[0]):
            draw(*arguments)

    @property
    def silhouette(self) -> np.ndarray:
        """Pixels (h, w) of the person without the props."""
        return (self.parts != BACKGROUND) & (self.parts != PROP)

    def self_visible(self) -> np.ndarray:
        """Return for each keypoint (K,) whether the person's own body and props leave it visible."""
        columns, rows = np.floor(self.keypoints).astype(int).T
        shown = []
        for name, part in zip(KEYPOINT_NAMES, self.parts[rows, columns], strict=True):
            side, _, joint = name.rpartition("_")
            shown.append(part in [PART_IDS[each.format(side)] for each in _PARTS_SHOWING.get(joint, ("head",))])
        return ~self.behind & shown

    def polygon(self, points: np.ndarray, color: np.ndarray, part: int | None = None) -> None:
        points = np.rint((points[:, :2] - 0.5) * 16).astype(np.int32)
        rgb = tuple(int(min(max(c, 0), 255)) for c in color)
        cv2.fillConvexPoly(self.color, points, rgb, cv2.LINE_8, shift=4)
        if part is not None:
            cv2.fillConvexPoly(self.parts, points, part, cv2.LINE_8, shift=4)

    def solid(self, outline: np.ndarray, inner: np.ndarray, color: np.ndarray, part: int | None) -> None:
        """A closed shape with a dark rim: `outline` is the whole shape, `inner` the shape without its rim."""
        self.polygon(outline, 0.42 * color, part)
        self.polygon(inner, color)

    def limb(self, start: Any, end: Any, radius_start: float, radius_end: float, color: np.ndarray, part: int) -> None:
        inner = capsule(start, end, max(radius_start - 1.6, 0.5), max(radius_end - 1.6, 0.5))
        self.solid(capsule(start, end, radius_start, radius_end), inner, color, part)
        aside = np.array([0.34 * self.light, -0.12, 0.0])
        lit = capsule(start + radius_start * aside, end + radius_end * aside, 0.38 * radius_start, 0.38 * radius_end)
        self.polygon(lit, color * 1.12 + 14)

    def disc(self, center: Any, radius: float, color: Any, part: int | None = None, rim: float = 1.4) -> None:
        self.solid(center[:2] + radius * _CIRCLE, center[:2] + max(radius - rim, 0.5) * _CIRCLE, color, part)

    def hull(self, circles: list[tuple[Any, float]], color: np.ndarray, part: int) -> None:
        """The convex hull of circles (center, radius)."""
        rings = [[center[:2] + max(radius - rim, 0.5) * _CIRCLE for center, radius in circles] for rim in (0, 1.8)]
        outline, inner = (cv2.convexHull(np.concatenate(ring).astype(np.float32))[:, 0] for ring in rings)
        self.solid(outline, inner, color, part)

    def is_behind(self, name: str) -> bool:
        joint = name.rpartition("_")[2]
        if name in FACE_DIRECTIONS:
            return bool((self.body.head @ FACE_DIRECTIONS[name])[2] < _TURNED_AWAY[joint])
        height, distance = _BEHIND.get(joint, (0.0, np.inf))
        return bool(self.at[name][2] < self.on_torso(0, height, 0)[2] - distance * self.scale)

    def on_torso(self, left: float, up: float, front: float) -> Any:
        """Position of a point of the torso: `up` as a share of its length, the others in units of stature."""
        return self.middle + self.scale * (self.body.torso @ np.array([left, -up * self.body.size.torso, front]))

    def steps(self) -> Iterator[tuple[Any, ...]]:
        """Yield (depth, method that draws a shape, its arguments): they are drawn from far to near."""
        at, look, scale, girth = self.at, self.look, self.scale, self.girth
        torso_depth, pelvis_depth, near = self.on_torso(0, 0.6, 0)[2], self.middle[2], 0.02 * scale
        head_depth = at["head"][2] + 0.01 * scale
        hips = [(at[f"{side}_hip"], 0.056 * girth) for side in SIDES]
        seat = (self.on_torso(0, 0.25, 0), 0.06 * girth)
        yield torso_depth, self.torso
        yield pelvis_depth - near, self.hull, [*hips, seat], look.legwear, PART_IDS["pelvis"]
        neck = (self.on_torso(0, 0.93, 0), at["head"], 0.034 * scale, 0.03 * scale)
        yield torso_depth - 0.5 * near, self.limb, *neck, 0.9 * look.skin, PART_IDS["neck"]
        if self.body.seated:
            yield pelvis_depth - 5 * near, self.stool
        if look.back != "plain":
            yield self.on_torso(0, 0.6, -0.075)[2] + near * np.sign(-self.body.torso[2, 2]), self.on_the_back
        yield head_depth, self.head
        if look.hairstyle == "long":
            facing, depth = self.body.head[2, 2], head_depth - 0.1 * near
            if facing < -0.15:
                depth = max(head_depth, torso_depth) + near
            elif facing > 0.15:
                depth = min(head_depth, torso_depth - 0.5 * near) - near
            top, radius = at["head"] - scale * 0.035 * self.body.head[:, 2], self.head_radius
            hair = (top, top + scale * 0.1 * self.body.head[:, 1], radius, 0.85 * radius)
            yield depth, self.limb, *hair, look.hair, PART_IDS["hair"]
        for side in SIDES:
            ear = (at[f"{side}_ear"], 0.021 * scale, 0.95 * look.skin, PART_IDS[f"{side}_ear"], 1.0)
            yield head_depth + (-1 if self.is_behind(f"{side}_ear") else 1), self.disc, *ear
            for part, joints, forward, radii, color, share in self.limbs():
                start, end = (at[f"{side}_{joint}"] for joint in joints)
                depth = (start[2] + end[2]) / 2 + forward * near
                end = start + share * (end - start)
                yield depth, self.limb, start, end, *(girth * np.array(radii)), color, PART_IDS[f"{side}_{part}"]
                if part == "forearm":
                    hand = end + 0.55 * (at[f"{side}_hand"] - end)
                    yield depth, self.disc, hand, 0.028 * scale, look.skin, PART_IDS[f"{side}_hand"]
            ankle, toe = at[f"{side}_ankle"], at[f"{side}_toe"]
            foot = (ankle + np.array([0, 0.012 * scale, 0]), toe, 0.030 * scale, 0.025 * scale)
            yield (ankle[2] + toe[2]) / 2 - 0.2 * near, self.limb, *foot, look.shoes, PART_IDS[f"{side}_foot"]
        if look.legs == "skirt":
            thighs = [(at[f"{side}_hip"], at[f"{side}_knee"]) for side in SIDES]
            depth = max(*((hip[2] + knee[2]) / 2 - 0.4 * near for hip, knee in thighs), pelvis_depth - near) + 1
            hem = [(hip + 0.68 * (knee - hip), 0.06 * girth) for hip, knee in thighs]
            yield depth, self.hull, [*hips, *hem], look.legwear, PART_IDS["skirt"]

    def limbs(self) -> Iterator[tuple[Any, ...]]:
        """Yield part, joints, how far it is in front of their middle, radii, color, and the share that is drawn."""
        look, arm, thigh = self.look, ("shoulder", "elbow"), ("hip", "knee")
        sleeve = {"none": 0.0, "short": 0.6, "long": 1.0}[look.sleeves]
        leg = {"skirt": 0.0, "shorts": 0.68, "trousers": 1.0}[look.legs]
        if sleeve < 1:
            yield "upper_arm", arm, 1, (0.033, 0.026), look.skin, 1.0
        if sleeve > 0:
            yield "upper_arm", arm, 1, (0.039, 0.032), look.shirt, sleeve
        yield "forearm", ("elbow", "wrist"), 1.3, (0.028, 0.022), look.shirt if sleeve == 1 else look.skin, 1.0
        if leg < 1:
            yield "thigh", thigh, -0.4, (0.048, 0.037), look.skin, 1.0
        if leg > 0:
            yield "thigh", thigh, -0.4, (0.055, 0.042), look.legwear, leg
        yield "shank", ("knee", "ankle"), -0.6, (0.04, 0.027), look.legwear if leg == 1 else look.skin, 1.0

    def torso(self) -> None:
        look, shoulder, hip = self.look, self.body.size.shoulder, self.body.size.hip
        circles = [(self.on_torso(s * (shoulder - 0.012), 0.90, 0), 0.037 * self.scale) for s in (-1, 1)]
        circles += [(self.on_torso(s * (hip + 0.004), 0.17, 0), 0.050 * self.girth) for s in (-1, 1)]
        circles += [(self.on_torso(0, 0.68, s * 0.012), 0.062 * self.girth) for s in (-1, 1)]
        self.hull(circles, look.shirt, PART_IDS["torso"])
        lit = capsule(self.on_torso(0, 0.8, 0), self.on_torso(0, 0.22, 0), 0.022 * self.girth, 0.02 * self.girth)
        self.polygon(lit + [0.0275 * self.light * self.girth, 0], look.shirt * 1.1 + 10)
        if self.body.torso[2, 2] <= 0.25:
            return
        depth = 0.042 * self.body.size.girth  # the front of the shirt
        collar = [(-0.034, 0.99, depth * 0.4), (0.034, 0.99, depth * 0.4), (0, 0.80, depth)]
        self.polygon(np.array([self.on_torso(*corner) for corner in collar]), 0.9 * look.skin)
        chest, hem = self.on_torso(0, 0.80, depth), self.on_torso(0, 0.12, depth)
        if look.front == "zip":
            self.polygon(capsule(chest, hem, 0.009 * self.scale, 0.009 * self.scale), look.trim)
        elif look.front == "buttons":
            for button in np.linspace(0.9 * chest + 0.1 * hem, 0.1 * chest + 0.9 * hem, 4):
                self.disc(button, 0.0125 * self.scale, look.trim, rim=0.8)
        elif look.front == "logo":
            corners = ((-0.045, 0.62), (0.045, 0.62), (0.045, 0.36), (-0.045, 0.36))
            self.polygon(np.array([self.on_torso(x, y, depth) for x, y in corners]), look.trim)

    def on_the_back(self) -> None:
        look = self.look
        if look.back == "backpack":
            sack = [(self.on_torso(x, y, -0.075), 0.035 * self.scale) for x in (-0.04, 0.04) for y in (0.35, 0.82)]
            self.hull(sack, look.trim, PROP)
            if self.body.torso[2, 2] < 0:
                pocket = [(self.on_torso(x, 0.42, -0.11), 0.02 * self.scale) for x in (-0.03, 0.03)]
                self.hull(pocket, 0.8 * look.trim, PROP)
        elif self.body.torso[2, 2] < 0.2:
            corners = ((-0.03, 0.92), (0.03, 0.92), (0, 0.72))
            hood = [(self.on_torso(x, y, -0.05), 0.022 * self.scale) for x, y in corners]
            self.hull(hood, 0.78 * look.shirt, PART_IDS["torso"])

    def stool(self) -> None:
        box = self.middle[:2] + self.scale * np.array([(-0.085, 0.055), (0.085, 0.055), (0.085, 0.3), (-0.085, 0.3)])
        self.solid(box, box + [(2, 2), (-2, 2), (-2, -2), (2, -2)], 0.45 * self.look.trim + 60, PROP)

    def head(self) -> None:
        """The head is a shaded ball, pixel by pixel: hair, eyes and mouth are regions of its surface."""
        look, turn, center, radius = self.look, self.body.head, self.at["head"][:2], self.head_radius
        reach = int(np.ceil(radius * HEAD_ELONGATION)) + 2
        left, top = np.floor(center).astype(int) - reach
        window = np.s_[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
        offset = np.mgrid[window][::-1] + 0.5 - center[:, None, None]
        # The ball is stretched along the direction in which the top of the head is seen.
        up = -turn[:2, 1]
        stretch = 1 - (1 - 1 / HEAD_ELONGATION) * (up @ up)
        up = up / max(np.hypot(*up), 1e-6)
        normal = (offset - up[:, None, None] * (1 - stretch) * np.tensordot(up, offset, axes=1)) / radius
        square = (normal**2).sum(axis=0)
        inside = square <= 1
        normal = np.concatenate([normal, np.sqrt(np.clip(1 - square, 0, 1))[None]])
        local = np.einsum("ji,jhw->ihw", turn, normal)  # into the frame of the head: rows of the transpose

        color = np.tile(look.skin, offset.shape[1:] + (1,))

        def near(direction: Any, degrees: float) -> Any:
            direction = np.asarray(direction, float) / np.linalg.norm(direction)
            return np.tensordot(direction, local, axes=1) > np.cos(np.radians(degrees))

        color[near((0, 0.62, 0.80), 13) & (local[1] > 0.58)] = (176, 62, 62)
        for side in SIDES:
            eye = FACE_DIRECTIONS[f"{side}_eye"]
            color[near(eye, 14)] = (250, 250, 250)
            color[near(eye, 9.5)] = (28, 26, 30)
        color[near(FACE_DIRECTIONS["nose"], 11)] = look.skin * np.array([0.78, 0.66, 0.62])
        hair = near((0, -0.68, -0.73), 83) | near((0, 0.25, -1), 62)
        color[hair] = look.hair
        if look.hairstyle == "hat":
            color[local[1] < -0.42] = look.hat
            color[near((0, -0.46, 0.89), 30) & (local[1] < -0.36)] = 0.7 * look.hat
            hair |= local[1] < -0.42
        color *= 0.90 + 0.16 * (0.6 * self.light * normal[0] - 0.6 * normal[1])[..., None]
        color[square > (1 - 1.5 / radius) ** 2] *= 0.5
        self.color[window][inside] = np.clip(color[inside], 0, 255)
        self.parts[window][inside] = np.where(hair, PART_IDS["hair"], PART_IDS["head"])[inside]
        # The tip of the nose stands out of the ball, so that a profile has one.
        nose = FACE_DIRECTIONS["nose"]
        if -0.2 < (turn @ nose)[2] < 0.75:
            tip = self.middle + self.scale * self.body.on_head(nose, 1.04)
            self.disc(tip, 0.19 * radius, 0.93 * look.skin, PART_IDS["head"], rim=1.0)
