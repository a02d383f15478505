"""The file for COCO's server, against the format that COCO publishes."""

import json
import zipfile

import numpy as np
import pytest
from pycocotools.coco import COCO

from querypose.errors import UserError
from querypose.evaluation import write_submission

NAME = "person_keypoints_test-dev2017_querypose_results"


def pose(image_id=5, score=0.5, **changes):
    keypoints = np.random.default_rng(0).uniform(0, 600, 51).tolist()
    return {"image_id": image_id, "category_id": 1, "keypoints": keypoints, "score": score, **changes}


def test_the_format(tmp_path):
    results = [pose(i, s / 100, bbox=[1.0, 2.0, 3.0, 4.0]) for i in (9, 5) for s in range(1, 31)]
    path = write_submission(results, tmp_path / "new", "test-dev2017", "querypose")
    assert path.name == f"{NAME}.zip"
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == [f"{NAME}.json"]
        poses = json.loads(file.read(f"{NAME}.json"))
    # what cocodataset.org/#format-results asks for keypoints, and nothing else
    for entry in poses:
        assert set(entry) == {"image_id", "category_id", "keypoints", "score"}
        assert type(entry["image_id"]) is int and entry["category_id"] == 1 and type(entry["score"]) is float
        assert len(entry["keypoints"]) == 51 and all(isinstance(value, float) for value in entry["keypoints"])
    assert np.abs(np.array(poses[0]["keypoints"]) - results[0]["keypoints"]).max() <= 0.005
    # the 20 best of each image, which is all that the server counts
    assert [entry["image_id"] for entry in poses] == [5] * 20 + [9] * 20
    assert [entry["score"] for entry in poses[:20]] == [s / 100 for s in range(30, 10, -1)]
    # COCO's own tool reads it
    annotations = COCO()
    annotations.dataset = {"images": [{"id": 5}, {"id": 9}], "categories": [{"id": 1}], "annotations": []}
    annotations.createIndex()
    assert len(annotations.loadRes(poses).anns) == 40


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä"])
def test_names_that_the_server_would_not_take(tmp_path, name):
    with pytest.raises(UserError, match="submission's name is"):
        write_submission([], tmp_path, "test-dev2017", name)
