"""Naming, finding, loading and checking keypoint data sets."""

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from PIL import Image
from tiny_model import tiny_config

from querypose import data
from querypose.data.coco_keypoints import annotation_file, check_keypoint_dataset
from querypose.data.dataset_check import check_dataset
from querypose.errors import UserError
from querypose.setup_config import setup_config
from querypose.skeleton import Skeleton

NAMES = ["head", "left_hand", "right_hand"]

pytestmark = pytest.mark.usefixtures("own_data_sets")


def content_of(**category):
    """Two images: one person with keypoints in the first, a crowd in the second."""
    person = {"image_id": 1, "category_id": 1, "bbox": [5.0, 2.0, 12.0, 20.0], "area": 90.0, "iscrowd": 0}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 32, "height": 24} for i in (1, 2)],
        "annotations": [
            {**person, "id": 7, "keypoints": [10, 5, 2, 14, 9, 1, 0, 0, 0], "num_keypoints": 2},
            {**person, "id": 8, "image_id": 2, "iscrowd": 1, "keypoints": [0] * 9, "num_keypoints": 0},
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]], **category}],
    }


def write(json_file, content=None, image_folder=None):
    image_folder = image_folder or json_file.parent
    for folder in (json_file.parent, image_folder):
        folder.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(content or content_of()))
    for i in (1, 2):
        Image.new("RGB", (32, 24)).save(image_folder / f"{i}.png")
    return str(json_file)


def config(train=(), test=()):
    return tiny_config("light", "DATASETS.TRAIN", tuple(train), "DATASETS.TEST", tuple(test))


def test_file_is_loaded_with_half_a_pixel_and_class_zero(tmp_path):
    name = f"{write(tmp_path / 'a.json')}@{tmp_path}"
    assert data.resolve_dataset(name) == name == data.resolve_dataset(name)
    first, second = DatasetCatalog.get(name)
    (person,) = first["annotations"]
    # unlabeled keypoints too: Detectron2's transforms set them to zero
    assert person["category_id"] == 0 and person["keypoints"] == [10.5, 5.5, 2, 14.5, 9.5, 1, 0.5, 0.5, 0]
    assert Path(first["file_name"]) == tmp_path / "1.png" and second["annotations"][0]["iscrowd"] == 1


@pytest.mark.parametrize(
    ("json_file", "folder"),
    [
        ("a.json", "."), ("a.json", "images"), ("a.json", "a"), ("annotations/a.json", "images"),
        ("person_keypoints_val.json", "val"), ("annotations/person_keypoints_val2017.json", "val2017"),
    ],
)  # fmt: skip
def test_images_are_found_in_the_usual_places(tmp_path, json_file, folder):
    file = write(tmp_path / json_file, image_folder=tmp_path / folder)
    data.resolve_dataset(file)
    assert Path(MetadataCatalog.get(file).image_root) == tmp_path / folder


def test_relative_paths_are_found_below_the_data_set_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write(tmp_path / "own" / "a.json", image_folder=tmp_path / "own" / "pictures")
    assert check_keypoint_dataset("own/a.json@own/pictures").keypoint_names == tuple(NAMES)
    assert Path(annotation_file("own/a.json")) == tmp_path / "own" / "a.json"


def test_other_categories_are_left_out_and_images_without_keypoints_if_demanded(tmp_path):
    content = content_of(id=18)
    content["categories"].insert(0, {"id": 3, "name": "dog"})
    content["annotations"][0]["category_id"] = 18
    content["annotations"][1].update(category_id=3, iscrowd=0, keypoints=[])
    file = write(tmp_path / "a.json", content)
    assert check_keypoint_dataset(file).num_keypoints == 3
    first, second = DatasetCatalog.get(file)
    assert [person["category_id"] for person in first["annotations"]] == [0] and second["annotations"] == []
    wanted = config().MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
    assert [d["image_id"] for d in get_detection_dataset_dicts([file], False, min_keypoints=wanted)] == [1]
    assert len(get_detection_dataset_dicts([file], False, min_keypoints=0)) == 2


