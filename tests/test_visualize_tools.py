"""tools/visualize_{data,results,attention}.py: what they draw beside what, and the errors of images in closed form."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from demo_stub import RichPredictor, save_image
from evaluation_data import ground_truth_of, one_person, results_near
from load_tool import load_tool
from PIL import Image
from refusals import ROOT
from tiny_model import tiny_config

from querypose.data import skeleton_of
from querypose.errors import UserError
from querypose.evaluation.ground_truth import load_ground_truth
from querypose.evaluation.matching import ImageMatching, match_poses
from querypose.skeleton import SIDE_COLORS
from querypose.visualization import sheets
from querypose.visualization.draw_poses import overlay_attention, part_names


def save_noise(file, height, width):
    Image.fromarray(np.random.default_rng(0).integers(0, 60, (height, width, 3), dtype=np.uint8)).save(file)
    return {"file_name": file.name, "height": height, "width": width}


@pytest.fixture
def data(tmp_path):
    """Two images of noise, a person with spread arms in each; the data set's name."""
    content = ground_truth_of(num_images=2)
    content["categories"][0]["skeleton"] = [[1, 2], [1, 3]]
    for image, person in zip(content["images"], content["annotations"], strict=True):
        image.update(save_noise(tmp_path / f"{image['id']}.png", 120, 200))
        keypoints = [100, 20, 2, 150, 60, 2, 30, 60, 2]  # the left hand on our right
        person.update(bbox=[20, 10, 140, 100], area=9000, keypoints=keypoints, num_keypoints=3)
    (tmp_path / "data.json").write_text(json.dumps(content))
    return str(tmp_path / "data.json")


def config_of(data, *opts):
    cfg = tiny_config("light", "DATASETS.TRAIN", (data,), "DATASETS.TEST", (data,), "INPUT.MIN_SIZE_TRAIN", (100, 140))
    cfg.INPUT.CROP.SIZE, cfg.INPUT.CROP.RESIZE_BEFORE = [80, 110], [120, 150]
    cfg.merge_from_list(list(opts))
    return cfg


@pytest.fixture
def samples(monkeypatch):
    """Of a config and a seed: image and persons that a sheet draws of the first sample, and of its mirror image."""
    drawn = []
    monkeypatch.setattr(sheets, "draw_poses", lambda image, *instances: drawn.append((image, *instances)) or image)

    def make(cfg, seed, split="train"):
        list(sheets.sample_sheets(cfg, split, 1, seed))
        return [(image, instances) for image, instances, _ in drawn[-2:]]

    return make


def test_the_mirror_image_of_a_sample_is_exact(data, samples):
    cfg, sizes = config_of(data), set()
    for seed in range(6):
        (image, here), (mirrored, there) = samples(cfg, seed)
        assert np.array_equal(mirrored, image[:, ::-1])
        width = image.shape[1]
        expected = here.gt_keypoints.tensor[:, skeleton_of(cfg).flip_indices].clone()
        expected[..., 0] = torch.where(expected[..., 2] > 0, width - expected[..., 0], 0.0)
        torch.testing.assert_close(there.gt_keypoints.tensor, expected)
        torch.testing.assert_close(there.gt_boxes.tensor[:, [2, 0]], width - here.gt_boxes.tensor[:, [0, 2]])
        sizes.add(image.shape)
    assert len(sizes) > 2, "the augmentation varies"


def test_sides_have_their_colors(data):
    opts = ("INPUT.RANDOM_FLIP", "none", "INPUT.CROP.ENABLED", False, "INPUT.MIN_SIZE_TRAIN", (120,))
    opts += ("INPUT.COLOR_JITTER", 0.5)
    ((_, (title, images)),) = sheets.sample_sheets(config_of(data, *opts), "train", 1, 0)
    assert title.endswith(".png: 1 persons")
    # hands at (150.5, 60.5) and (30.5, 60.5), in the mirrored image of 200 pixels at 49.5 and 169.5; twice as large:
    # in both images, the hand on our right is the left one
    for image, left, right in zip(images, (301, 339), (61, 99), strict=True):
        assert [tuple(image[121, x]) for x in (left, right)] == [SIDE_COLORS["left"], SIDE_COLORS["right"]]
    ((_, (_, bgr)),) = sheets.sample_sheets(config_of(data, "INPUT.FORMAT", "BGR", *opts), "train", 1, 0)
    assert np.array_equal(bgr[0], images[0])


