"""Renders a posed body as a person with clothes, hair and a face, together with a map of its parts."""

from dataclasses import dataclass

import numpy as np

from querypose.synthetic import articulated_person as person
from querypose.synthetic.appearance import Appearance
from querypose.synthetic.articulated_person import DOWN, FACE_DIRECTIONS, HEAD_ELONGATION, KEYPOINT_NAMES, SIDES, Body
from querypose.synthetic.canvas import BACKGROUND, PROP, SUPERSAMPLING, PersonCanvas, capsule

_PART_NAMES = ("torso", "pelvis", "skirt", "neck", "head", "hair") + tuple(
    f"{side}_{part}" for side in SIDES for part in ("ear", "upper_arm", "forearm", "hand", "thigh", "shank", "foot")
)
PART_IDS = {name: index + 1 for index, name in enumerate(_PART_NAMES)}

_PARTS_SHOWING = {
    "shoulder": ("torso", "{}_upper_arm"),
    "elbow": ("{}_upper_arm", "{}_forearm"),
    "wrist": ("{}_forearm", "{}_hand"),
    "hip": ("pelvis", "torso", "skirt", "{}_thigh"),
    "knee": ("{}_thigh", "{}_shank"),
    "ankle": ("{}_shank", "{}_foot"),
    "ear": ("{}_ear",),
    "eye": ("head",),
}
# A shoulder or hip this much farther than the body's axis (units of stature) is behind the body, though the
# pixel at its position shows the torso.
_BEHIND = {"shoulder": 0.072, "hip": 0.038}
# A facial feature is invisible where its direction points away from the viewer by more (a cosine):
# nose and ears stand out of the head, so a profile shows them.
_TURNED_AWAY = {"nose": -0.12, "eye": 0.08, "ear": -0.35}


@dataclass
class RenderedPerson:
    """One rendered person on its own canvas.

    color: (h, w, 3) uint8, RGB. parts: (h, w) uint8, values of `PART_IDS`, `PROP` or `BACKGROUND`.
    keypoints: (K, 2) continuous canvas coordinates in the order of `KEYPOINT_NAMES`. behind: (K,) bool, on
    the side of the body that is turned away. yaw: degrees, as in `pose_body`.
    """

    color: np.ndarray
    parts: np.ndarray
    keypoints: np.ndarray
    behind: np.ndarray
    yaw: float

    @property
    def silhouette(self) -> np.ndarray:
        """Pixels (h, w) of the person without the props."""
        return (self.parts != BACKGROUND) & (self.parts != PROP)

    def self_visible(self) -> np.ndarray:
        """Return for each keypoint (K,) whether the person's own body and props leave it visible."""
        rows, columns = np.floor(self.keypoints).astype(int).T[::-1]
        shown = self.parts[rows, columns]
        return _SHOWING[np.arange(len(KEYPOINT_NAMES)), shown] & ~self.behind


def _showing_table():
    table = np.zeros((len(KEYPOINT_NAMES), 256), bool)
    for index, name in enumerate(KEYPOINT_NAMES):
        side, _, joint = name.rpartition("_")
        for part in _PARTS_SHOWING.get(joint, ("head",)):
            table[index, PART_IDS[part.format(side)]] = True
    return table


_SHOWING = _showing_table()


def render_person(body: Body, look: Appearance, stature: float, light: float = 1.0) -> RenderedPerson:
    """Render a person and return its `RenderedPerson`.

    Args:
        body: the posed `Body`.
        look: the `Appearance`.
        stature: height of the upright person in pixels of the final image.
        light: -1 to 1, the side from which light falls.
    """
    scale = stature * SUPERSAMPLING
    points = np.array([body.joints[name] for name in body.joints]) * scale
    margin = 0.17 * scale
    low, high = points[:, :2].min(axis=0) - margin, points[:, :2].max(axis=0) + margin
    origin = np.append(np.floor(low), 0.0)
    width, height = np.ceil(high - origin[:2]).astype(int)
    canvas = PersonCanvas(height, width, light)
    at = dict(zip(body.joints, points - origin, strict=True))
    middle = -origin  # the pelvis, which is the origin of the body
    drawing = _PersonDrawing(canvas, body, look, scale, at, middle)
    for _, draw in sorted(drawing.steps(), key=lambda step: step[0]):
        draw()
    keypoints = np.array([at[name] for name in KEYPOINT_NAMES])
    behind = np.array([drawing.is_behind(name) for name in KEYPOINT_NAMES])
    return RenderedPerson(canvas.color, canvas.parts, keypoints[:, :2], behind, body.yaw)


