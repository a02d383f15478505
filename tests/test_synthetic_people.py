"""The synthetic people: the same images in every run, and labels that agree with the pixels."""

import multiprocessing
import os
import signal
import time

import cv2
import numpy as np
import pytest
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES as KEYPOINT_NAMES
from pycocotools.coco import COCO

from querypose.errors import UserError
from querypose.synthetic import dataset, scene
from querypose.synthetic.articulated_person import AVERAGE_SIZE, Body, Pose, sample_appearance
from querypose.synthetic.dataset import write_synthetic_people
from querypose.synthetic.person_drawing import PART_IDS, SUPERSAMPLING, RenderedPerson
from querypose.synthetic.scene import render_image

INDEX = {name: i for i, name in enumerate(KEYPOINT_NAMES)}
SHAPE = (384, 448)
FORK = multiprocessing.get_context("fork")


def draw(yaw, pose=None, stature=150):
    look = sample_appearance(np.random.default_rng(0))
    look.skin, look.hair, look.shirt = np.array([[240.0, 205, 175], [110, 70, 36], [60, 90, 200]])
    look.hairstyle, look.back, look.legs, look.sleeves = "short", "plain", "trousers", "short"
    return RenderedPerson(Body(pose or Pose(), AVERAGE_SIZE, yaw), look, stature)


def seen(figure):
    return set(np.array(KEYPOINT_NAMES)[figure.self_visible()])


def keypoints_of(annotation):
    return np.array(annotation["keypoints"]).reshape(-1, 3)


def test_sides_are_the_persons_own_and_what_is_behind_is_hidden():
    front, back = draw(0), draw(180)
    for left, right in ((INDEX[n], INDEX[n.replace("left", "right")]) for n in KEYPOINT_NAMES if n.startswith("left")):
        assert front.keypoints[left, 0] > front.keypoints[right, 0]
        assert back.keypoints[left, 0] < back.keypoints[right, 0]
    # Who faces the image's right shows the right side; the nose leads.
    profile = draw(90)
    assert profile.keypoints[INDEX["nose"], 0] > profile.keypoints[INDEX["right_ear"], 0] + 5
    assert {"nose", "right_eye", "right_ear", "right_shoulder", "right_elbow", "right_knee"} <= seen(profile)
    assert not {"left_eye", "left_ear", "left_shoulder", "left_elbow", "left_hip"} & seen(profile)
    arm_behind = Pose(arms=np.array([[0, -35, 50, 60], [8, 0, 0, 10]]))
    assert {"left_wrist", "right_wrist"} & seen(draw(0, arm_behind)) == {"right_wrist"}
    assert {"left_wrist", "right_wrist"} <= seen(draw(180, arm_behind))


@pytest.mark.parametrize("yaw", [0, 20, -20])
def test_eyes_are_where_the_labels_say(yaw):
    figure = draw(yaw, stature=400)
    dark = (figure.color.astype(int).sum(axis=2) < 150) & (figure.parts == PART_IDS["head"])
    for side in ("left", "right"):
        x, y = figure.keypoints[INDEX[f"{side}_eye"]]
        rows, columns = np.mgrid[int(y) - 11 : int(y) + 12, int(x) - 11 : int(x) + 12]
        pupil = dark[rows, columns]
        assert pupil.sum() > 20
        assert (columns[pupil] + 0.5).mean() == pytest.approx(x, abs=1.5)
        assert (rows[pupil] + 0.5).mean() == pytest.approx(y, abs=1.5)


def test_labels_lie_in_image_and_box():
    for image, annotations in (render_image("test", index) for index in range(40)):
        height, width = image.shape[:2]
        for annotation in annotations:
            points = keypoints_of(annotation)
            labeled = points[:, 2] > 0
            assert set(points[:, 2]) <= {0, 1, 2} and (points[~labeled] == 0).all()
            assert annotation["num_keypoints"] == labeled.sum() >= 4
            place = points[labeled, :2] + 0.5
            assert (place >= 0).all() and (place < [width, height]).all()
            x, y, w, h = annotation["bbox"]
            assert 0 <= x and 0 <= y and x + w <= width and y + h <= height
            assert (place >= [x - 0.5, y - 0.5]).all() and (place <= [x + w + 0.5, y + h + 0.5]).all()
            assert 0.05 * w * h < annotation["area"] <= w * h


def annotate(figure, *places):
    """The annotations of copies of a figure at (column, row), from near to far."""
    persons = [scene.PlacedPerson(figure, column, row, SHAPE) for column, row in places]
    owner = scene.owners(persons, SHAPE)
    return [scene.annotate(person, number, owner) for number, person in enumerate(persons, start=1)]


def unlabeled(annotation):
    return set(np.array(KEYPOINT_NAMES)[keypoints_of(annotation)[:, 2] == 0])


