"""The synthetic people: the same images in every run, and labels that agree with the pixels."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES as KEYPOINT_NAMES
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from querypose.data import builtin
from querypose.errors import UserError
from querypose.synthetic import dataset as synthetic_people
from querypose.synthetic import scene as synthetic_scene
from querypose.synthetic.appearance import Appearance
from querypose.synthetic.articulated_person import Pose, Proportions, pose_body, sample_body
from querypose.synthetic.canvas import SUPERSAMPLING
from querypose.synthetic.dataset import render_image, write_synthetic_people
from querypose.synthetic.person_drawing import PART_IDS, RenderedPerson

INDEX = {name: i for i, name in enumerate(KEYPOINT_NAMES)}
FORK = multiprocessing.get_context("fork")


def plain_look(**changes):
    look = Appearance.sample(np.random.default_rng(0))
    look.skin, look.hair, look.shirt = (
        np.array([240, 205, 175.0]),
        np.array([110, 70, 36.0]),
        np.array([60, 90, 200.0]),
    )
    look.hairstyle, look.back, look.legs, look.sleeves = "short", "plain", "trousers", "short"
    for name, value in changes.items():
        setattr(look, name, value)
    return look


def standing(yaw, stature=150, **changes):
    return RenderedPerson(pose_body(Pose(), Proportions(), yaw), plain_look(**changes), stature)


def seen(figure):
    return {name for name, visible in zip(KEYPOINT_NAMES, figure.self_visible(), strict=True) if visible}


def keypoints_of(annotation):
    return np.array(annotation["keypoints"]).reshape(-1, 3)


@pytest.fixture(scope="module")
def scenes():
    return [render_image("test", index) for index in range(60)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    return folder, write_synthetic_people(folder, "val", 24, seed=3)


# --- the figure ---


def test_joints_by_hand():
    size = Proportions()
    pose = Pose(arms=np.array([[0, 90, 0, 0], [90, 0, 0, 0]]), legs=np.array([[0, 90, 0, 90], [0, 0, 0, 0]]))
    at = pose_body(pose, size, yaw=0).joints
    # The left arm points to the viewer, the right arm to the image's left; a shank hangs from a level thigh.
    np.testing.assert_allclose(at["left_elbow"] - at["left_shoulder"], [0, 0, size.upper_arm], atol=1e-12)
    np.testing.assert_allclose(at["right_wrist"] - at["right_elbow"], [-size.forearm, 0, 0], atol=1e-12)
    np.testing.assert_allclose(at["left_knee"] - at["left_hip"], [0, 0, size.thigh], atol=1e-12)
    np.testing.assert_allclose(at["left_ankle"] - at["left_knee"], [0, size.shank, 0], atol=1e-12)
    np.testing.assert_allclose(at["left_shoulder"] - at["right_shoulder"], [2 * size.shoulder, 0, 0], atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_bones_keep_their_lengths_in_every_pose(seed):
    body = sample_body(np.random.default_rng(seed))
    for side in ("left", "right"):
        for start, end, bone in (
            ("shoulder", "elbow", "upper_arm"),
            ("elbow", "wrist", "forearm"),
            ("hip", "knee", "thigh"),
            ("knee", "ankle", "shank"),
        ):
            length = np.linalg.norm(body.joints[f"{side}_{end}"] - body.joints[f"{side}_{start}"])
            assert length == pytest.approx(getattr(body.proportions, bone))


def test_sides_are_the_persons_own():
    front, back = standing(0), standing(180)
    pairs = [(INDEX[n], INDEX[n.replace("left", "right")]) for n in KEYPOINT_NAMES if n.startswith("left")]
    for left, right in pairs:
        assert front.keypoints[left, 0] > front.keypoints[right, 0]
        assert back.keypoints[left, 0] < back.keypoints[right, 0]
    # Who faces the image's right shows the right side; the nose leads.
    profile = standing(90)
    nose, ear = profile.keypoints[INDEX["nose"]], profile.keypoints[INDEX["right_ear"]]
    assert nose[0] > ear[0] + 5
    assert {"nose", "right_eye", "right_ear", "right_shoulder", "right_elbow", "right_knee"} <= seen(profile)
    assert not {"left_eye", "left_ear", "left_shoulder", "left_elbow", "left_hip"} & seen(profile)


def test_an_arm_behind_the_body_is_hidden():
    pose = Pose(arms=np.array([[0, -35, 50, 60], [8, 0, 0, 10]]))
    figure = RenderedPerson(pose_body(pose, Proportions(), 0), plain_look(), 150)
    assert "left_wrist" not in seen(figure) and "right_wrist" in seen(figure)
    turned = RenderedPerson(pose_body(pose, Proportions(), 180), plain_look(), 150)
    assert {"left_wrist", "right_wrist"} <= seen(turned)


@pytest.mark.parametrize("yaw", [0, 20, -20])
def test_eyes_are_where_the_labels_say(yaw):
    figure = standing(yaw, stature=400)
    dark = (figure.color.astype(int).sum(axis=2) < 150) & (figure.parts == PART_IDS["head"])
    for side in ("left", "right"):
        x, y = figure.keypoints[INDEX[f"{side}_eye"]]
        rows, columns = np.mgrid[int(y) - 11 : int(y) + 12, int(x) - 11 : int(x) + 12]
        pupil = dark[rows, columns]
        assert pupil.sum() > 20
        assert (columns[pupil] + 0.5).mean() == pytest.approx(x, abs=1.5)
        assert (rows[pupil] + 0.5).mean() == pytest.approx(y, abs=1.5)


# --- the scene ---


def test_labels_lie_in_image_and_box(scenes):
    for image, annotations in scenes:
        height, width = image.shape[:2]
        for annotation in annotations:
            points = keypoints_of(annotation)
            labeled = points[:, 2] > 0
            assert set(points[:, 2]) <= {0, 1, 2}
            assert annotation["num_keypoints"] == labeled.sum() >= 4
            assert (points[~labeled] == 0).all()
            place = points[labeled, :2] + 0.5
            assert (place >= 0).all() and (place < [width, height]).all()
            x, y, w, h = annotation["bbox"]
            assert 0 <= x and 0 <= y and x + w <= width and y + h <= height
            assert (place >= [x - 0.5, y - 0.5]).all() and (place <= [x + w + 0.5, y + h + 0.5]).all()
            assert 0.05 * w * h < annotation["area"] <= w * h


def place(figure, column, row, shape):
    return synthetic_scene._Placed(figure, column, row, shape)


def owner_of(persons, shape):
    owner = np.zeros(shape, np.uint8)
    for number, person in reversed(list(enumerate(persons, start=1))):
        owner[person.scene][person.drawn] = number
    return owner


def test_box_and_area_are_the_silhouettes():
    shape, figure = (384, 448), standing(0)
    person = place(figure, 90, 30, shape)
    annotation = synthetic_scene._annotate(person, 1, owner_of([person], shape))
    points = cv2.findNonZero(figure.silhouette.astype(np.uint8))
    x, y, w, h = cv2.boundingRect(points)
    expected = np.array([x + 90, y + 30, w, h]) / SUPERSAMPLING
    assert annotation["bbox"] == expected.tolist()
    assert annotation["area"] == len(points) / SUPERSAMPLING**2
    nose = (figure.keypoints[INDEX["nose"]] + [90, 30]) / SUPERSAMPLING
    np.testing.assert_allclose(annotation["keypoints"][:3], [*(nose - 0.5), 2], atol=0.01)


def test_a_person_behind_another_is_hidden():
    shape, figure = (384, 448), standing(0)
    near, far = place(figure, 100, 20, shape), place(figure, 104, 16, shape)
    owner = owner_of([near, far], shape)
    in_front, behind = (synthetic_scene._annotate(p, n, owner) for n, p in enumerate([near, far], start=1))
    assert set(keypoints_of(in_front)[:, 2]) == {2}
    assert set(keypoints_of(behind)[:, 2]) == {1}
    # Hidden parts count in box and area.
    assert behind["bbox"][2:] == in_front["bbox"][2:] and behind["area"] == in_front["area"]


def test_the_far_side_of_a_head_is_not_labelled():
    shape, figure = (384, 448), standing(180)
    person = place(figure, 100, 20, shape)
    annotation = synthetic_scene._annotate(person, 1, owner_of([person], shape))
    unlabeled = {n for n, (_, _, v) in zip(KEYPOINT_NAMES, keypoints_of(annotation), strict=True) if v == 0}
    assert unlabeled == {"nose", "left_eye", "right_eye"}


def test_what_leaves_the_image_is_not_labelled():
    shape, figure = (384, 448), standing(0)
    hips = figure.keypoints[INDEX["left_hip"], 1]
    person = place(figure, 100, int(shape[0] - hips - 20), shape)  # the lower border runs below the hips
    annotation = synthetic_scene._annotate(person, 1, owner_of([person], shape))
    outside = {n for n, (_, _, v) in zip(KEYPOINT_NAMES, keypoints_of(annotation), strict=True) if v == 0}
    assert outside == {"left_knee", "right_knee", "left_ankle", "right_ankle"}
    assert annotation["bbox"][1] + annotation["bbox"][3] == shape[0] / SUPERSAMPLING


def test_enough_of_everybody_is_visible():
    shape = (384, 448)
    for seed in range(25):
        rng = np.random.default_rng(seed)
        persons = synthetic_scene._place_persons(rng, shape, 1.0)
        owner = owner_of(persons, shape)
        synthetic_scene._place_objects(rng, owner, persons)
        for number, person in enumerate(persons, start=1):
            assert ((owner[person.scene] == number) & person.silhouette).sum() >= 0.35 * person.silhouette.sum()


# --- the files ---

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