def test_missing_files_end_with_a_reason(tmp_path):
    file = write(tmp_path / "a.json")
    (tmp_path / "2.png").unlink()
    (tmp_path / "2.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match="1 of the 2 images .* do not exist; the first is .*2.png"):
        check_keypoint_dataset(file)
    content = content_of()
    content["images"][1]["file_name"] = "a" * 300 + "\\.png"  # too long for the disk
    file = write(tmp_path / "b.json", content)
    with pytest.raises(UserError, match="1 of the 2 images .* do not exist"):
        check_keypoint_dataset(file)
    assert check_dataset(file).problems.keys() == {"missing"}
    DatasetCatalog.register("registered otherwise", list)
    with pytest.raises(UserError, match="'registered otherwise' needs the annotation file json_file of its metadata"):
        annotation_file("registered otherwise")
    # registered when Detectron2 was imported, with whatever root was set then
    if not Path(MetadataCatalog.get("keypoints_coco_2017_train").json_file).exists():
        with pytest.raises(UserError, match="person_keypoints_train2017.json.* DETECTRON2_DATASETS"):
            check_keypoint_dataset("keypoints_coco_2017_train")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *(({"keypoints": names}, "has the keypoints .*all must share one") for names in (NAMES[:2], NAMES[::-1])),
        ({"flip_pairs": [["head", "left_hand"]]}, "has the flip pairs .*'head', 'left_hand'.*all must share"),
        ({"name": "ape"}, r"has the class \['ape'\], the model and the other data sets \['person'\]"),
    ],
)
def test_data_sets_used_together_share_one_skeleton(tmp_path, change, reason):
    first = write(tmp_path / "a.json")
    content = content_of(skeleton=[], **change)
    for person in content["annotations"]:
        person["keypoints"] = person["keypoints"][: 3 * len(content["categories"][0]["keypoints"])]
    second = write(tmp_path / "b.json", content)
    data.check_datasets(config(train=[first], test=[first]))
    for cfg in (config(train=[first, second]), config(train=[first], test=[second])):
        with pytest.raises(UserError, match=reason):
            data.check_datasets(cfg)
    data.check_datasets(config(train=[first], test=[second]), test=False)


def test_skeleton_comes_from_training_data_or_config(tmp_path):
    file = write(tmp_path / "a.json")
    with pytest.raises(UserError, match="nothing to train on"):
        data.check_datasets(config(test=[file]))
    cfg = config(train=[file], test=["keypoints_coco_2017_val"])
    assert data.skeleton_of(cfg).keypoint_names == tuple(NAMES)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1, 0.2, 0.3]
    assert data.skeleton_of(cfg).sigmas == (0.1, 0.2, 0.3)
    assert data.skeleton_of(config(test=["keypoints_coco_2017_val"])).num_keypoints == 17
    cfg, names = config(), ["nose", "right_ear", "left_ear"]
    cfg.MODEL.QUERYPOSE.SKELETON.KEYPOINT_NAMES = names
    assert data.skeleton_of(cfg) == Skeleton(names, [("left_ear", "right_ear")], [], [0.026, 0.035, 0.035])


def test_a_file_that_denies_its_flip_pairs_is_not_flipped(tmp_path, messages):
    file = write(tmp_path / "a.json", content_of(flip_pairs=[]))
    config_file = tmp_path / "config.yaml"
    config_file.write_text(f"DATASETS:\n  TRAIN: ['{file}']\n  TEST: ['{file}']\n")
    cfg = setup_config(str(config_file), ["INPUT.CROP.ENABLED", "False"])
    data.check_datasets(cfg)
    assert data.skeleton_of(cfg).flip_pairs == ()
    assert len(data.PoseDatasetMapper(cfg, is_train=True).augmentations.augs) == 1
    assert "The names suggest flip pairs that the skeleton does not have: left_hand/right_hand" in messages()


@pytest.mark.parametrize("name", [None, 5, ""])
def test_category_whose_name_is_no_text(tmp_path, name):
    file = write(tmp_path / "a.json", content_of(name=name))
    check_keypoint_dataset(file)
    assert MetadataCatalog.get(file).thing_classes == [str(name or "person")]
    assert len(get_detection_dataset_dicts([file], min_keypoints=1)) == 1