def test_box_and_area_are_the_silhouettes_also_behind_another_person():
    figure = draw(0)
    (annotation,) = annotate(figure, (90, 30))
    points = np.argwhere(figure.silhouette)[:, ::-1]
    expected = [*(points.min(axis=0) + [90, 30]), *(np.ptp(points, axis=0) + 1)]
    assert annotation["bbox"] == (np.array(expected) / SUPERSAMPLING).tolist()
    assert annotation["area"] == len(points) / SUPERSAMPLING**2
    nose = (figure.keypoints[INDEX["nose"]] + [90, 30]) / SUPERSAMPLING
    np.testing.assert_allclose(annotation["keypoints"][:3], [*(nose - 0.5), 2], atol=0.01)
    in_front, behind = annotate(figure, (100, 20), (104, 16))
    assert set(keypoints_of(in_front)[:, 2]) == {2} and set(keypoints_of(behind)[:, 2]) == {1}
    assert behind["bbox"][2:] == in_front["bbox"][2:] and behind["area"] == in_front["area"]


def test_the_far_side_of_a_head_and_what_leaves_the_image_are_not_labeled():
    assert unlabeled(*annotate(draw(180), (100, 20))) == {"nose", "left_eye", "right_eye"}
    figure = draw(0)
    row = int(SHAPE[0] - figure.keypoints[INDEX["left_hip"], 1] - 20)  # the lower border runs below the hips
    (annotation,) = annotate(figure, (100, row))
    assert unlabeled(annotation) == {"left_knee", "right_knee", "left_ankle", "right_ankle"}
    assert annotation["bbox"][1] + annotation["bbox"][3] == SHAPE[0] / SUPERSAMPLING


def test_an_image_depends_on_its_number_alone():
    (image, annotations), _, (again, same) = (render_image("train", index, seed=1) for index in (7, 3, 7))
    assert np.array_equal(image, again) and annotations == same
    # those of VERSION 2: raise it when they change
    assert image.shape == (192, 208, 3) and annotations[0]["bbox"] == pytest.approx([102.5, 55, 51.5, 96], abs=0.5)
    boxes = [person["bbox"] for index in range(2) for person in render_image("val", index)[1]]
    first = [[53, 44, 89.5, 141], [49, 79, 74.5, 110], [130.5, 12.5, 46, 124.5]]
    np.testing.assert_allclose(boxes, [*first, [74, 25.5, 49.5, 82.5], [131.5, 68, 41, 89]], atol=0.5)
    np.testing.assert_allclose(annotations[0]["keypoints"][:6], [124.17, 70.88, 2, 126.96, 67.21, 2], atol=0.02)


def test_files_are_valid_coco_whatever_the_processes(tmp_path, monkeypatch):
    def write(name):
        json_file = write_synthetic_people(tmp_path / name, "val", 12, seed=3)
        paths = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file() and path.name[0] != ".")
        return json_file, [(path.relative_to(tmp_path / name), path.read_bytes()) for path in paths]

    json_file, content = write("one")
    coco, changed = COCO(json_file), os.stat(json_file).st_mtime_ns
    assert len(coco.imgs) == 12 and coco.loadCats(1)[0]["keypoints"] == list(KEYPOINT_NAMES) and len(content) == 13
    for image in coco.imgs.values():
        path = tmp_path / "one" / "val" / image["file_name"]
        assert cv2.imread(str(path)).shape[:2] == (image["height"], image["width"])
    assert write("one") == (json_file, content) and os.stat(json_file).st_mtime_ns == changed
    monkeypatch.setattr(dataset, "_IMAGES_PER_TASK", 1)
    assert write("many")[1] == content


def test_a_killed_run_leaves_nothing_half_done(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "_IMAGES_PER_TASK", 1)
    process = FORK.Process(target=write_synthetic_people, args=(tmp_path, "val", 2000))
    process.start()
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob(".val.partial-*/*.jpg"))) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "val").exists() and not list((tmp_path / "annotations").iterdir())
    # The lock went with the process, although workers of its pool may have outlived it.
    assert len(COCO(write_synthetic_people(tmp_path, "val", 3)).imgs) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [".val.lock", "annotations", "val"]


def test_workers_end_on_sigterm_whatever_the_program_does_on_it():
    ready, before = FORK.Event(), signal.signal(signal.SIGTERM, lambda *_: None)

    def work():
        dataset._start_worker()
        ready.set()
        time.sleep(30)

    process = FORK.Process(target=work)
    process.start()
    signal.signal(signal.SIGTERM, before)
    assert ready.wait(10)
    process.terminate()
    process.join(10)
    assert process.exitcode == -signal.SIGTERM


def test_of_three_processes_one_writes_and_the_others_wait(tmp_path, monkeypatch):
    write_split, log = dataset._write_split, tmp_path / "log"

    def logged(*args):
        with open(log, "a") as file:
            print("written", file=file)
        time.sleep(0.3)
        write_split(*args)

    monkeypatch.setattr(dataset, "_write_split", logged)
    processes = [FORK.Process(target=write_synthetic_people, args=(tmp_path / "people", "val", 3)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0] and log.read_text() == "written\n"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "people").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot write to"):
        write_synthetic_people(tmp_path / "people", "val", 3)