def test_test_data_are_only_resized(data, samples):
    (image, persons), _ = samples(config_of(data, "INPUT.MIN_SIZE_TEST", 60), 0, "test")
    assert image.shape == (60, 100, 3) and persons.gt_keypoints.tensor[0, 0].tolist() == [50.25, 10.25, 2]


def test_files_of_samples(data, tmp_path, capsys):
    main = load_tool("visualize_data").main
    given = ["--config-file", str(ROOT / "configs/quickstart.yaml"), "--output", str(tmp_path / "out")]
    overrides = ["DATASETS.TRAIN", f"('{data}',)", "DATASETS.TEST"]
    main([*given, "--number", "5", *overrides, f"('{data}',)"])
    assert "2 samples are in" in capsys.readouterr().out
    names = sorted(path.name[3:] for path in (tmp_path / "out").iterdir())
    assert names == ["_1.png", "_2.png", "ples.png"]
    with pytest.raises(UserError, match="set DATASETS.TEST"):
        main([*given, "--split", "test", *overrides, "()"])


def errors_of(content, results):
    return list(match_poses(load_ground_truth(content), results))


def error_of(content, *results):
    """Of the first image."""
    error = errors_of(content, list(results))[0]
    return len(error.best_oks), len(error.pairs), error.false_positives, pytest.approx(error.error)


def test_error_in_closed_form():
    # sigma .05 and area 100^2: exp(-6^2 / (2 * 10^4 * .1^2))
    truth, (result,) = one_person(shift=6)
    assert error_of(truth, result) == (1, 1, 0, 1 - math.exp(-0.18))
    # a second pose of the same person is a false positive, and the surer one counts
    exact = {**result, "keypoints": [50.0, 50, 1, 0, 0, 1, 0, 0, 1], "score": 0.4}
    assert error_of(truth, exact, result) == (1, 1, 1, 1 - math.exp(-0.18) / 2)
    # below OKS 0.5 it is a false positive: one person missed, one false positive
    far, results = one_person(shift=12)
    assert error_of(far, *results) == (1, 0, 1, 1) and error_of(truth) == (1, 0, 0, 1)


def test_what_the_evaluation_ignores_is_ignored():
    truth, (result,) = one_person()
    truth["images"].append({"id": 7, "file_name": "7.jpg", "width": 9, "height": 9})
    for change in ({"iscrowd": 1}, {"num_keypoints": 0, "keypoints": [0] * 9}):
        missed = {**truth["annotations"][0], "id": 2, "image_id": 7}
        ignored = {**truth, "annotations": [{**truth["annotations"][0], **change}, missed]}
        assert errors_of(ignored, [result]) == [ImageMatching(1, [], [], 0), ImageMatching(7, [0.0], [], 0)]
    ids = {**truth, "annotations": [{**truth["annotations"][0], "id": 0}]}
    assert error_of(ids, result) == (1, 1, 0, 0), "id 0 is a person's, too"


def test_images_in_any_order():
    truth = ground_truth_of(num_images=12, num_persons=6, seed=3)
    results = results_near(truth, noise=0.05)
    assert errors_of({**truth, "images": truth["images"][::-1]}, results) == errors_of(truth, results)[::-1]


