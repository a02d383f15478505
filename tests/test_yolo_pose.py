"""YOLO-pose data sets: the data set dicts of the persons that they were written from."""

import shutil
from pathlib import Path

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from querypose.atomic_io import whole_file
from querypose.data.coco_keypoints import check_keypoint_dataset, resolve_dataset
from querypose.data.dataset_check import check_dataset
from querypose.errors import UserError

NAMES = ["nose", "left_paw", "right_paw", "tail"]
SIZES = {"a.jpg": (64, 48), "b.png": (100, 80), "c.jpg": (32, 32)}
pytestmark = pytest.mark.usefixtures("own_data_sets")
PERSONS = [  # image, box, keypoints; c.jpg has none
    ("a.jpg", [8, 6, 32, 24], [10, 12, 2, 0, 0, 0, 32, 24, 1, 16, 6, 2]),
    ("b.png", [10, 20, 50, 40], [20, 24, 2, 30, 40, 2, 40, 48, 2, 50, 56, 1]),
    ("b.png", [0, 0, 100, 80], [25, 20, 1, 50, 40, 2, 0, 0, 0, 75, 60, 2]),
]


def write_yolo(folder, *, size=3, images="images/train", **description):
    """Write the data set; return data.yaml."""
    labels = folder / images.replace("images", "labels")
    (folder / images).mkdir(parents=True)
    labels.mkdir(parents=True, exist_ok=True)
    for name, (width, height) in SIZES.items():
        Image.new("RGB", (width, height)).save(folder / images / name)
    for name, (x, y, w, h), keypoints in PERSONS:
        width, height = SIZES[name]
        numbers = [0, (x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
        for start in range(0, len(keypoints), 3):
            kx, ky, v = keypoints[start : start + 3]
            numbers += [kx / width, ky / height, v][:size]
        with open((labels / name).with_suffix(".txt"), "a") as file:
            file.write(" ".join(map(str, numbers)) + "\n\n")
    content = {"train": images, "kpt_shape": [4, size], "flip_idx": [0, 2, 1, 3], "names": {0: "dog"}}
    content |= {"kpt_names": {0: NAMES}, **description}
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def assert_persons(found, folder, images="images/train", visibility=lambda v: v):
    """The dicts are those of PERSONS, with Detectron2's half pixel."""
    assert [record["file_name"] for record in found] == [str(folder / images / name) for name in SIZES]
    assert [(record["width"], record["height"]) for record in found] == list(SIZES.values())
    persons = [(Path(record["file_name"]).name, person) for record in found for person in record["annotations"]]
    for (name, person), (image, box, keypoints) in zip(persons, PERSONS, strict=True):
        expected = [visibility(v) if i % 3 == 2 else v + 0.5 for i, v in enumerate(keypoints)]
        assert name == image and person["bbox"] == pytest.approx(box) and person["keypoints"] == pytest.approx(expected)


@pytest.mark.parametrize("size", [3, 2])
def test_fractions_become_pixels(tmp_path, size):
    name = f"{write_yolo(tmp_path, size=size)}@train"
    skeleton = check_keypoint_dataset(name)
    assert skeleton.keypoint_names == tuple(NAMES) and skeleton.flip_pairs == (("left_paw", "right_paw"),)
    assert MetadataCatalog.get(name).thing_classes == ["dog"]
    # without visibility, all keypoints but those at zero are visible
    assert_persons(DatasetCatalog.get(name), tmp_path, visibility=lambda v: v if size == 3 or not v else 2)


def test_what_other_programs_write(tmp_path):
    """Lists of images, Roboflow's paths, no flip indices, byte order marks."""
    path = write_yolo(
        tmp_path, images="train/images", train="../train/images", val="val.txt", path=None,
        flip_idx=[],
    )  # fmt: skip
    label = tmp_path / "train" / "labels" / "b.txt"
    label.write_bytes(b"\xef\xbb\xbf" + label.read_bytes())
    (tmp_path / "val.txt").write_bytes(b"\xef\xbb\xbf./train/images/b.png\r\n")
    assert_persons(DatasetCatalog.get(resolve_dataset(f"{path}@train")), tmp_path, "train/images")
    metadata = MetadataCatalog.get(resolve_dataset(f"{path}@val"))
    assert metadata.thing_classes == ["dog"] and metadata.keypoint_flip_map == (("left_paw", "right_paw"),)
    assert [len(record["annotations"]) for record in DatasetCatalog.get(f"{path}@val")] == [2]


@pytest.mark.parametrize("count", [17, 4])
def test_names_where_the_file_gives_none(tmp_path, count):
    path = write_yolo(tmp_path, kpt_names=None, flip_idx=None, kpt_shape=[count, 3])
    shutil.rmtree(tmp_path / "labels")
    names = MetadataCatalog.get(resolve_dataset(f"{path}@train")).keypoint_names
    assert names[0] == ("nose" if count == 17 else "keypoint_0") and len(names) == count


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kpt_shape": None}, "is not a YOLO-pose data set: it needs kpt_shape"),
        ({"kpt_shape": [5, 3], "flip_idx": None}, r"a\.txt, line 1: 17 numbers, but kpt_shape needs 20"),
        ({"kpt_shape": ["4", 3]}, "it needs kpt_shape"),
        *(({"flip_idx": bad}, "must exchange pairs of the indices 0 to 3") for bad in ([0, 2, 3, 1], 3, [0, 2, 1, 9])),
        *(({"kpt_names": bad}, "must be 4 names for the class 0") for bad in ({0: NAMES[:3]}, {1: NAMES}, [1] * 4, 3)),
        ({"path": ["x"], "train": "elsewhere"}, "names elsewhere for the split train, but there is no"),
        ({"train": "images/train/a.jpg"}, "a.jpg cannot be read.*save it as text"),
        ({"train": None}, "has no split train"),
        (b"1 " + b"0.5 " * 16, r"labels of the classes \[0, 1\]"),
        (b"dog 0.5", r"c\.txt, line 1"),
        (b"0" + b" 16" * 16, r"c\.txt, line 1: boxes and keypoints must be fractions"),
        (b"0" + b" nan" * 16, r"c\.txt, line 1: boxes and keypoints must be fractions"),
        (b"\xff\xfe0", r"c\.txt cannot be read.*save it as text in UTF-8"),
    ],
)
def test_what_cannot_be_used(tmp_path, change, words):
    labels = change if isinstance(change, bytes) else b""
    path = write_yolo(tmp_path, **({} if labels else change))
    (tmp_path / "labels" / "train" / "c.txt").write_bytes(labels)
    with pytest.raises(UserError, match=words):
        resolve_dataset(f"{path}@train")


def test_damaged_image_is_one_of_the_data_set(tmp_path):
    path = write_yolo(tmp_path)
    (tmp_path / "images" / "train" / "c.jpg").write_bytes(b"text")
    report = check_dataset(f"{path}@train")
    assert report.problems.keys() == {"unreadable"} and report.counts["images"] == 3


def test_processes_of_a_job_may_write_it_at_once(tmp_path, monkeypatch):
    with whole_file(tmp_path / "a.json") as file:
        file.write(b"this")
        with monkeypatch.context() as other:
            other.setattr("os.getpid", lambda: 1)
            with whole_file(tmp_path / "a.json") as second:
                second.write(b"other")
        assert (tmp_path / "a.json").read_text() == "other"
    assert (tmp_path / "a.json").read_text() == "this" and len(list(tmp_path.iterdir())) == 1
