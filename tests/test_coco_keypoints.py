"""Naming, finding, loading and checking keypoint data sets."""

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from PIL import Image
from tiny_model import tiny_config

from querypose.data import (
    PoseDatasetMapper,
    annotation_file,
    check_datasets,
    check_keypoint_dataset,
    register_all,
    register_coco_keypoints,
    resolve_dataset,
    skeleton_of,
)
from querypose.data.dataset_check import check_dataset
from querypose.errors import UserError
from querypose.setup_config import setup_config
from querypose.skeleton import Skeleton

NAMES = ["head", "left_hand", "right_hand"]

pytestmark = pytest.mark.usefixtures("own_data_sets")


def content_of():
    """Two images: one person with keypoints in the first, a crowd in the second."""
    person = {"image_id": 1, "category_id": 1, "bbox": [5.0, 2.0, 12.0, 20.0], "area": 90.0, "iscrowd": 0}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 32, "height": 24} for i in (1, 2)],
        "annotations": [
            {**person, "id": 7, "keypoints": [10, 5, 2, 14, 9, 1, 0, 0, 0], "num_keypoints": 2},
            {**person, "id": 8, "image_id": 2, "iscrowd": 1, "keypoints": [0] * 9, "num_keypoints": 0},
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}],
    }


def write(json_file, content, image_folder):
    for folder in (json_file.parent, image_folder):
        folder.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(content))
    for i in (1, 2):
        Image.new("RGB", (32, 24)).save(image_folder / f"{i}.png")
    return str(json_file)


def config(train=(), test=()):
    return tiny_config("light", "DATASETS.TRAIN", tuple(train), "DATASETS.TEST", tuple(test))


def test_file_is_loaded_with_half_a_pixel_and_class_zero(tmp_path):
    file = write(tmp_path / "a.json", content_of(), tmp_path)
    name = f"{file}@{tmp_path}"
    assert resolve_dataset(name) == name
    first, second = DatasetCatalog.get(name)
    (person,) = first["annotations"]
    assert person["category_id"] == 0
    # unlabeled keypoints too: Detectron2's transforms set them to zero
    assert person["keypoints"] == [10.5, 5.5, 2, 14.5, 9.5, 1, 0.5, 0.5, 0]
    assert Path(first["file_name"]) == tmp_path / "1.png"
    assert second["annotations"][0]["iscrowd"] == 1
    assert MetadataCatalog.get(name).thing_classes == ["person"]
    assert MetadataCatalog.get(name).evaluator_type == "coco"
    # a second load starts from the file again, not from what the first one changed
    assert DatasetCatalog.get(name)[0]["annotations"][0]["keypoints"] == person["keypoints"]


@pytest.mark.parametrize(
    ("json_file", "folder"),
    [
        ("a.json", "."),
        ("a.json", "images"),
        ("a.json", "a"),
        ("person_keypoints_val.json", "val"),
        ("person_keypoints_val.json", "person_keypoints_val"),
        ("annotations/person_keypoints_val2017.json", "val2017"),
        ("annotations/a.json", "images"),
    ],
)
def test_images_are_found_in_the_usual_places(tmp_path, json_file, folder):
    file = write(tmp_path / json_file, content_of(), tmp_path / folder)
    resolve_dataset(file)
    assert Path(MetadataCatalog.get(file).image_root) == tmp_path / folder


def test_relative_paths_are_found_below_the_data_set_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write(tmp_path / "own" / "a.json", content_of(), tmp_path / "own" / "pictures")
    name = "own/a.json@own/pictures"
    assert resolve_dataset(name) == name == resolve_dataset(name)
    assert check_keypoint_dataset(name).keypoint_names == tuple(NAMES)
    assert Path(annotation_file("own/a.json")) == tmp_path / "own" / "a.json"


def test_other_categories_are_left_out(tmp_path):
    content = content_of()
    content["categories"].insert(0, {"id": 3, "name": "dog"})
    content["categories"][1]["id"] = content["annotations"][0]["category_id"] = 18
    content["annotations"][1].update(category_id=3, iscrowd=0, keypoints=[])
    file = write(tmp_path / "a.json", content, tmp_path)
    assert check_keypoint_dataset(file).num_keypoints == 3
    first, second = DatasetCatalog.get(file)
    assert [person["category_id"] for person in first["annotations"]] == [0]
    assert second["annotations"] == []


def test_images_without_keypoints_are_left_out_of_training_only_on_demand(tmp_path):
    content = content_of()
    content["annotations"][1]["iscrowd"] = 0
    file = write(tmp_path / "a.json", content, tmp_path)
    cfg = config(train=[file])
    resolve_dataset(file)
    wanted = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
    assert [d["image_id"] for d in get_detection_dataset_dicts(cfg.DATASETS.TRAIN, min_keypoints=wanted)] == [1]
    assert len(get_detection_dataset_dicts(cfg.DATASETS.TRAIN, min_keypoints=0)) == 2


