"""Files of synthetic people: the same from every process, valid COCO, written whole and once, registered."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import cv2
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from querypose.data import builtin
from querypose.errors import UserError
from querypose.synthetic import dataset as synthetic_people
from querypose.synthetic.articulated_person import (
    KEYPOINT_NAMES,
)
from querypose.synthetic.dataset import render_image, write_synthetic_people

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    return folder, write_synthetic_people(folder, "val", 24, seed=3)


DIGEST = """
import hashlib
from querypose.synthetic.dataset import render_image
image, annotations = render_image("train", 7, seed=1)
print(hashlib.sha256(image.tobytes() + repr(annotations).encode()).hexdigest())
"""


def test_another_process_renders_the_same():
    render_image("train", 3, seed=1)  # images do not depend on those before
    image, annotations = render_image("train", 7, seed=1)
    own = hashlib.sha256(image.tobytes() + repr(annotations).encode()).hexdigest()
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    run = subprocess.run([sys.executable, "-c", DIGEST], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == own


def test_files_are_valid_coco(written):
    folder, json_file = written
    coco = COCO(json_file)
    assert len(coco.imgs) == 24 and coco.loadCats(1)[0]["keypoints"] == list(KEYPOINT_NAMES)
    for image in coco.imgs.values():
        assert cv2.imread(str(folder / "val" / image["file_name"])).shape[:2] == (
            image["height"],
            image["width"],
        )
    results = [
        {"image_id": a["image_id"], "category_id": 1, "score": 1.0, "keypoints": a["keypoints"]}
        for a in coco.anns.values()
    ]
    evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_many_processes_write_what_one_does(tmp_path, monkeypatch):
    def digest(folder):
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return [(path.relative_to(folder), path.read_bytes()) for path in paths]

    monkeypatch.setattr(synthetic_people, "_IMAGES_PER_TASK", 4)
    write_synthetic_people(tmp_path / "one", "val", 12)
    monkeypatch.setattr(synthetic_people, "_MIN_IMAGES_FOR_POOL", 2)
    write_synthetic_people(tmp_path / "many", "val", 12)
    assert digest(tmp_path / "one") == digest(tmp_path / "many") and len(digest(tmp_path / "one")) == 13


def test_a_set_is_written_once_and_anew_when_it_differs(written, monkeypatch):
    folder, json_file = written
    before = os.stat(json_file).st_mtime_ns
    write_synthetic_people(folder, "val", 24, seed=3)
    assert os.stat(json_file).st_mtime_ns == before
    monkeypatch.setattr(synthetic_people, "VERSION", synthetic_people.VERSION + 1)
    write_synthetic_people(folder, "val", 24, seed=3)
    assert os.stat(json_file).st_mtime_ns > before
    with open(json_file) as file:
        assert json.load(file)["info"]["synthetic_people"]["version"] == synthetic_people.VERSION


def test_a_killed_run_leaves_nothing_half_done(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_people, "_IMAGES_PER_TASK", 1)
    monkeypatch.setattr(synthetic_people, "_MIN_IMAGES_FOR_POOL", 2)
    process = FORK.Process(target=write_synthetic_people, args=(tmp_path, "val", 2000))
    process.start()
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob(".val.partial-*/*.jpg"))) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "val").exists()
    assert not list((tmp_path / "annotations").iterdir())
    # The lock went with the process, although workers of its pool may have outlived it.
    json_file = write_synthetic_people(tmp_path, "val", 3)
    assert len(COCO(json_file).imgs) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [".val.lock", "annotations", "val"]


def test_of_two_processes_one_writes_and_the_other_waits(tmp_path, monkeypatch):
    write_split = synthetic_people._write_split
    log = tmp_path / "log"

    def logged(*args):
        with open(log, "a") as file:
            file.write("written\n")
        time.sleep(0.3)
        write_split(*args)

    def ask(answers):
        answers.put(len(json.load(open(write_synthetic_people(tmp_path / "people", "val", 3)))["images"]))

    monkeypatch.setattr(synthetic_people, "_write_split", logged)
    answers = FORK.SimpleQueue()
    processes = [FORK.Process(target=ask, args=(answers,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [answers.get() for _ in processes] == [3, 3, 3]
    assert log.read_text() == "written\n"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "people").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        write_synthetic_people(tmp_path / "people", "val", 3)


# --- Detectron2 ---


@pytest.fixture
def registered(tmp_path, monkeypatch):
    names = [f"synthetic_people_{split}" for split in ("train", "val")]
    kept = {name: (DatasetCatalog[name], MetadataCatalog.pop(name)) for name in names}
    for name in names:
        DatasetCatalog.remove(name)
    monkeypatch.setattr(builtin, "SPLIT_SIZES", {"train": 4, "val": 3})
    builtin.register_synthetic_people(tmp_path)
    yield tmp_path
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        DatasetCatalog.register(name, kept[name][0])
        MetadataCatalog[name] = kept[name][1]


def test_registered_sets_are_rendered_when_they_are_loaded(registered):
    assert not any(registered.iterdir())  # registration renders nothing
    dicts = DatasetCatalog.get("synthetic_people_val")
    metadata = MetadataCatalog.get("synthetic_people_val")
    assert len(dicts) == 3 and os.path.isfile(metadata.json_file)
    assert all(os.path.isfile(record["file_name"]) for record in dicts)
    assert not os.path.exists(MetadataCatalog.get("synthetic_people_train").json_file)
    # the loader adds the half pixel that COCO's files leave out
    stored = COCO(metadata.json_file).loadAnns(1)[0]["keypoints"]
    loaded = dicts[0]["annotations"][0]["keypoints"]
    assert loaded[0] == stored[0] + 0.5 and loaded[2] == stored[2]
