"""The small model for photographs that comes with the repository."""

import json

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data

from querypose import PosePredictor
from querypose.evaluation.coco_results import evaluate_coco_results
from querypose.image_io import read_image_rgb


@pytest.fixture(scope="module")
def predictor():
    return PosePredictor(device="cpu")


def test_a_portrait(predictor):
    """matplotlib's photograph of Grace Hopper; positions read off by eye, in pixels of its 512 x 600."""
    persons = predictor(read_image_rgb(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    assert len(persons) == 1
    names = predictor.skeleton.keypoint_names
    found = dict(zip(names, persons.pred_keypoints[0].numpy(), strict=True))
    for name, position in {"nose": (266, 232), "left_eye": (305, 190), "right_eye": (228, 190)}.items():
        assert np.hypot(*(found[name][:2] - position)) < 20, name
    assert found["left_shoulder"][0] > found["right_shoulder"][0]
    assert found["nose"][2] > 0.5 > found["left_ankle"][2], "legs are not in the photograph"


@pytest.mark.slow
def test_photographs(predictor, shared_folder):
    """The first 60 of Mini-COCO's validation photographs; measured: keypoint AP 35, box AP 46."""
    folder = shared_folder / "data/coco_mini"
    truth = json.loads((folder / "person_keypoints_val.json").read_text())
    truth["images"] = truth["images"][:60]
    kept = {image["id"] for image in truth["images"]}
    truth["annotations"] = [person for person in truth["annotations"] if person["image_id"] in kept]
    every = PosePredictor(score_threshold=0.0, device="cpu")
    results = []
    for image, persons in zip(
        truth["images"], every([folder / "val" / image["file_name"] for image in truth["images"]]), strict=True
    ):
        results += persons.to_coco(image_id=image["id"])
    metrics = evaluate_coco_results(truth, results)
    assert metrics["keypoints"]["AP"] > 30 and metrics["bbox"]["AP"] > 40