def test_missing_images_end_with_a_reason(tmp_path):
    file = write(tmp_path / "a.json", content_of(), tmp_path)
    (tmp_path / "2.png").unlink()
    (tmp_path / "2.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match="1 of the 2 images .* do not exist; the first is .*2.png"):
        check_keypoint_dataset(file)


def test_cocos_missing_file_is_named_with_the_root():
    # registered when Detectron2 was imported, with whatever root was set then
    path = MetadataCatalog.get("keypoints_coco_2017_train").json_file
    if Path(path).exists():
        pytest.skip("COCO is installed here")
    with pytest.raises(UserError, match="person_keypoints_train2017.json.* DETECTRON2_DATASETS"):
        check_keypoint_dataset("keypoints_coco_2017_train")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"keypoints": NAMES[:2]}, "has the keypoints .*all must share one skeleton"),
        ({"keypoints": NAMES[::-1]}, "has the keypoints .*all must share one skeleton"),
        ({"flip_pairs": [["head", "left_hand"]]}, "has the flip pairs .*'head', 'left_hand'.*all must share"),
        ({"name": "ape"}, r"has the class \['ape'\], the model and the other data sets \['person'\]"),
    ],
)
def test_data_sets_used_together_share_one_skeleton(tmp_path, change, reason):
    first = write(tmp_path / "a.json", content_of(), tmp_path)
    content = content_of()
    content["categories"][0] |= {"skeleton": [], **change}
    for person in content["annotations"]:
        person["keypoints"] = person["keypoints"][: 3 * len(content["categories"][0]["keypoints"])]
    second = write(tmp_path / "b.json", content, tmp_path)
    check_datasets(config(train=[first], test=[first]))
    for cfg in (config(train=[first, second]), config(train=[first], test=[second])):
        with pytest.raises(UserError, match=reason):
            check_datasets(cfg)
    check_datasets(config(train=[first], test=[second]), test=False)
    with pytest.raises(UserError, match="nothing to train on"):
        check_datasets(config(test=[first]))


def test_skeleton_comes_from_training_data_or_config(tmp_path):
    file = write(tmp_path / "a.json", content_of(), tmp_path)
    cfg = config(train=[file], test=["keypoints_coco_2017_val"])
    assert skeleton_of(cfg).keypoint_names == tuple(NAMES)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1, 0.2, 0.3]
    assert skeleton_of(cfg).sigmas == (0.1, 0.2, 0.3)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1]
    with pytest.raises(UserError, match="3 keypoints but 1 OKS sigmas"):
        skeleton_of(cfg)

    assert skeleton_of(config(test=["keypoints_coco_2017_val"])).num_keypoints == 17
    with pytest.raises(UserError, match="names no data set"):
        skeleton_of(config())
    cfg = config()
    cfg.MODEL.QUERYPOSE.SKELETON.KEYPOINT_NAMES = ["nose", "right_ear", "left_ear"]
    assert skeleton_of(cfg) == Skeleton(
        ("nose", "right_ear", "left_ear"), (("left_ear", "right_ear"),), (), (0.026, 0.035, 0.035)
    )


def test_a_file_that_denies_its_flip_pairs_is_not_flipped(tmp_path, messages):
    content = content_of()
    content["categories"][0]["flip_pairs"] = []
    file = write(tmp_path / "a.json", content, tmp_path)
    config_file = tmp_path / "config.yaml"
    config_file.write_text(f"DATASETS:\n  TRAIN: ['{file}']\n  TEST: ['{file}']\n")
    cfg = setup_config(str(config_file), ["INPUT.CROP.ENABLED", "False"])
    check_datasets(cfg)
    assert skeleton_of(cfg).flip_pairs == ()
    assert len(PoseDatasetMapper(cfg, is_train=True).augmentations.augs) == 1
    assert "The names suggest flip pairs that the skeleton does not have: left_hand/right_hand" in messages()


def test_registering_twice(tmp_path):
    register_all()
    names = DatasetCatalog.list()
    register_all()
    assert DatasetCatalog.list() == names
    assert "synthetic_people_train" in names
    file = write(tmp_path / "a.json", content_of(), tmp_path)
    register_coco_keypoints("own_people", file, tmp_path)
    with pytest.raises(UserError, match="registered already"):
        register_coco_keypoints("own_people", file, tmp_path)


def test_test_sets_without_annotations_take_a_given_skeleton(tmp_path):
    names = ["person", "bicycle"]
    content = {
        "images": content_of()["images"],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }
    file = write(tmp_path / "image_info.json", content, tmp_path)
    skeleton = Skeleton.from_coco_category(content_of()["categories"][0])
    register_coco_keypoints("own_test", file, tmp_path, skeleton)
    assert check_keypoint_dataset("own_test") == skeleton
    assert [record["annotations"] for record in DatasetCatalog.get("own_test")] == [[], []]
    assert MetadataCatalog.get("keypoints_coco_2017_test-dev").keypoint_names[0] == "nose"


@pytest.mark.parametrize(
    ("file", "num_keypoints", "num_images"),
    [("coco_mini/person_keypoints_val.json", 17, 235), ("crowdpose_mini/crowdpose_val_subset.json", 14, 36)],
)
def test_real_files(shared_folder, file, num_keypoints, num_images):
    name = str(shared_folder / "data" / file)
    assert check_keypoint_dataset(name).num_keypoints == num_keypoints
    assert len(DatasetCatalog.get(name)) == num_images


@pytest.mark.parametrize("name", [None, 5, ""])
def test_category_whose_name_is_no_text(tmp_path, name):
    content = content_of()
    content["categories"][0]["name"] = name
    file = write(tmp_path / "a.json", content, tmp_path)
    check_keypoint_dataset(file)
    assert MetadataCatalog.get(file).thing_classes == [str(name or "person")]
    assert len(get_detection_dataset_dicts([file], min_keypoints=1)) == 1


def test_file_name_that_is_too_long_for_the_disk(tmp_path):
    content = content_of()
    content["images"][1]["file_name"] = "a" * 300 + "\\.png"
    file = write(tmp_path / "a.json", content, tmp_path)
    with pytest.raises(UserError, match="1 of the 2 images .* do not exist"):
        check_keypoint_dataset(file)
    assert check_dataset(file, tmp_path, "a").problems.keys() == {"missing"}