class _PersonDrawing:
    """The shapes of one person, each with the depth by which they are ordered."""

    def __init__(self, canvas, body, look, scale, at, middle):
        self.canvas, self.body, self.look = canvas, body, look
        self.scale, self.at, self.middle = scale, at, middle
        self.girth = scale * body.proportions.girth

    def is_behind(self, name):
        joint = name.rpartition("_")[2]
        if name in FACE_DIRECTIONS:
            turned = (self.body.head @ FACE_DIRECTIONS[name])[2]
            return turned < _TURNED_AWAY[joint]
        if joint not in _BEHIND:
            return False
        axis = self.on_torso(0, 0.93 if joint == "shoulder" else 0.0, 0)[2]
        return self.at[name][2] < axis - _BEHIND[joint] * self.scale

    def on_torso(self, left, up, front):
        """Position of a point of the torso: `up` as a share of its length, the others in units of stature."""
        local = np.array([left, -up * self.body.proportions.torso, front])
        return self.middle + self.scale * (self.body.torso @ local)

    def steps(self):
        """Yield (depth, function that draws a shape): they are drawn from far to near."""
        facing = self.body.torso[2, 2]
        torso_depth = self.on_torso(0, 0.6, 0)[2]
        pelvis_depth = self.middle[2]
        near = 0.02 * self.scale
        yield torso_depth, self.torso
        yield pelvis_depth - near, self.pelvis
        yield torso_depth - 0.5 * near, self.neck
        if self.body.seated:
            yield pelvis_depth - 5 * near, self.stool
        if self.look.back != "plain":
            yield self.on_torso(0, 0.6, -0.075)[2] + near * np.sign(-facing), self.on_the_back
        head_depth = self.at["head"][2] + 0.5 * near
        yield head_depth, self.head
        if self.look.hairstyle == "long":
            facing_head = self.body.head[2, 2]
            behind_neck, before_all = min(head_depth, torso_depth - 0.5 * near), max(head_depth, torso_depth)
            hair_depth = behind_neck - near if facing_head > 0.15 else head_depth - 0.1 * near
            yield before_all + near if facing_head < -0.15 else hair_depth, self.long_hair
        skirt_depth = -np.inf
        for side in SIDES:
            at = self.at
            ear_is_far = self.is_behind(f"{side}_ear")
            yield head_depth + (-1 if ear_is_far else 1), lambda side=side: self.ear(side)
            shoulder, elbow, wrist = (at[f"{side}_{joint}"][2] for joint in ("shoulder", "elbow", "wrist"))
            yield (shoulder + elbow) / 2 + near, lambda side=side: self.upper_arm(side)
            yield (elbow + wrist) / 2 + 1.3 * near, lambda side=side: self.forearm(side)
            hip, knee, ankle = (at[f"{side}_{joint}"][2] for joint in ("hip", "knee", "ankle"))
            thigh_depth = (hip + knee) / 2 - 0.4 * near
            yield thigh_depth, lambda side=side: self.thigh(side)
            yield (knee + ankle) / 2 - 0.6 * near, lambda side=side: self.shank(side)
            yield (ankle + at[f"{side}_toe"][2]) / 2 - 0.2 * near, lambda side=side: self.foot(side)
            skirt_depth = max(skirt_depth, thigh_depth)
        if self.look.legs == "skirt":
            yield max(skirt_depth, pelvis_depth - near) + 1, self.skirt

    def pelvis(self):
        circles = [(self.at[f"{side}_hip"], 0.056 * self.girth) for side in SIDES]
        circles.append((self.on_torso(0, 0.25, 0), 0.06 * self.girth))
        self.canvas.hull(circles, self.look.legwear, PART_IDS["pelvis"])

    def torso(self):
        body, canvas, look = self.body, self.canvas, self.look
        shoulder, hip = body.proportions.shoulder, body.proportions.hip
        circles = [(self.on_torso(s * (shoulder - 0.012), 0.90, 0), 0.037 * self.scale) for s in (-1, 1)]
        circles += [(self.on_torso(s * (hip + 0.004), 0.17, 0), 0.050 * self.girth) for s in (-1, 1)]
        circles += [(self.on_torso(0, 0.68, s * 0.012), 0.062 * self.girth) for s in (-1, 1)]
        canvas.hull(circles, look.shirt, PART_IDS["torso"])
        side = 0.05 * canvas.light
        lit = np.minimum(look.shirt * 1.1 + 10, 255)
        start, end = self.on_torso(0, 0.8, 0)[:2], self.on_torso(0, 0.22, 0)[:2]
        across = np.array([side * self.girth * 0.55, 0])
        canvas.polygon(capsule(start + across, end + across, 0.022 * self.girth, 0.02 * self.girth), lit)
        if body.torso[2, 2] > 0.25:
            self.shirt_front()

    def shirt_front(self):
        canvas, look = self.canvas, self.look
        depth = 0.042 * self.body.proportions.girth
        collar = [
            self.on_torso(x, y, depth * z)[:2] for x, y, z in ((-0.034, 0.99, 0.4), (0.034, 0.99, 0.4), (0, 0.80, 1))
        ]
        canvas.polygon(np.array(collar), 0.9 * look.skin)
        chest, hem = self.on_torso(0, 0.80, depth)[:2], self.on_torso(0, 0.12, depth)[:2]
        if look.front == "zip":
            canvas.polygon(capsule(chest, hem, 0.009 * self.scale, 0.009 * self.scale), look.trim)
        elif look.front == "buttons":
            for share in np.linspace(0.1, 0.9, 4):
                canvas.disc(chest + share * (hem - chest), 0.0125 * self.scale, look.trim, rim=0.8)
        elif look.front == "logo":
            corners = [
                self.on_torso(x, y, depth)[:2]
                for x, y in ((-0.045, 0.62), (0.045, 0.62), (0.045, 0.36), (-0.045, 0.36))
            ]
            canvas.polygon(np.array(corners), look.trim)

    def on_the_back(self):
        canvas, look = self.canvas, self.look
        if look.back == "backpack":
            circles = [(self.on_torso(x, y, -0.075), 0.035 * self.scale) for x in (-0.04, 0.04) for y in (0.35, 0.82)]
            canvas.hull(circles, look.trim, PROP)
            pocket = [(self.on_torso(x, 0.42, -0.11), 0.02 * self.scale) for x in (-0.03, 0.03)]
            if self.body.torso[2, 2] < 0:
                canvas.hull(pocket, 0.8 * look.trim, PROP)
        elif self.body.torso[2, 2] < 0.2:
            circles = [
                (self.on_torso(x, y, -0.05), 0.022 * self.scale) for x, y in ((-0.03, 0.92), (0.03, 0.92), (0, 0.72))
            ]
            canvas.hull(circles, 0.78 * look.shirt, PART_IDS["torso"])

    def neck(self):
        base, skin = self.on_torso(0, 0.93, 0), 0.9 * self.look.skin
        self.canvas.limb(base, self.at["head"], 0.034 * self.scale, 0.03 * self.scale, skin, PART_IDS["neck"])

    def stool(self):
        width, depth = 0.085 * self.scale, 0.3 * self.scale
        top, foot = self.middle[:2] + [0, 0.055 * self.scale], self.middle[:2] + [0, depth]
        box = np.array([top - [width, 0], top + [width, 0], foot + [width, 0], foot - [width, 0]])
        inner = box + 2.0 * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        self.canvas.solid(box, inner, 0.45 * self.look.trim + 60, PROP)

    def upper_arm(self, side):
        start, end = self.at[f"{side}_shoulder"], self.at[f"{side}_elbow"]
        look, part, girth = self.look, PART_IDS[f"{side}_upper_arm"], self.girth
        if look.sleeves != "long":
            self.canvas.limb(start, end, 0.033 * girth, 0.026 * girth, look.skin, part)
        if look.sleeves != "none":
            share = 0.6 if look.sleeves == "short" else 1.0
            self.canvas.limb(start, start + share * (end - start), 0.039 * girth, 0.032 * girth, look.shirt, part)

    def forearm(self, side):
        start, end, hand = (self.at[f"{side}_{joint}"] for joint in ("elbow", "wrist", "hand"))
        color = self.look.shirt if self.look.sleeves == "long" else self.look.skin
        self.canvas.limb(start, end, 0.028 * self.girth, 0.022 * self.girth, color, PART_IDS[f"{side}_forearm"])
        self.canvas.disc(end + 0.55 * (hand - end), 0.028 * self.scale, self.look.skin, PART_IDS[f"{side}_hand"])

    def thigh(self, side):
        start, end = self.at[f"{side}_hip"], self.at[f"{side}_knee"]
        look, part, girth = self.look, PART_IDS[f"{side}_thigh"], self.girth
        if look.legs != "trousers":
            self.canvas.limb(start, end, 0.048 * girth, 0.037 * girth, look.skin, part)
        if look.legs != "skirt":
            share = 1.0 if look.legs == "trousers" else 0.68
            self.canvas.limb(start, start + share * (end - start), 0.055 * girth, 0.042 * girth, look.legwear, part)

    def shank(self, side):
        color = self.look.legwear if self.look.legs == "trousers" else self.look.skin
        start, end = self.at[f"{side}_knee"], self.at[f"{side}_ankle"]
        self.canvas.limb(start, end, 0.04 * self.girth, 0.027 * self.girth, color, PART_IDS[f"{side}_shank"])

    def foot(self, side):
        start, end = self.at[f"{side}_ankle"], self.at[f"{side}_toe"]
        heel = start + np.array([0, 0.012 * self.scale, 0])
        self.canvas.limb(heel, end, 0.030 * self.scale, 0.025 * self.scale, self.look.shoes, PART_IDS[f"{side}_foot"])

    def skirt(self):
        circles = [(self.at[f"{side}_hip"], 0.056 * self.girth) for side in SIDES]
        for side in SIDES:
            hip, knee = self.at[f"{side}_hip"], self.at[f"{side}_knee"]
            circles.append((hip + 0.68 * (knee - hip), 0.06 * self.girth))
        self.canvas.hull(circles, self.look.legwear, PART_IDS["skirt"])

    def ear(self, side):
        place = self.at[f"{side}_ear"]
        self.canvas.disc(place, 0.021 * self.scale, 0.95 * self.look.skin, PART_IDS[f"{side}_ear"], rim=1.0)

    def long_hair(self):
        head, behind = self.at["head"], self.scale * (self.body.head @ (-0.035 * person.FORWARD))
        hanging = head + behind + self.scale * 0.1 * (self.body.head @ DOWN)
        radius = self.body.proportions.head * self.scale
        self.canvas.limb(head + behind, hanging, 1.0 * radius, 0.85 * radius, self.look.hair, PART_IDS["hair"])

    def head(self):
        """The head is a shaded ball, pixel by pixel: hair, eyes and mouth are regions of its surface."""
        canvas, look, turn = self.canvas, self.look, self.body.head
        center, radius = self.at["head"][:2], self.body.proportions.head * self.scale
        reach = int(np.ceil(radius * HEAD_ELONGATION)) + 2
        left, top = np.floor(center).astype(int) - reach
        window = np.s_[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
        offset = np.mgrid[top : top + 2 * reach + 1, left : left + 2 * reach + 1][::-1] + 0.5 - center[:, None, None]
        # The ball is stretched along the direction in which the top of the head is seen.
        up = (turn @ -DOWN)[:2]
        stretch = 1 - (1 - 1 / HEAD_ELONGATION) * (up @ up)
        up = up / max(np.hypot(*up), 1e-6)
        normal = (offset - up[:, None, None] * ((1 - stretch) * (up[0] * offset[0] + up[1] * offset[1]))) / radius
        square = (normal**2).sum(axis=0)
        inside = square <= 1
        normal = np.concatenate([normal, np.sqrt(np.clip(1 - square, 0, 1))[None]])
        local = np.einsum("ji,jhw->ihw", turn, normal)  # into the frame of the head: rows of the transpose

        color = np.empty(offset.shape[1:] + (3,))
        color[:] = look.skin
        part = np.where(inside, PART_IDS["head"], BACKGROUND).astype(np.uint8)

        def near(direction, degrees):
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
            hat = local[1] < -0.42
            color[hat] = look.hat
            color[near((0, -0.46, 0.89), 30) & (local[1] < -0.36)] = 0.7 * look.hat
            hair |= hat
        part[hair & inside] = PART_IDS["hair"]
        shade = 0.90 + 0.16 * (0.6 * canvas.light * normal[0] - 0.6 * normal[1])
        color *= shade[..., None]
        color[square > (1 - 1.5 / radius) ** 2] *= 0.5
        canvas.color[window][inside] = np.clip(color[inside], 0, 255).astype(np.uint8)
        canvas.parts[window][inside] = part[inside]
        self.nose(radius)

    def nose(self, radius):
        """The tip of the nose stands out of the ball, so that a profile has one."""
        turned = (self.body.head @ FACE_DIRECTIONS["nose"])[2]
        if -0.2 < turned < 0.75:
            tip = self.middle + self.scale * person.on_head(self.body, FACE_DIRECTIONS["nose"], 1.04)
            self.canvas.disc(tip, 0.19 * radius, 0.93 * self.look.skin, PART_IDS["head"], rim=1.0)
