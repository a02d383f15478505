"""Renders images of synthetic people: a background, one to five persons, objects in front, exact labels."""

import zlib
from functools import partial
from typing import Any

import cv2
import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES as KEYPOINT_NAMES

from querypose.synthetic.articulated_person import FACE_DIRECTIONS, Rng, sample_appearance, sample_body
from querypose.synthetic.person_drawing import BACKGROUND, SUPERSAMPLING, RenderedPerson

Annotations = list[dict[str, Any]]
Shape = tuple[int, int]

MIN_VISIBLE_SHARE = 0.38  # of a person's silhouette within the image

_HEIGHT, _WIDTHS = 192, (160, 192, 208, 224, 240, 256)
_PERSON_COUNTS = (0.34, 0.30, 0.20, 0.10, 0.06)  # shares of images with one person, two ...
_MAX_STATURES = (0.98, 0.95, 0.88, 0.76, 0.70)  # many people fit only when they are smaller
_ON_FACE = np.array([name in FACE_DIRECTIONS for name in KEYPOINT_NAMES])


class PlacedPerson:
    """A person whose canvas begins at (column, row) of the scene, in supersampled pixels, possibly negative.

    labeled: which keypoints (K,) are within the scene and not on the far side of the head, as COCO's annotators do.
    """

    def __init__(self, rendered: RenderedPerson, column: int, row: int, shape: Shape):
        self.rendered = rendered
        height, width = rendered.parts.shape
        ends = np.clip([[row, column], [row + height, column + width]], 0, shape)
        (self.top, self.left), (bottom, right) = ends.tolist()
        self.scene = np.s_[self.top : bottom, self.left : right]
        own = np.s_[self.top - row : bottom - row, self.left - column : right - column]
        self.color, self.silhouette = rendered.color[own], rendered.silhouette[own]
        self.drawn = rendered.parts[own] != BACKGROUND
        self.keypoints = rendered.keypoints + [column, row]
        inside = ((self.keypoints >= 0) & (self.keypoints < shape[::-1])).all(axis=1)
        self.labeled = inside & ~(rendered.behind & _ON_FACE)

    @property
    def is_inside(self) -> bool:
        """Whether enough of the person is within the scene to be annotated: 45% of the silhouette, four keypoints."""
        is_large = np.count_nonzero(self.silhouette) >= 0.45 * np.count_nonzero(self.rendered.silhouette)
        return bool(is_large and self.labeled.sum() >= 4)


def render_image(split: str, index: int, seed: int = 0) -> tuple[np.ndarray, Annotations]:
    """Render image `index` of a split, which depends on nothing but the three arguments.

    Returns an image (192, width, 3) uint8 RGB, and a dict per person, from near to far, as in COCO's files but
    without ids. `bbox` and `area` are of the silhouette within the image, hidden parts included. A keypoint's v is 1 if
    the person's own body, another person or an object hides it, 0 outside the image and on the far side of the head.
    """
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(split.encode()), index]))
    shape = _HEIGHT * SUPERSAMPLING, int(rng.choice(_WIDTHS)) * SUPERSAMPLING
    persons = _place_persons(rng, shape, light=rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 1.0))
    owner = owners(persons, shape)
    objects = _place_objects(rng, owner, persons)
    canvas = draw_background(rng, shape)
    draw_persons(canvas, persons)
    for draw, color in objects:
        draw(canvas, color)
    image = photograph(rng, canvas)
    return image, [annotate(person, number, owner) for number, person in enumerate(persons, start=1)]


def owners(persons: list[PlacedPerson], shape: Shape) -> np.ndarray:
    """The person, counted from 1, that each pixel of the scene shows; persons from near to far."""
    owner = np.zeros(shape, np.uint8)
    for number, person in reversed(list(enumerate(persons, start=1))):
        owner[person.scene][person.drawn] = number
    return owner


def draw_persons(canvas: np.ndarray, persons: list[PlacedPerson]) -> None:
    """Draw the persons, given from near to far, and their shadows."""
    for person in reversed(persons):
        _shadow(canvas, person)
    for person in reversed(persons):
        canvas[person.scene][person.drawn] = person.color[person.drawn]


def _place_persons(rng: Rng, shape: Shape, light: float) -> list[PlacedPerson]:
    """Place the persons from near to far, each where enough of it stays visible."""
    count = 1 + rng.choice(5, p=_PERSON_COUNTS)
    statures = np.sort(rng.uniform(0.42, _MAX_STATURES[count - 1], count))[::-1]
    if rng.random() < 0.07:
        statures[0] = rng.uniform(1.0, 1.35)
    taken = np.zeros(shape, bool)
    persons: list[PlacedPerson] = []
    for stature in statures:
        pixels = stature * shape[0] / SUPERSAMPLING
        while (person := _place_person(rng, pixels, light, taken)) is None and not persons:
            pixels *= 0.9  # the first person must fit, however narrow the image
        if person is not None:
            taken[person.scene] |= person.drawn
            persons.append(person)
    return persons


