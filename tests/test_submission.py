"""The file for COCO's server, against the format that COCO publishes."""

import json
import re
import zipfile

import numpy as np
import pytest
from pycocotools.coco import COCO

from querypose.errors import UserError
from querypose.evaluation import check_submission, write_submission

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
    check_submission(path, [5, 9])
    # COCO's own tool reads it
    annotations = COCO()
    annotations.dataset = {"images": [{"id": 5}, {"id": 9}], "categories": [{"id": 1}], "annotations": []}
    annotations.createIndex()
    assert len(annotations.loadRes(poses).anns) == 40


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä"])
def test_names_that_the_server_would_not_take(tmp_path, name):
    with pytest.raises(UserError, match="submission's name is"):
        write_submission([], tmp_path, "test-dev2017", name)


def archive(folder, poses, name=NAME, inside=None):
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as file:
        file.writestr(inside or f"{name}.json", json.dumps(poses))
    return folder / f"{name}.zip"


@pytest.mark.parametrize(
    ("poses", "reason"),
    [
        ({"a": 1}, "list of poses"),
        ([pose(bbox=[1, 2, 3, 4])], "pose 0 .* and no other"),
        ([pose(), {"image_id": 5}], "pose 1 .* must have the keys"),
        ([pose(image_id=6)], "image 6, which is not in the test set"),
        ([pose(image_id="5")], "image '5', which is not"),
        ([pose(category_id=0)], "category_id 0 instead of 1"),
        ([pose(keypoints=[1.0] * 50)], "needs 51 keypoint values"),
        ([pose(score=None)], "not finite numbers"),
        ([pose(score=float("nan"))], "not finite numbers"),
        ([pose()] * 21, "more than 20 poses of the image 5"),
    ],
)
def test_what_the_server_would_refuse(tmp_path, poses, reason):
    with pytest.raises(UserError, match=reason):
        check_submission(archive(tmp_path, poses), [5])


def test_wrong_names_and_files(tmp_path):
    with pytest.raises(UserError, match=re.escape("must be named person_keypoints_[split]_[algorithm]_results.zip")):
        check_submission(archive(tmp_path, [], name="results"), [5])
    with pytest.raises(UserError, match="alone, but has"):
        check_submission(archive(tmp_path, [], inside="results.json"), [5])
    (tmp_path / f"{NAME}.zip").write_text("no archive")
    with pytest.raises(UserError, match="cannot be read"):
        check_submission(tmp_path / f"{NAME}.zip", [5])
