"""Renders videos of synthetic people whose identities are known."""

from collections.abc import Iterator

import cv2
import numpy as np

from querypose.synthetic import scene
from querypose.synthetic.articulated_person import Body, Pose, Rng, sample_appearance, sample_size
from querypose.synthetic.person_drawing import SUPERSAMPLING, RenderedPerson

FRAME_RATE = 25.0


class _Walker:
    """A person who walks to and fro; lengths in pixels, times in seconds."""

    def __init__(self, rng: Rng, stature: float, middle: float, width: int, leaves: bool):
        self.size, self.look, self.stature = sample_size(rng), sample_appearance(rng), stature
        self.pace = 2 * np.pi / rng.uniform(5, 8)
        self.start, self.step = rng.uniform(0, 2 * np.pi, 2)
        self.middle, self.reach = middle, rng.uniform(0.2, 0.3) * width
        if leaves:  # for about a second
            self.reach = (width - middle + 0.1 * stature) / np.cos(0.4 * self.pace)
        self.stride, self.swing = rng.uniform(14, 24), rng.uniform(12, 28)

    def at(self, seconds: float, ground: float, light: float, shape: scene.Shape) -> scene.PlacedPerson:
        """The person at a time, its feet at the row `ground`; shape: of the supersampled scene."""
        turn, angle = self.start + self.pace * seconds, self.step + 5.0 * seconds
        swing, lift = np.sin(angle), np.cos(angle)
        legs = np.array([[2, s * self.stride, 0, 8 + 26 * max(0.0, c)] for s, c in ((swing, lift), (-swing, -lift))])
        arms = np.array([[7, -s * self.swing, 0, 22] for s in (swing, -swing)])
        yaw = 60 * np.tanh(3 * np.cos(turn))  # where it walks to; it faces the viewer as it turns
        body = Body(Pose(lean=3.0, arms=arms, legs=legs), self.size, yaw, camera_pitch=8.0)
        rendered = RenderedPerson(body, self.look, self.stature, light)
        hips = ground - (self.size.thigh + self.size.shank) * self.stature
        pelvis = np.array([self.middle + self.reach * np.sin(turn), hips])
        column, row = np.rint(pelvis * SUPERSAMPLING - rendered.middle[:2]).astype(int)
        return scene.PlacedPerson(rendered, int(column), int(row), shape)


def render_video(
    seed: int, num_frames: int, num_persons: int = 3, height: int = 192, width: int = 256
) -> Iterator[tuple[np.ndarray, scene.Annotations]]:
    """Yield the frames of a video, 25 per second, of persons who walk to and fro: they cross and hide
    each other, and the second leaves the image and returns.

    Yields an image (height, width, 3) uint8 RGB and a dict per person of which enough is inside the image, as of
    `render_scene`, with its `track_id`, 1 to `num_persons`, from near to far, and `visibility`, the share of its
    silhouette inside the image that no other person hides.
    """
    rng = np.random.default_rng(seed)
    shape = height * SUPERSAMPLING, width * SUPERSAMPLING
    background, light = scene.draw_background(rng, shape), float(rng.choice([-0.8, 0.8]))
    sizes, grounds = np.linspace(0.75, 0.6, num_persons) * height, np.linspace(0.95, 0.8, num_persons) * height
    middles = rng.permutation(np.linspace(0.25, 0.75, num_persons)) * width
    walkers = [_Walker(rng, *each, width, place == 1) for place, each in enumerate(zip(sizes, middles, strict=True))]
    for frame in range(num_frames):
        seconds = frame / FRAME_RATE
        placed = [walker.at(seconds, ground, light, shape) for walker, ground in zip(walkers, grounds, strict=True)]
        present = {number: person for number, person in enumerate(placed, start=1) if person.silhouette.any()}
        persons = list(present.values())
        canvas = background.copy()
        scene.draw_persons(canvas, persons)
        image = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
        image = scene.photograph(np.random.default_rng(seed), image, np.random.default_rng([seed, frame]))
        owner = scene.owners(persons, shape)
        annotations = []
        for place, (number, person) in enumerate(present.items(), start=1):
            if person.is_inside:
                seen = np.count_nonzero(person.silhouette & (owner[person.scene] == place))
                found = {"track_id": number, "visibility": seen / np.count_nonzero(person.silhouette)}
                annotations.append({**scene.annotate(person, place, owner), **found})
        yield image, annotations
