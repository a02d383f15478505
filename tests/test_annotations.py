"""Annotation files of other programs: what is repaired, what is ignored, and equal AP of both backends."""

import codecs
import copy
import json
import math
import runpy

import pytest
from detectron2.data import DatasetCatalog
from evaluation_data import COCO_BACKENDS, assert_same, ground_truth_of, results_near
from PIL import Image
from refusals import ROOT

from querypose.data.annotations import read_annotations
from querypose.data.coco_keypoints import check_keypoint_dataset, resolve_dataset
from querypose.data.dataset_check import check_dataset
from querypose.evaluation import evaluate_coco_results

TRUTH = ground_truth_of(num_images=4, num_persons=4, seed=5)
for _person in TRUTH["annotations"]:
    _person["area"] = 0.53 * _person["bbox"][2] * _person["bbox"][3]
RESULTS = results_near(TRUTH, noise=0.05)
EXPECTED = evaluate_coco_results(TRUTH, RESULTS, backend="pycocotools")


def each(what, **values):
    """Set values of every entry; a function gets the entry and its number."""

    def spoil(truth, results):
        for number, entry in enumerate(results if what == "results" else truth[what]):
            for key, value in values.items():
                entry[key] = value(entry, number) if callable(value) else value

    return spoil


def persons(**values):
    return each("annotations", **values)


def both(*spoilings):
    def spoil(truth, results):
        for one in spoilings:
            one(truth, results)

    return spoil


def image_ids(rename, in_annotations=None, in_results=None):
    return both(
        each("images", id=lambda entry, number: rename(entry["id"])),
        persons(image_id=lambda entry, number: (in_annotations or rename)(entry["image_id"])),
        each("results", image_id=lambda entry, number: (in_results or rename)(entry["image_id"])),
    )


def nested(entry, number):
    return [entry["keypoints"][i : i + 3] for i in range(0, 9, 3)]


def unlabeled(value):
    def blank(entry, number):
        points = nested(entry, number)
        return [v for point in points for v in (point if point[2] else [value, value, point[2]])]

    return persons(keypoints=blank)


def more_persons(key, *values):
    def spoil(truth, results):
        truth["annotations"] += [{**truth["annotations"][0], key: value} for value in values]

    return spoil


# None of these changes AP.
SPOILINGS = {
    "ids from 0": persons(id=lambda entry, number: number),
    "128-bit ids": persons(id=lambda entry, number: 0xDEADBEEFDEADBEEFDEADBEEF0000 + number),
    "ids as text": persons(id=lambda entry, number: f"{number:x}-4f2c"),
    **{f"every id {value}": persons(id=value) for value in (7, None)},
    "image ids from 0": image_ids(lambda i: i - 1),
    "image ids as text": image_ids(lambda i: f"img_{i}"),
    "large image ids": image_ids(lambda i: i + 2**70),
    "image ids as numbers and text": image_ids(lambda i: i, in_annotations=str, in_results=float),
    "category as text": both(
        each("categories", id="person-7"), persons(category_id="person-7"), each("results", category_id="person-7")
    ),
    **{f"area {str(value)[:8]}": persons(area=value) for value in (None, "1500.5", math.nan, 0.0, True, 10**400)},
    **{f"num_keypoints {value}": persons(num_keypoints=value) for value in (0, None, "17")},
    "iscrowd text": persons(iscrowd=lambda entry, number: str(entry["iscrowd"])),
    "iscrowd bool": persons(iscrowd=lambda entry, number: bool(entry["iscrowd"])),
    "iscrowd null": persons(iscrowd=lambda entry, number: entry["iscrowd"] or None),
    **{f"ignore {value!r}": persons(ignore=value) for value in (None, [], "", 0.0, False, math.nan)},
    "ignore instead of iscrowd": persons(ignore=lambda entry, number: entry["iscrowd"], iscrowd=0),
    "segmentation point": persons(segmentation=[[3, 4]]),
    "nested keypoints": persons(keypoints=nested),
    "nested results": each("results", keypoints=nested),
    **{f"{value} without label": unlabeled(value) for value in (None, math.nan)},
    "unknown images": more_persons("image_id", 999, "none"),
    "boxes without size": more_persons("bbox", [5, 5, 0, 0], [9, 9, -4, 8]),
    "results with more keys": each("results", id=0, area=-1, segmentation=[[]], file_name="a.jpg"),
}


@pytest.mark.parametrize("name", SPOILINGS)
def test_ap_does_not_change(name):
    truth, results = copy.deepcopy((TRUTH, RESULTS))
    SPOILINGS[name](truth, results)
    for backend in COCO_BACKENDS:
        assert_same(evaluate_coco_results(truth, results, backend=backend), EXPECTED)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_unicode_encodings(tmp_path, encoding):
    (tmp_path / "a.json").write_bytes(json.dumps(TRUTH).encode(encoding))
    assert len(read_annotations(tmp_path / "a.json").persons) == 16


def test_training_and_checks_follow_the_same_rules(tmp_path, messages):
    (tmp_path / "images").mkdir()
    for image in TRUTH["images"]:
        Image.new("RGB", (500, 500)).save(tmp_path / "images" / image["file_name"])
    truth = copy.deepcopy(TRUTH)
    names = "image ids as text/unknown images/boxes without size/area None/iscrowd text/segmentation point".split("/")
    both(*(SPOILINGS[name] for name in names))(truth, [])
    truth["images"].reverse()
    each("images", file_name=lambda image, number: f"images\\{image['file_name']}")(truth, [])
    (tmp_path / "data.json").write_text(json.dumps(truth))
    name = resolve_dataset(str(tmp_path / "data.json"))
    check_keypoint_dataset(name)
    records = DatasetCatalog.get(name)
    assert [record["image_id"] for record in records] == [f"img_{i}" for i in range(1, 5)]
    assert records[0]["file_name"] == str(tmp_path / "images" / "1.jpg")
    found = [person for record in records for person in record["annotations"]]
    assert len(found) == 16 and [person["iscrowd"] for person in found] == [int(i % 5 == 4) for i in range(16)]
    assert not any("segmentation" in person for person in found)
    # of 16 persons three are crowds (every fifth) and two unlabeled (every seventh)
    line = "13 of 20 persons used; left out: crowd 3, unknown image 2, box without size 2; without keypoints 2, "
    line += "which count for boxes only; repaired: iscrowd 16, area 16"
    report = check_dataset(name)
    assert line in report.summary and line in messages()
    assert [len(report.problems[kind]) for kind in ("unknown image", "box without size")] == [2, 2]


def test_photographs_of_an_export(tmp_path):
    """tools/overfit.py: ids as text, no area, no num_keypoints, two keypoints, another category, a byte order mark."""
    person = {"category_id": 1, "bbox": [9, 9, 90, 99], "keypoints": [20, 20, 2, 40, 80, 2]}
    content = {
        "images": [{"id": f"{i}", "file_name": f"{i}.png", "width": 200, "height": 150} for i in range(3)],
        "categories": [{"id": 1, "name": "hand", "keypoints": ["a", "b"]}, {"id": 2, "name": "dog"}],
        "annotations": [{**person, "image_id": f"{i}"} for i in (1, 1, 2, 2, 0)],
    }
    (tmp_path / "a.json").write_bytes(codecs.BOM_UTF8 + json.dumps(content).encode())
    write_subset = runpy.run_path(str(ROOT / "tools" / "overfit.py"))["write_subset"]
    file = read_annotations(write_subset(str(tmp_path / "a.json"), 2, tmp_path / "subset.json"))
    assert [image["id"] for image in file.images] == ["1", "2"] and len(file.persons) == 4
