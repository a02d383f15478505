"""The evaluator: half pixels, full disks; and the file for COCO's server."""

import json
import zipfile

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from evaluation_data import SIGMAS, assert_same, ground_truth_of
from tiny_model import tiny_config

from querypose.data import register_coco_keypoints
from querypose.evaluation import PoseEvaluator, evaluate_coco_results, write_submission


@pytest.fixture
def name(tmp_path, own_data_sets):
    """A registered data set of 3 images with 2 persons each, its category id 4."""
    content = ground_truth_of(num_images=3, num_persons=2, seed=1)
    for entry in content["annotations"]:
        entry["category_id"] = 4
    content["categories"][0]["id"] = 4
    (tmp_path / "truth.json").write_text(json.dumps(content))
    register_coco_keypoints("evaluated_people", tmp_path / "truth.json", tmp_path)
    return "evaluated_people"


def perfect_outputs(data_set):
    """Inputs and outputs of a model that finds every person exactly, as Detectron2 loads them."""
    inputs, outputs = [], []
    for image in DatasetCatalog.get(data_set):
        boxes = torch.tensor([person["bbox"] for person in image["annotations"]]).double()
        boxes[:, 2:] += boxes[:, :2]
        keypoints = torch.tensor([person["keypoints"] for person in image["annotations"]]).view(-1, 3, 3)
        inputs.append({"image_id": image["image_id"]})
        instances = Instances((image["height"], image["width"]))
        instances.pred_boxes, instances.pred_keypoints = Boxes(boxes), keypoints
        instances.scores = torch.linspace(0.9, 0.5, len(boxes))
        instances.pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
        outputs.append({"instances": instances})
    return inputs, outputs


def test_evaluator_scores_what_the_loader_gives_as_perfect(name, tmp_path):
    # with very small sigmas a shift of half a pixel would show
    evaluator = PoseEvaluator(name, output_dir=str(tmp_path / "out"), sigmas=[1e-4] * 3)
    inputs, outputs = perfect_outputs(name)
    before = outputs[0]["instances"].pred_keypoints.clone()
    for given, output in zip(inputs, outputs, strict=True):
        evaluator.process([given], [output])
    metrics = evaluator.evaluate()
    assert metrics["keypoints"]["AP"] == pytest.approx(100)
    assert metrics["bbox"]["AP"] == pytest.approx(100)
    assert torch.equal(outputs[0]["instances"].pred_keypoints, before)

    # the file holds the annotations' own numbers, both tasks in one entry, and evaluates to the same
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    person = json.loads((tmp_path / "truth.json").read_text())["annotations"][0]
    assert results[0]["keypoints"][:2] == pytest.approx(person["keypoints"][:2], abs=1e-3)
    assert results[0]["bbox"] == pytest.approx(person["bbox"], abs=1e-3)
    assert (results[0]["image_id"], results[0]["category_id"]) == (1, 4)
    assert_same(evaluate_coco_results(tmp_path / "truth.json", results, [1e-4] * 3), metrics)

    evaluator.reset()
    assert evaluator.evaluate()["keypoints"]["AP"] == 0


def test_detectron2s_own_evaluator_agrees(name):
    inputs, outputs = perfect_outputs(name)
    for output in outputs:
        output["instances"].pred_keypoints[:, :, :2] += 6 * torch.randn(2, 3, 2)
        output["instances"].pred_boxes.tensor += 5 * torch.randn(2, 4)
    sigmas = [2 * sigma for sigma in SIGMAS]
    ours = PoseEvaluator(tiny_config("light", "TEST.EVALUATOR_BACKEND", "pycocotools"), name)
    theirs = COCOEvaluator(name, ("bbox", "keypoints"), False, use_fast_impl=False, kpt_oks_sigmas=SIGMAS)
    looser = PoseEvaluator(tiny_config("light", "TEST.KEYPOINT_OKS_SIGMAS", sigmas), name)
    theirs.reset()
    for evaluator in (ours, theirs, looser):
        evaluator.process(inputs, outputs)
    found, expected = ours.evaluate(), theirs.evaluate()
    assert 5 < expected["keypoints"]["AP"] < 95
    for task in ("bbox", "keypoints"):
        assert {name: found[task][name] for name in expected[task]} == pytest.approx(expected[task], nan_ok=True)
    assert looser.evaluate()["keypoints"]["AP"] > found["keypoints"]["AP"]


def test_results_that_cannot_be_written_do_not_cost_the_ap(name, tmp_path, messages):
    (tmp_path / "file").touch()
    evaluator = PoseEvaluator(name, output_dir=tmp_path / "file")
    evaluator.process(*perfect_outputs(name))
    assert evaluator.evaluate()["keypoints"]["AP"] == pytest.approx(100)
    assert "cannot write to" in messages()


def test_the_file_for_the_server_has_the_format_that_coco_publishes(tmp_path):
    keypoints = np.random.default_rng(0).uniform(0, 600, 51).tolist()
    common = {"category_id": 1, "keypoints": keypoints, "bbox": [1.0, 2.0, 3.0, 4.0]}
    results = [{"image_id": i, "score": s / 100, **common} for i in (9, 5) for s in range(1, 31)]
    path = write_submission(results, tmp_path, "test-dev2017", "my pose/1")
    stem = "person_keypoints_test-dev2017_my-pose-1_results"
    assert path.name == f"{stem}.zip"
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == [f"{stem}.json"]
        poses = json.loads(file.read(f"{stem}.json"))
    # what cocodataset.org/#format-results asks for keypoints, and nothing else
    for entry in poses:
        assert set(entry) == {"image_id", "category_id", "keypoints", "score"}
        assert type(entry["image_id"]) is int and entry["category_id"] == 1 and type(entry["score"]) is float
        assert entry["keypoints"] == pytest.approx(keypoints, abs=0.005 + 1e-9)
    # the 20 best of each image, which is all that the server counts
    assert [entry["image_id"] for entry in poses] == [5] * 20 + [9] * 20
    assert [entry["score"] for entry in poses[:20]] == [s / 100 for s in range(30, 10, -1)]
