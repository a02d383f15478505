"""Renders videos of synthetic people whose identities are known."""

from collections.abc import Iterator

import numpy as np

from querypose.synthetic import scene
from querypose.synthetic.articulated_person import Body, Pose, Rng, sample_appearance, sample_size
from querypose.synthetic.person_drawing import SUPERSAMPLING, RenderedPerson

HEIGHT, WIDTH, FRAME_RATE = 192, 256, 25.0
SHAPE = HEIGHT * SUPERSAMPLING, WIDTH * SUPERSAMPLING


class _Walker:
    """A person who walks to and fro; lengths in pixels, times in seconds."""

    def __init__(self, rng: Rng, stature: float, middle: float, ground: float, leaves: bool):
        self.size, self.look, self.stature = sample_size(rng), sample_appearance(rng), stature
        self.pace = 2 * np.pi / rng.uniform(5, 8)
        self.start, self.step = rng.uniform(0, 2 * np.pi, 2)
        self.middle, self.ground, self.reach = middle, ground, rng.uniform(0.2, 0.3) * WIDTH
        if leaves:  # for about a second
            self.reach = (WIDTH - middle + 0.1 * stature) / np.cos(0.4 * self.pace)
        self.stride, self.swing = rng.uniform(14, 24), rng.uniform(12, 28)

    def at(self, seconds: float, light: float) -> scene.PlacedPerson:
        turn, angle = self.start + self.pace * seconds, self.step + 5.0 * seconds
        swing, lift = np.sin(angle), np.cos(angle)
        legs = np.array([[2, s * self.stride, 0, 8 + 26 * max(0.0, c)] for s, c in ((swing, lift), (-swing, -lift))])
        arms = np.array([[7, -s * self.swing, 0, 22] for s in (swing, -swing)])
        yaw = 60 * np.tanh(3 * np.cos(turn))  # where it walks to; it faces the viewer as it turns
        body = Body(Pose(lean=3.0, arms=arms, legs=legs), self.size, yaw, camera_pitch=8.0)
        rendered = RenderedPerson(body, self.look, self.stature, light)
        hips = self.ground - (self.size.thigh + self.size.shank) * self.stature
        pelvis = np.array([self.middle + self.reach * np.sin(turn), hips])
        column, row = np.rint(pelvis * SUPERSAMPLING - rendered.middle[:2]).astype(int)
        return scene.PlacedPerson(rendered, int(column), int(row), SHAPE)


def render_video(seed: int, num_frames: int) -> Iterator[tuple[np.ndarray, scene.Annotations]]:
    """Yield the frames of a video, 25 per second, of three persons who walk to and fro: they cross and hide
    each other, and the second leaves the image and returns.

    Yields an image (192, 256, 3) uint8 RGB and a dict per person of which enough is inside the image, as of
    `render_image`, with its `track_id`, 1 to 3, from near to far, and `visibility`, the share of its silhouette inside
    the image that no other person hides.
    """
    rng = np.random.default_rng(seed)
    background, light = scene.draw_background(rng, SHAPE), float(rng.choice([-0.8, 0.8]))
    middles = rng.permutation(np.linspace(0.25, 0.75, 3)) * WIDTH
    sizes, grounds = np.linspace(0.75, 0.6, 3) * HEIGHT, np.linspace(0.95, 0.8, 3) * HEIGHT
    walkers = [_Walker(rng, sizes[i], middles[i], grounds[i], leaves=i == 1) for i in range(3)]
    for frame in range(num_frames):
        placed = [walker.at(frame / FRAME_RATE, light) for walker in walkers]
        persons = [person for person in placed if person.silhouette.any()]
        canvas = background.copy()
        scene.draw_persons(canvas, persons)
        image = scene.photograph(np.random.default_rng(seed), canvas, np.random.default_rng([seed, frame]))
        owner = scene.owners(persons, SHAPE)
        annotations = []
        for number, person in enumerate(persons, start=1):
            if person.is_inside:
                visible = float(np.mean(owner[person.scene][person.silhouette] == number))
                found = {"track_id": placed.index(person) + 1, "visibility": visible}
                annotations.append({**scene.annotate(person, number, owner), **found})
        yield image, annotations
