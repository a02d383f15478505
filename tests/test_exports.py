"""Exports of CVAT, Label Studio and Roboflow: `tests/data/exports` has the files of each as the tool lays them out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from querypose.data.coco_keypoints import check_keypoint_dataset
from querypose.data.dataset_check import check_dataset
from querypose.errors import UserError

NAMES = ("nose", "left_hand", "right_hand")
KEYPOINTS = [[15.5, 9, 2, 28.25, 20, 1, 0, 0, 0], [55, 15, 2, 70, 33.5, 2, 44, 30, 2]]
BOXES = [[10, 6, 20, 30], [42, 12, 30, 42]]


@pytest.fixture
def exports(tmp_path, own_data_sets):
    """The samples with their images, of 80 x 60 pixels."""
    folder = tmp_path / "exports"
    shutil.copytree(Path(__file__).parent / "data" / "exports", folder)
    names = ["cvat/images/Train/a.png", "cvat/images/Train/b.png"]
    names += ["label_studio/images/3f1c8a02-a.png", "label_studio/images/9b77d410-b.png"]
    content = json.loads((folder / "roboflow/train/_annotations.coco.json").read_text())
    names += [f"roboflow/train/{image['file_name']}" for image in content["images"]]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60), (40 * number, 0, 0)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("file", "boxes", "visibilities"),
    [
        # CVAT's boxes are those of the keypoints
        ("cvat/annotations/person_keypoints_Train.json", [[15.5, 9, 12.75, 11], [44, 15, 26, 18.5]], {0, 1, 2}),
        ("roboflow/train/_annotations.coco.json", BOXES, {0, 1, 2}),
        ("label_studio/data.yaml@train", BOXES, {0, 2}),  # knows no hidden keypoints
    ],
)
def test_the_persons_of_an_export(exports, file, boxes, visibilities):
    name = str(exports / file)
    skeleton = check_keypoint_dataset(name)
    assert skeleton.keypoint_names == NAMES and skeleton.flip_pairs == (NAMES[1:],)
    assert MetadataCatalog.get(name).thing_classes == ["person"]
    first, empty = DatasetCatalog.get(name)
    assert not empty["annotations"] and len(first["annotations"]) == 2
    for person, box, expected in zip(first["annotations"], boxes, KEYPOINTS, strict=True):
        assert person["bbox"] == pytest.approx(box)
        found, wanted = (np.reshape(values, (-1, 3)) for values in (person["keypoints"], expected))
        labeled = wanted[:, 2] > 0
        assert set(found[:, 2]) <= visibilities and np.array_equal(found[:, 2] > 0, labeled)
        # Detectron2's pixels begin half a one later
        assert found[labeled, :2] == pytest.approx(wanted[labeled, :2] + 0.5)
    report = check_dataset(name)
    assert not report.problems and report.labeled == dict(zip(NAMES, (2, 2, 1), strict=True))


def test_label_studio_s_coco_export_has_no_persons_of_its_own(exports):
    with pytest.raises(UserError, match="merges the keypoints of all persons of an image; export 'YOLO with Images'"):
        check_keypoint_dataset(str(exports / "label_studio" / "result.json"))
