"""tools/prepare_crowdpose.py on small made-up files; test_any_skeleton.py has the official sample."""

import json
import re
import shutil

import pytest
from PIL import Image
from refusals import tool

from querypose.data.crowdpose import CROWDPOSE_NAMES, CROWDPOSE_SKELETON
from querypose.skeleton import Skeleton


@pytest.fixture
def official(tmp_path):
    """A folder as it is downloaded: json/ and images/, two images for each split."""
    (tmp_path / "json").mkdir()
    (tmp_path / "images").mkdir()
    for number, split in enumerate(("train", "val", "test")):
        images, annotations = [], []
        for i in (2 * number, 2 * number + 1):
            Image.new("RGB", (60, 40)).save(tmp_path / "images" / f"{i}.jpg")
            images.append({"file_name": f"{i}.jpg", "id": i, "width": 60, "height": 40, "crowdIndex": 0.1 * i})
            keypoints = [30, 20, 2] * 10 + [0, 0, 0] * 3 + [55, 20, 1]
            person = {"keypoints": keypoints, "num_keypoints": 10, "image_id": i, "bbox": [10, 5, 40, 30]}
            annotations.append({**person, "iscrowd": 0, "category_id": 1, "id": 100 + i})
        limbs = [[16, 14], [14, 12], [17, 15]]  # as in the official files: COCO's
        category = {"id": 1, "name": "person", "keypoints": list(CROWDPOSE_NAMES), "skeleton": limbs}
        content = {"images": images, "annotations": annotations, "categories": [category]}
        (tmp_path / "json" / f"crowdpose_{split}.json").write_text(json.dumps(content))
    return tmp_path


def change(official, split, edit):
    path = official / "json" / f"crowdpose_{split}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def prepare(official, *options):
    target = official / "prepared"
    folders = ["--annotations", official, "--images", official / "images", "--output", target]
    tool("prepare_crowdpose", *folders, *options)()
    return {path.stem.removeprefix("crowdpose_"): json.loads(path.read_text()) for path in target.glob("*/*.json")}


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_are_completed_and_the_input_stays(official, capsys):
    for unused in ("trainval", "val_subset"):
        (official / "json" / f"crowdpose_{unused}.json").write_text("{}")
    before = contents(official)
    files = prepare(official)
    assert before.items() <= contents(official).items() and sorted(files) == ["test", "train", "trainval", "val"]
    assert [image["id"] for image in files["trainval"]["images"]] == [0, 1, 2, 3]
    person = files["trainval"]["annotations"][3]
    assert person["area"] == pytest.approx(0.53 * 40 * 30) and person["id"] == 4 and person["num_keypoints"] == 10
    assert Skeleton.from_coco_category(files["val"]["categories"][0]) == CROWDPOSE_SKELETON
    assert (official / "prepared" / "images").resolve() == official / "images"
    out = capsys.readouterr().out
    assert "2 areas computed" in out and "skeletons (limbs) corrected" in out

    first = contents(official / "prepared")
    assert prepare(official) == files and contents(official / "prepared") == first


def test_what_is_repaired_and_left_out_is_counted(official, capsys):
    def bare(content):
        del content["annotations"][0]["num_keypoints"]
        content["annotations"][1].update(bbox=[1, 1, 0, 5])

    change(official, "test", bare)
    change(official, "train", lambda content: content["images"][0].update(width=40, height=60))
    (official / "json" / "crowdpose_val.json").unlink()
    (official / "images" / "1.jpg").unlink()
    files = prepare(official, "--allow-missing")
    (image,) = files["train"]["images"]
    assert sorted(files) == ["test", "train"] and (image["id"], image["width"], image["height"]) == (0, 60, 40)
    assert [person["image_id"] for person in files["train"]["annotations"]] == [0]
    assert [person["num_keypoints"] for person in files["test"]["annotations"]] == [10]
    out = capsys.readouterr().out
    assert "not written, because their files are missing: val, trainval" in out
    changed = "images whose width and height were swapped", "missing images left out", "persons left out: box without"
    assert all(f"    1 {what}" in out for what in changed)


def turned_by_exif_alone(content):
    # the persons fit into 40 x 60, and not into what a swap would make of it
    content["images"][0].update(width=40, height=60)
    content["annotations"][0]["keypoints"] = [20, 55, 2] + [20, 20, 2] * 13


def another_s_file(official):
    (official / "prepared" / "annotations").mkdir(parents=True)
    shutil.copy(official / "json" / "crowdpose_train.json", official / "prepared" / "annotations")


MISTAKES = [
    (lambda official: (official / "images" / "4.jpg").unlink(), "1 of the 2 images of .*test.json are missing"),
    (lambda official: (official / "images" / "4.jpg").write_text("?"), "4.jpg cannot be read"),
    (lambda official: change(official, "val", lambda c: c["images"][0].update(width=61)), "val.json is made for 61x40"),
    (lambda official: change(official, "val", turned_by_exif_alone), "no swap of width and height explains"),
    (lambda official: change(official, "train", lambda c: c["categories"][0]["keypoints"].sort()), "14 keypoints"),
    (lambda official: change(official, "val", lambda c: c["images"][0].update(file_name="1.jpg")), "both in"),
    (lambda official: shutil.rmtree(official / "images"), "no image folder"),
    (lambda official: [path.unlink() for path in (official / "json").iterdir()], r"no crowdpose_\(train\|val\|test\)"),
    (another_s_file, "exists with other content"),
]


@pytest.mark.parametrize(("damage", "reason"), MISTAKES)
def test_mistakes_end_with_a_sentence_and_nothing_written(official, capsys, damage, reason):
    damage(official)
    before = contents(official)
    with pytest.raises(SystemExit) as stopped:
        prepare(official)
    line = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and line.startswith("error: ") and re.search(reason, line), line
    assert contents(official) == before