def _place_person(rng: Rng, stature: float, light: float, taken: np.ndarray) -> PlacedPerson | None:
    rendered, shape = RenderedPerson(sample_body(rng), sample_appearance(rng), stature, light), taken.shape
    height, width = rendered.parts.shape
    x, y, w, h = _box(rendered.silhouette)
    crossing, overlapping = rng.random() < 0.15, rng.random() < 0.4  # the border of the image; others
    best, best_share = None, MIN_VISIBLE_SHARE + 0.07
    for _ in range(8):
        if crossing:
            column = rng.integers(-width // 2, shape[1] - width // 2 + 1)
            row = rng.integers(-y, max(shape[0] - height // 2, 1 - y) + 1)
        else:  # inside, or beyond both borders if the person is larger than the image
            ends = (-x, shape[1] - x - w), (-y, shape[0] - y - h)
            column, row = (rng.integers(min(pair), max(pair) + 1) for pair in ends)
        person = PlacedPerson(rendered, int(column), int(row), (shape[0], shape[1]))
        if not person.is_inside:
            continue
        share = np.mean(~taken[person.scene][person.silhouette])
        if share >= best_share and (best is None or share > best_share):
            best, best_share = person, share
            if overlapping:
                break
    return best


def _box(mask: np.ndarray) -> Any:
    """Left, top, width and height of what is true."""
    return cv2.boundingRect(mask.astype(np.uint8))


def _place_objects(rng: Rng, owner: np.ndarray, persons: list[PlacedPerson]) -> list[tuple[Any, np.ndarray]]:
    """Choose objects in front of the persons that leave enough of each visible, and enter them into `owner`.

    Returns [(draw, color)], to call `draw(canvas, color)`.
    """
    height, width = owner.shape
    objects = []
    for _ in range(rng.integers(1, 3) if rng.random() <= 0.3 else 0):
        kind, color = rng.integers(4), rng.uniform(40, 220, 3)
        x, y = rng.uniform(0, width), rng.uniform(0.45, 1.0) * height
        size = rng.uniform(0.05, 0.16) * height
        if kind == 0:  # a crate or a table
            draw = partial(draw_box, (x, y, x + rng.uniform(1, 3) * size, height if rng.random() < 0.5 else y + size))
        elif kind == 1:  # a pole
            draw = partial(draw_box, (x, rng.uniform(0, 0.5) * height, x + 0.25 * size, height))
        elif kind == 2:  # a rail
            draw = partial(draw_box, (0, y, width, y + 0.35 * size))
        else:
            draw = partial(_bush, (x, y), size, rng.uniform(-1, 1, (5, 2)))
            color = color * [0.5, 0.8, 0.4]
        trial = owner.copy()
        draw(trial, 100)  # a number that no person has
        if all(np.mean(trial[p.scene][p.silhouette] == n) >= MIN_VISIBLE_SHARE for n, p in enumerate(persons, start=1)):
            owner[:] = trial
            objects.append((draw, color))
    return objects


def draw_box(edges: tuple[float, ...], target: np.ndarray, color: Any) -> None:
    """Draw a box of the given left, top, right and bottom, with a rim unless `target` is a map of owners."""
    left, top, right, bottom = (int(edge) for edge in edges)
    if target.ndim == 2:
        cv2.rectangle(target, (left, top), (right, bottom), color, -1)
    else:
        cv2.rectangle(target, (left, top), (right, bottom), tuple(0.45 * color), -1)
        cv2.rectangle(target, (left + 2, top + 2), (right - 2, bottom - 2), tuple(color), -1)


def _bush(place: tuple[float, float], size: float, leaves: np.ndarray, target: np.ndarray, color: Any) -> None:
    for index, center in enumerate((place + leaves * [size, 0.6 * size]).astype(int).tolist()):
        tone = color if target.ndim == 2 else tuple(color * (0.75 + 0.12 * index))
        cv2.circle(target, center, int(0.7 * size), tone, -1)


def draw_background(rng: Rng, shape: Shape) -> np.ndarray:
    """Return a background (h, w, 3) uint8: outdoors with a horizon, a room, or stripes and blobs."""
    height, width = shape
    low = (height // 16, width // 16)
    tones = rng.uniform(50, 235, (3, 1)) + rng.normal(0, 26, (3, 3))
    coarse = tones[0] + np.linspace(0, 1, low[0])[:, None, None] * (tones[1] - tones[0])
    kind, horizon = rng.integers(3), rng.uniform(0.4, 0.85)
    coarse = coarse + (rng.normal(0, rng.uniform(2, 14), low + (1,)) + rng.normal(0, 4, low + (3,)))
    canvas = np.asarray(cv2.resize(np.clip(coarse, 0, 255).astype(np.uint8), (width, height)))
    if kind == 2:
        _stripes_and_blobs(rng, canvas, tones[2])
        return canvas
    ground = np.clip(tones[2] + rng.normal(0, rng.uniform(2, 10), low + (1,)), 0, 255)
    edge = int(horizon * height)
    canvas[edge:] = cv2.resize(ground.astype(np.uint8), (width, height))[edge:]
    if kind == 1:  # a room with a skirting board
        cv2.rectangle(canvas, (0, edge - 5), (width, edge), tuple(0.6 * tones[2]), -1)
    for _ in range(rng.integers(0, 4)):  # houses, or windows and pictures
        x, wide, tall = rng.uniform((0, 0.06, 0.1), (1, 0.3, 0.6)) * (width, width, height)
        bottom = edge if kind == 0 else edge - rng.uniform(0.1, 0.3) * height
        draw_box((x, bottom - tall, x + wide, bottom), canvas, rng.uniform(50, 220, 3))
    if kind == 0 and rng.random() < 0.5:  # a tree
        x, size = rng.uniform(0, width), rng.uniform(0.06, 0.14) * height
        draw_box((x - 0.2 * size, edge - 3 * size, x + 0.2 * size, edge), canvas, np.array([110, 80, 55.0]))
        leaves, green = rng.uniform(-1, 1, (5, 2)), rng.uniform(50, 190, 3) * [0.5, 0.9, 0.5]
        _bush((x, edge - 3 * size), size, leaves, canvas, green)
    return canvas


def _stripes_and_blobs(rng: Rng, canvas: np.ndarray, tone: np.ndarray) -> None:
    height, width = canvas.shape[:2]
    if rng.random() < 0.5:
        step, horizontal = int(rng.uniform(12, 60)), rng.random() < 0.5
        for place in range(0, height if horizontal else width, 2 * step):
            start, end = ((0, place), (width, place)) if horizontal else ((place, 0), (place, height))
            cv2.line(canvas, start, end, tuple(tone), max(step // 4, 1))
    for _ in range(rng.integers(0, 9)):
        *center, wide, tall = rng.uniform((0, 0, 6, 6), (width, height, 60, 60)).astype(int).tolist()
        cv2.ellipse(canvas, center, (wide, tall), rng.uniform(0, 180), 0, 360, tuple(rng.uniform(40, 230, 3)), -1)


def _shadow(canvas: np.ndarray, person: PlacedPerson) -> None:
    """Darken the ground below the feet."""
    _, top, _, height = _box(person.silhouette)
    left, _, width, _ = _box(person.silhouette[max(top + height - 13, 0) :])
    x, across = person.left + left + (width - 1) // 2, (width - 1) // 2 + 8
    dark = np.zeros(canvas.shape[:2], np.uint8)
    cv2.ellipse(dark, (x, person.top + top + height - 1), (across, 7), 0, 0, 360, 1, -1)
    dark[:, x + across :] = 0  # images of this version lack the ellipse's last column
    canvas[dark > 0] = (0.62 * canvas[dark > 0]).astype(np.uint8)


def photograph(rng: Rng, canvas: np.ndarray, noise_rng: Rng | None = None) -> np.ndarray:
    """Average the canvas down and add what a camera does: exposure, uneven light, noise (of `noise_rng`, if given)."""
    size = canvas.shape[1] // SUPERSAMPLING, canvas.shape[0] // SUPERSAMPLING
    gain = rng.uniform(0.82, 1.12) * (1 + rng.normal(0, 0.03, 3))
    corners = cv2.resize(rng.uniform(0.88, 1.08, (2, 2)).astype(np.float32), size)
    photo = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA) * corners[..., None] * gain.astype(np.float32)
    noise = (noise_rng or rng).standard_normal(photo.shape, dtype=np.float32)
    return np.clip(photo + np.float32(rng.uniform(0.5, 5.0)) * noise, 0, 255).astype(np.uint8)


def annotate(person: PlacedPerson, number: int, owner: np.ndarray) -> dict[str, Any]:
    """The annotation of the person that has this number in `owner`."""
    box = np.array(_box(person.silhouette)) + [person.left, person.top, 0, 0]
    columns, rows = person.keypoints[person.labeled].astype(int).T
    visible = person.rendered.self_visible()[person.labeled] & (owner[rows, columns] == number)
    keypoints = np.zeros((len(KEYPOINT_NAMES), 3))
    keypoints[person.labeled, :2] = person.keypoints[person.labeled] / SUPERSAMPLING - 0.5
    keypoints[person.labeled, 2] = 1 + visible
    found = {"keypoints": keypoints.ravel().round(2).tolist(), "num_keypoints": int(person.labeled.sum())}
    area = np.count_nonzero(person.silhouette) / SUPERSAMPLING**2
    return {**found, "bbox": (box / SUPERSAMPLING).tolist(), "area": area, "iscrowd": 0, "category_id": 1}
