"""The small model for photographs that comes with the repository."""

import json

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data

from querypose import PosePredictor
from querypose.evaluation.coco_results import evaluate_coco_results


def test_a_portrait():
    """matplotlib's photograph of Grace Hopper; positions read off by eye, in pixels of its 512 x 600."""
    persons = PosePredictor(device="cpu")(get_sample_data("grace_hopper.jpg", asfileobj=False))
    assert len(persons) == 1
    found = dict(zip(persons.skeleton.keypoint_names, persons.pred_keypoints[0].numpy(), strict=True))
    for name, position in {"nose": (266, 232), "left_eye": (305, 190), "right_eye": (228, 190)}.items():
        assert np.hypot(*(found[name][:2] - position)) < 20, name
    assert found["left_shoulder"][0] > found["right_shoulder"][0]
    assert found["nose"][2] > 0.5 > found["left_ankle"][2], "legs are not in the photograph"


@pytest.mark.slow
def test_photographs(shared_folder):
    """The first 60 of Mini-COCO's validation photographs; measured: keypoint AP 35, box AP 46."""
    folder = shared_folder / "data/coco_mini"
    truth = json.loads((folder / "person_keypoints_val.json").read_text())
    images = truth["images"] = truth["images"][:60]
    kept = {image["id"] for image in images}
    truth["annotations"] = [person for person in truth["annotations"] if person["image_id"] in kept]
    found = PosePredictor(score_threshold=0.0, device="cpu")([folder / "val" / image["file_name"] for image in images])
    results = [persons.to_coco(image["id"]) for image, persons in zip(images, found, strict=True)]
    metrics = evaluate_coco_results(truth, sum(results, []))
    assert metrics["keypoints"]["AP"] > 30 and metrics["bbox"]["AP"] > 40
