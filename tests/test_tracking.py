"""Identities over frames, and the One-Euro filter against closed forms."""

from types import SimpleNamespace

import motmetrics
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from trackers import OCSORTTracker
from tracking_quality import follow, perfect, persons

from querypose.data.crowdpose import CROWDPOSE_SKELETON
from querypose.pose_similarity import PoseSimilarity
from querypose.skeleton import Skeleton
from querypose.synthetic.video import render_video
from querypose.tracking import OneEuroFilter, PoseTracker


def last_ids(tracker, *lefts, frames=5, **options):
    """The ids in the last of some equal frames."""
    return [tracker.update(persons(*lefts, **options)).track_ids.tolist() for _ in range(frames)][-1]


@pytest.mark.parametrize("c", [1.0, 0.5])
def test_step_response(c):
    """At beta 0 the filter is the first-order low-pass: 1 - (1 - c a)^n after n steps."""
    low_pass = OneEuroFilter(min_cutoff=2.0, beta=0.0)
    low_pass(np.zeros((3, 2)), np.ones(3), 7.0)
    a = 1 / (1 + 1 / (2 * np.pi * 2.0 * 0.04))
    for n in range(1, 20):
        found = low_pass(np.ones((3, 2)), np.full(3, c), 7.0 + 0.04 * n)
        assert found == pytest.approx(np.full((3, 2), 1 - (1 - c * a) ** n))


def test_motion():
    lags = []
    for beta in (0.0, 1.0, 10.0):
        one_euro = OneEuroFilter(beta=beta)
        for n in range(200):
            found = one_euro(np.array([[float(n), 0.0]]), np.ones(1), 0.04 * n, scale=100.0)
        lags.append(199 - found[0, 0])
    # a ramp of one per frame lags 1 / a - 1 frames
    assert lags[0] == pytest.approx(1 / (2 * np.pi * 0.04), rel=1e-3) and lags[0] > lags[1] > lags[2]


@pytest.mark.parametrize("tracker", [None, OCSORTTracker()], ids=["ByteTrack", "another"])
def test_ids_follow_the_persons_whatever_their_order(tracker):
    tracker = PoseTracker(tracker)
    ids = [tracker.update(persons(10 + 2 * t, 300 - 2 * t)).track_ids.tolist() for t in range(5)]
    swapped = last_ids(tracker, 290, 20, frames=1)
    assert sorted(ids[-1]) == [1, 2] and swapped == ids[-1][::-1]
    late = last_ids(tracker, 290, 150, 20, scores=[0.9, 0.2, 0.9])
    assert late == [swapped[0], -1, swapped[1]], "a low score gets no id"


def test_ids_are_of_one_person_each_and_not_used_again_after_a_reset():
    tracker = PoseTracker()
    assert last_ids(tracker, 100, 102, scores=[0.9, 0.8]) == [1, -1]
    tracker.reset()
    assert last_ids(tracker, 100) == [2]


def test_similarity_against_the_closed_form():
    """A track last seen half a second ago at a limb color of 100."""
    tracker, image = PoseTracker(), np.full((200, 400, 3), 100, np.uint8)
    for t in range(3):
        tracker.update(persons(100), t / 10, image)
    tracker.update(persons(), 0.4, image)
    similarity = tracker._similarity
    image[:, :150], image[:, 150:] = 85, 130
    similarity.begin(persons(100, 160), image, 0.7)
    (track,) = tracker.tracker.tracks
    box = persons(100).pred_boxes.tensor.numpy()
    track.get_state_bbox = lambda: box[0]
    taller = box + [[0, -50, 0, 50]]
    assert similarity.compute(box, persons(160, 100).pred_boxes.tensor.numpy())[0] == pytest.approx(
        [np.exp(-((0.6 / 0.2 / 6) ** 2) / 2 - 30 / 30), np.exp(-15 / 30)]
    )
    similarity.begin(persons(100), None, 0.7)
    assert similarity.compute(box, taller)[0, 0] == pytest.approx(0.5 * np.exp(-((np.log(2) / 0.5 / 6) ** 2) / 2))
    assert similarity.compute(box, box)[0, 0] == 0.5, "without an image"


def test_colors_are_of_sure_limbs_of_persons_who_stand_alone():
    similarity, image = PoseSimilarity(), np.zeros((200, 400, 3), np.uint8)
    image[:, 110:130] = 90  # between the ends of a limb, not at them
    similarity.tracker = SimpleNamespace(tracks=[SimpleNamespace(tracker_id=7)])
    start, end = CROWDPOSE_SKELETON.limbs[0]
    person, unsure = persons(100), persons(100)
    person.pred_keypoints[0, start, 0], person.pred_keypoints[0, end, 0] = 100, 139
    unsure.pred_keypoints[..., 2] = 0.25
    for frame, (seen, shade) in enumerate([(person, image), (persons(100, 105), image + 50), (unsure, image + 50)]):
        similarity.begin(seen, shade, frame / 25)
        similarity.end(np.array([7, -1][: len(seen)]))
        assert similarity._looks[7].colors[0].tolist() == [90] * 3, frame


def test_colors_keep_ids_apart_where_places_cannot():
    """A rendered video in which persons cross and turn behind each other; IDF1 0.76 without colors."""
    skeleton = Skeleton.from_metadata(MetadataCatalog.get("keypoints_coco_2017_train"))
    accumulator, *_ = follow(perfect(render_video(0, num_frames=125), skeleton))
    assert motmetrics.metrics.create().compute(accumulator, metrics=["idf1"])["idf1"].item() > 0.95


@pytest.mark.parametrize(("gap", "same"), [(20, True), (80, False)])
def test_a_short_absence_keeps_the_id_and_a_long_one_does_not(gap, same):
    tracker = PoseTracker(max_gap=2.0)
    before = last_ids(tracker, 100)
    assert last_ids(tracker, frames=gap) == []
    assert (last_ids(tracker, 100) == before) == same


def test_smoothing_takes_jitter_away_and_leaves_the_input():
    rng = np.random.default_rng(0)
    tracker, found = PoseTracker(smooth=True), []
    for t in range(60):
        given = persons(100, noise=float(rng.normal(0, 2)))
        before = given.pred_keypoints.clone()
        found.append((before[0, 0, 0].item(), tracker.update(given, t / 25).pred_keypoints[0, 0, 0].item()))
        assert torch.equal(given.pred_keypoints, before)
    raw, smooth = np.abs(np.diff(np.array(found)[10:], n=2, axis=0)).mean(0)
    assert smooth < 0.3 * raw


def test_state_does_not_grow():
    tracker = PoseTracker(smooth=True, max_gap=0.4)
    sizes = []
    for t in range(600):  # a new person every 20 frames
        tracker.update(persons(60 * (t // 20 % 7)))
        sizes.append(len(tracker._filters) + len(tracker.tracker.tracks))
    assert tracker._last_id > 20 and max(sizes[300:]) <= max(sizes[:300]) <= 6