def test_results_beside_the_ground_truth(tmp_path, capsys):
    """Of three images of one person with both hands labeled, found exactly, 10 pixels beside and below the threshold,
    and of one of nobody."""
    content, results = ground_truth_of(num_images=3), []
    content["categories"][0]["skeleton"] = [[2, 3]]
    content["images"].append({"id": 4})
    for image in content["images"]:
        image.update(save_noise(tmp_path / f"{image['id']}.png", 200, 260))
    for person, shift, score in zip(content["annotations"], (0, 10, 0), (0.9, 0.8, 0.1), strict=True):
        person.update(bbox=[30, 20, 200, 160], area=1e4, keypoints=[0, 0, 0, 200, 100, 2, 60, 100, 2], num_keypoints=2)
        result = {name: person[name] for name in ("image_id", "category_id", "bbox")}
        results.append({**result, "keypoints": [0, 0, 0, 200 + shift, 100, 1, 60 + shift, 100, 1], "score": score})
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps(results))
    out, main = tmp_path / "out", load_tool("visualize_results").main
    given = f"--dataset {tmp_path}/truth.json@{tmp_path} --results {tmp_path}/results.json --output {out}".split()

    assert main([*given, "--number", "2"]) == 0
    assert "2 of 4 images are in" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["0001_3.png", "0002_2.png", "images.csv", "images.png"]
    rows = list(csv.DictReader((out / "images.csv").read_text().splitlines()))
    # sigma .1 and area 100^2: exp(-10^2 / (2 * 10^4 * .2^2)); nobody comes last
    assert [row["image_id"] for row in rows] == ["3", "2", "1", "4"]
    assert [float(row["error"]) for row in rows] == pytest.approx([1, 1 - math.exp(-0.125), 0, 0])
    assert (rows[0]["found"], rows[0]["false_positives"]) == ("0", "0")
    # ground truth left, results right, each enlarged twice; left hands at 200.5 and 210.5
    picture = np.asarray(Image.open(out / "0002_2.png"))
    truth, found = picture[-400:, :520], picture[-400:, -520:]
    places = [np.nonzero((part[:, 100:] == SIDE_COLORS["left"]).all(axis=2))[1] + 100.5 for part in (truth, found)]
    assert [place.mean() / 2 for place in places] == pytest.approx([200.5, 210.5], abs=0.5)
    (tmp_path / "2.png").unlink()
    for order, ids in (("best", "1324"), ("none", "1234")):
        assert main([*given, "--sort", order, "--score-threshold", "0.1"]) == 2
        printed = capsys.readouterr()
        assert "2.png does not exist" in printed.err and "3 of 4 images" in printed.out
        lines = (out / "images.csv").read_text().splitlines()[1:]
        assert [line.split(",")[1] for line in lines] == list(ids)


def test_maps_lie_over_their_boxes_and_leave_the_rest():
    image = np.full((60, 100, 3), 128, np.uint8)
    attention = np.zeros((2, 2, 4, 4))
    attention[0, 0, 1, 3], attention[0, 1, 3, 0] = 0.9, 0.001  # each part by its own maximum
    attention[1, 0, 2, 2] = 1.0
    boxes = [[0, 0, 40, 40], [60, 20, 100, 60]]
    overlaid = overlay_attention(image, attention, boxes).astype(int)
    # a location spans 10 pixels; between two centers the overlay fades
    for x, y in ((35, 15), (5, 35), (85, 45)):
        assert overlaid[y - 1 : y + 1, x - 1 : x + 1].sum(axis=2).min() > 560
    changed = (overlaid != 128).any(axis=2)
    assert not changed[:, 46:74].any() and not changed[:4].any() and not changed[50:, :74].any()
    assert np.array_equal(overlay_attention(image, np.zeros((0, 2, 4, 4)), np.zeros((0, 4))), image)


def test_attention_of_each_person_and_a_sheet(tmp_path, capsys, monkeypatch):
    tool = load_tool("visualize_attention")
    monkeypatch.setattr(tool, "PosePredictor", RichPredictor)
    files = [str(save_image(tmp_path / f"{name}.png", color)) for name, color in (("one", 80), ("none", 0))]
    given = ["--output", str(tmp_path / "out")]
    tool.main([*given, "--input", *files, "MODEL.WEIGHTS", "w.pth"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one_attention.png", "one_person1.png"]
    assert RichPredictor.options["opts"] == ["MODEL.WEIGHTS", "w.pth"] and RichPredictor.stage == 1
    names = part_names(tiny_config(), skeleton_of(tiny_config()))
    assert len(names) == 7 and names[2] == "left elbow, left wrist"
    assert "none.png: 0 persons" in capsys.readouterr().out
    # the box of 50 x 30 with a tenth around it, from (0, 7) on; the pose five times as large
    image = np.full((60, 100, 3), 80, np.uint8)
    pose, part, _ = sheets.attention_panels(image, RichPredictor("").with_attention(image), 0, height=180)
    assert pose.shape == (180, 300, 3) and part.shape == (36, 60, 3)
    assert (pose[67, 52] != 80).any(), "the left hand at (10.5, 20.5)"
    assert (part[15, 12] != 40).any() and (part[1, 1] == 40).all(), "the map lies over the box"

    assert tool.main([*given, "--stage", "1", "--input", str(tmp_path / "absent.png"), files[0]]) == 2
    assert RichPredictor.stage == 0 and "absent.png does not exist" in capsys.readouterr().err
    with pytest.raises(UserError, match="--stage 0, but this model has the stages 1 to 2"):
        tool.main([*given, "--input", *files, "--stage", "0"])
