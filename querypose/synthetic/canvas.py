"""The canvas of one synthetic person: shapes with a dark rim, painted in color and into a map of parts at once.

Everything is drawn at twice the size of the final image (`SUPERSAMPLING`) and averaged down later.
Positions are continuous coordinates of that large canvas: the pixel in column i covers [i, i + 1].
"""

import cv2
import numpy as np

SUPERSAMPLING = 2

# Values of the part map. A prop (backpack, stool) hides the background but is no part of the person.
BACKGROUND, PROP = 0, 255

_HALF = np.linspace(-np.pi / 2, np.pi / 2, 8)
_SHIFT = 4  # fractional bits of OpenCV's polygon coordinates


def _directions(angles):
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


_CIRCLE = _directions(np.linspace(0, 2 * np.pi, 24, endpoint=False))


class PersonCanvas:
    """Color image and part map of one person; light: -1 from the left, 1 from the right."""

    def __init__(self, height, width, light):
        self.color = np.zeros((height, width, 3), np.uint8)
        self.parts = np.zeros((height, width), np.uint8)
        self.light = light

    def polygon(self, points, color, part=None):
        points = np.rint((points - 0.5) * (1 << _SHIFT)).astype(np.int32)
        color = tuple(int(min(max(c, 0), 255)) for c in color)
        cv2.fillConvexPoly(self.color, points, color, cv2.LINE_8, _SHIFT)
        if part is not None:
            cv2.fillConvexPoly(self.parts, points, part, cv2.LINE_8, _SHIFT)

    def solid(self, outline, inner, color, part):
        """A closed shape with a dark rim: `outline` is the whole shape, `inner` the shape without its rim."""
        self.polygon(outline, 0.42 * color, part)
        self.polygon(inner, color)

    def limb(self, start, end, radius_start, radius_end, color, part, rim=1.6):
        start, end = start[:2], end[:2]
        inner = capsule(start, end, max(radius_start - rim, 0.5), max(radius_end - rim, 0.5))
        self.solid(capsule(start, end, radius_start, radius_end), inner, color, part)
        aside = np.array([0.34 * self.light, -0.12])
        lit = capsule(start + radius_start * aside, end + radius_end * aside, 0.38 * radius_start, 0.38 * radius_end)
        self.polygon(lit, np.minimum(color * 1.12 + 14, 255))

    def disc(self, center, radius, color, part=None, rim=1.4):
        outline = center[:2] + radius * _CIRCLE
        self.solid(outline, center[:2] + max(radius - rim, 0.5) * _CIRCLE, color, part)

    def hull(self, circles, color, part, rim=1.8):
        """The convex hull of circles ((x, y), radius)."""
        outline, inner = (
            np.concatenate([center[:2] + max(radius - inset, 0.5) * _CIRCLE for center, radius in circles])
            for inset in (0.0, rim)
        )
        outline, inner = (cv2.convexHull(ring.astype(np.float32))[:, 0] for ring in (outline, inner))
        self.solid(outline, inner, color, part)


def capsule(start: np.ndarray, end: np.ndarray, radius_start: float, radius_end: float) -> np.ndarray:
    """Return the outline (16, 2) of a tapered capsule between two circles."""
    along = end - start
    length = np.hypot(*along)
    if length <= abs(radius_start - radius_end) + 1e-6:
        center, radius = (start, radius_start) if radius_start > radius_end else (end, radius_end)
        return center + radius * _CIRCLE
    heading = np.arctan2(along[1], along[0])
    taper = np.arcsin((radius_end - radius_start) / length)
    far = heading + _HALF * (1 + 2 * taper / np.pi)
    near = heading + np.pi + _HALF * (1 - 2 * taper / np.pi)
    return np.concatenate([end + radius_end * _directions(far), start + radius_start * _directions(near)])
