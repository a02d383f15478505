"""IDF1, MOTA and jitter on rendered videos of known identities, by hand: python tests/tracking_quality.py

Persons of which 38% or more are visible count, as in the data set; poses of the others are ignored. A pose is a
person's if their boxes have an IoU of 0.5 or more.
"""

import argparse
from pathlib import Path

import motmetrics
import numpy as np
import supervision as sv
import torch
from detectron2.structures import Boxes

from querypose import Persons, PosePredictor
from querypose.data.crowdpose import CROWDPOSE_SKELETON
from querypose.synthetic.scene import MIN_VISIBLE_SHARE
from querypose.synthetic.video import render_video
from querypose.tracking import LOW_SCORE, PoseTracker

ROOT = Path(__file__).resolve().parents[1]


def truth(annotations, skeleton, size) -> Persons:
    """The annotated persons as a perfect detector would find them."""
    boxes = torch.tensor([each["bbox"] for each in annotations], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    keypoints = torch.tensor([each["keypoints"] for each in annotations]).reshape(-1, skeleton.num_keypoints, 3)
    keypoints = torch.cat([keypoints[..., :2] + 0.5, (keypoints[..., 2:] > 0).float()], dim=2)
    fields = {"pred_boxes": Boxes(boxes), "pred_classes": torch.zeros(len(boxes), dtype=torch.int64)}
    return Persons(size, skeleton, **fields, scores=torch.full((len(boxes),), 0.9), pred_keypoints=keypoints)


def persons(*lefts, scores=None, noise=0.0) -> Persons:
    """Persons of 40 x 100 pixels whose boxes begin at these columns; all keypoints at the box's center."""
    points = [[left + 19.5, 99.5, 2] * CROWDPOSE_SKELETON.num_keypoints for left in lefts]
    people = [{"bbox": [left, 50, 40, 100], "keypoints": each} for left, each in zip(lefts, points, strict=True)]
    found = truth(people, CROWDPOSE_SKELETON, (200, 400))
    found.pred_keypoints[..., :2] += noise
    found.scores = torch.tensor(scores or found.scores.tolist())
    return found


def perfect(video, skeleton):
    """(image, annotations, `Persons`) of every frame, as of a detector that finds all persons who count."""
    for image, annotations in video:
        visible = [each for each in annotations if each["visibility"] >= MIN_VISIBLE_SHARE]
        yield image, annotations, truth(visible, skeleton, image.shape[:2])


def follow(frames, smooth=False, colors=True):
    """motmetrics' accumulator, the keypoints' distances to the truth, and their accelerations, in pixels.

    frames: (image, annotations, `Persons`) of one video.
    """
    tracker, accumulator = PoseTracker(smooth=smooth), motmetrics.MOTAccumulator(auto_id=True)
    errors, accelerations, past = [], [], {}
    for image, annotations, persons in frames:
        tracked = tracker.update(persons, image=image if colors else None)
        tracked = tracked[tracked.track_ids >= 0]
        known = truth(annotations, persons.skeleton, persons.image_size)
        overlap = np.zeros((len(known), len(tracked)))
        if overlap.size:
            overlap = sv.box_iou_batch(known.pred_boxes.tensor.numpy(), tracked.pred_boxes.tensor.numpy())
        distance = np.where(overlap >= 0.5, 1 - overlap, np.nan)
        counts = np.array([each["visibility"] >= MIN_VISIBLE_SHARE for each in annotations], dtype=bool)
        close = np.isfinite(distance)
        ignored = close[~counts].any(axis=0) & ~close[counts].any(axis=0)
        ids, true_ids = tracked.track_ids.numpy(), np.array([each["track_id"] for each in annotations])
        accumulator.update(true_ids[counts], ids[~ignored], distance[counts][:, ~ignored])
        before, past = past, {}
        for i, track_id in enumerate(ids.tolist()):
            points = tracked.pred_keypoints[i, :, :2].numpy()
            past[track_id] = [*before.get(track_id, [])[-2:], points]
            if len(past[track_id]) == 3:
                accelerations.append(np.linalg.norm(np.diff(past[track_id], n=2, axis=0)[0], axis=1).mean())
            if close[counts][:, i].any():
                person = known[int(np.nanargmin(distance[:, i]))].pred_keypoints[0].numpy()
                labeled = person[:, 2] > 0
                errors.append(np.linalg.norm(points - person[:, :2], axis=1)[labeled].mean())
    return accumulator, np.mean(errors), np.mean(accelerations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--frames", type=int, default=200, help="of each video")
    parser.add_argument("--first-seed", type=int, default=0, help="of the videos")
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = ROOT / "configs/quickstart.yaml", ROOT / "weights/quickstart.pth"
    predictor = PosePredictor(*files, device="cpu", precision="float32", score_threshold=LOW_SCORE)
    rendered = [render_video(args.first_seed + number, args.frames) for number in range(args.videos)]
    found = [[(image, each, predictor(image)) for image, each in video] for video in rendered]
    ideal = [list(perfect([frame[:2] for frame in video], predictor.skeleton)) for video in found]
    print("| persons of | IDF1 | MOTA | exchanged ids | error in pixels | acceleration in pixels per frame^2 |")
    print("|---|---|---|---|---|---|")
    for name, videos, options in (
        ("the renderer", ideal, {}),
        ("the model", found, {}),
        ("the model, without colors", found, {"colors": False}),
        ("the model, smoothed", found, {"smooth": True}),
    ):
        accumulators, errors, accelerations = zip(*(follow(video, **options) for video in videos), strict=True)
        summary = motmetrics.metrics.create().compute_many(
            accumulators, metrics=["idf1", "mota", "num_switches"], generate_overall=True
        )
        idf1, mota, switches = summary.loc["OVERALL"]
        columns = f"{idf1:.3f} | {mota:.3f} | {switches:.0f} | {np.mean(errors):.2f} | {np.mean(accelerations):.2f}"
        print(f"| {name} | {columns} |", flush=True)


if __name__ == "__main__":
    main()
