"""tools/visualize_results.py: errors of images in closed form, their order, the table and the images."""

import csv
import json
import math

import numpy as np
import pytest
from evaluation_data import ground_truth_of, one_person, results_near
from load_tool import load_tool
from PIL import Image

from querypose.errors import UserError
from querypose.evaluation.ground_truth import load_ground_truth
from querypose.evaluation.matching import ImageMatching, match_poses
from querypose.skeleton import SIDE_COLORS


def errors_of(content, results):
    return list(match_poses(load_ground_truth(content), results))


def numbers(error):
    return error.persons, error.found, error.false_positives, error.error


def test_error_in_closed_form():
    # sigma .05 and area 100^2: exp(-6^2 / (2 * 10^4 * .1^2))
    truth, (result,) = one_person(shift=6)
    oks = math.exp(-0.18)
    (error,) = errors_of(truth, [result])
    assert numbers(error) == (1, 1, 0, pytest.approx(1 - oks)) and error.mean_oks == pytest.approx(oks)
    # a second pose of the same person is a false positive, and the surer one counts
    exact = {**result, "keypoints": [50.0, 50, 1, 0, 0, 1, 0, 0, 1], "score": 0.4}
    (error,) = errors_of(truth, [exact, result])
    assert numbers(error) == (1, 1, 1, pytest.approx(1 - oks / 2))
    # below OKS 0.5 it is a false positive: one person missed, one false positive
    far, (result,) = one_person(shift=12)
    (error,) = errors_of(far, [result])
    assert numbers(error) == (1, 0, 1, 1) and error.mean_oks is None
    assert errors_of(truth, [])[0].error == 1


def test_what_the_evaluation_ignores_is_ignored():
    truth, (result,) = one_person()
    truth["images"].append({"id": 7, "file_name": "7.jpg", "width": 9, "height": 9})
    for change in ({"iscrowd": 1}, {"num_keypoints": 0, "keypoints": [0] * 9}):
        missed = {**truth["annotations"][0], "id": 2, "image_id": 7}
        ignored = {**truth, "annotations": [{**truth["annotations"][0], **change}, missed]}
        with_pose, without = errors_of(ignored, [result])
        assert with_pose == ImageMatching(1, [], [], 0) and with_pose.error == 0
        assert without == ImageMatching(7, [0.0], [], 0)
    ids = {**truth, "annotations": [{**truth["annotations"][0], "id": 0}]}
    assert numbers(errors_of(ids, [result])[0]) == (1, 1, 0, 0), "id 0 is a person's, too"


def test_images_in_any_order():
    truth = ground_truth_of(num_images=12, num_persons=6, seed=3)
    results = results_near(truth, noise=0.05)
    order = np.random.default_rng(0).permutation(12)
    shuffled = {**truth, "images": [truth["images"][i] for i in order]}
    assert errors_of(shuffled, results) == [errors_of(truth, results)[i] for i in order]


def test_order():
    def image(number, persons, *oks):
        return ImageMatching(number, [0.0] * persons, [({}, {}, value) for value in oks], 0)

    sort = load_tool("visualize_results").sort_errors
    nothing, bad, good, same = image(1, 0), image(2, 1), image(3, 1, 0.9), image(4, 2, 0.9, 0.9)
    given = [nothing, good, bad, same]
    assert sort(given, "worst") == [bad, good, same, nothing]
    assert sort(given, "best") == [good, same, bad, nothing]
    assert sort(given, "none") == given


@pytest.fixture
def draw(tmp_path):
    """The tool on three images of one person with both hands labeled: exact, pixels beside, below the threshold."""
    main = load_tool("visualize_results").main
    content, results = ground_truth_of(num_images=3), []
    content["categories"][0]["skeleton"] = [[2, 3]]
    shifts_and_scores = ((0, 0.9), (10, 0.8), (0, 0.1))
    for image, person, (shift, score) in zip(content["images"], content["annotations"], shifts_and_scores, strict=True):
        image.update(file_name=f"{image['id']}.png", width=260, height=200)
        Image.new("RGB", (260, 200), (90, 90, 90)).save(tmp_path / image["file_name"])
        person.update(bbox=[30, 20, 200, 160], area=1e4, keypoints=[0, 0, 0, 200, 100, 2, 60, 100, 2], num_keypoints=2)
        found = [0, 0, 0, 200 + shift, 100, 1, 60 + shift, 100, 1]
        result = {"image_id": image["id"], "category_id": 1, "bbox": person["bbox"]}
        results.append({**result, "keypoints": found, "score": score})
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps(results))
    given = ["--dataset", f"{tmp_path}/truth.json@{tmp_path}", "--results", str(tmp_path / "results.json")]
    return lambda folder, *options: main([*given, "--output", str(tmp_path / folder), *options])


def test_tool(draw, tmp_path, capsys):
    out = tmp_path / "out"
    draw("out", "--number", "2")
    assert "2 of 3 images are in" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["0001_3.png", "0002_2.png", "images.csv", "images.png"]
    with open(out / "images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # sigma .1 and area 100^2: exp(-10^2 / (2 * 10^4 * .2^2))
    errors = [("1", "3", "1.0000"), ("2", "2", f"{1 - math.exp(-0.125):.4f}"), ("3", "1", "0.0000")]
    assert [(row["rank"], row["image_id"], row["error"]) for row in rows] == errors
    assert (rows[0]["found"], rows[0]["false_positives"], rows[0]["mean_oks"]) == ("0", "0", "")
    # ground truth left, results right, each enlarged twice; left hands at 200.5 and 210.5
    picture = np.asarray(Image.open(out / "0002_2.png"))
    truth, found = picture[-412:-12, 12 : 12 + 520], picture[-412:-12, -532:-12]
    places = [np.nonzero((part[:, 100:] == SIDE_COLORS["left"]).all(axis=2))[1] + 100.5 for part in (truth, found)]
    assert [place.mean() / 2 for place in places] == pytest.approx([200.5, 210.5], abs=0.5)
    (tmp_path / "2.png").unlink()
    with pytest.raises(UserError, match="1 images could not be drawn.*2.png"):
        draw("best", "--sort", "best", "--score-threshold", "0.1")
    names = ["0001_1.png", "0002_3.png", "images.csv", "images.png"]
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == names
