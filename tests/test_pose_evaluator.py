"""The evaluator: half pixels, several processes, sets without annotations."""

import json

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from evaluation_data import NAMES, SIGMAS, assert_same, ground_truth_of
from tiny_model import tiny_config

from querypose.config import add_querypose_config
from querypose.data import register_coco_keypoints
from querypose.engine import PoseTrainer
from querypose.errors import UserError
from querypose.evaluation import PoseEvaluator, evaluate_coco_results
from querypose.skeleton import Skeleton


@pytest.fixture
def register(tmp_path):
    """register(content, skeleton): the name of that data set, until the test ends."""

    def add(content, skeleton=None):
        (tmp_path / "truth.json").write_text(json.dumps(content))
        register_coco_keypoints("evaluated_people", tmp_path / "truth.json", tmp_path, skeleton)
        return "evaluated_people"

    yield add
    DatasetCatalog.remove("evaluated_people")
    MetadataCatalog.remove("evaluated_people")


@pytest.fixture
def name(register):
    """A registered data set of 3 images with 2 persons each, its category id 4."""
    content = ground_truth_of(num_images=3, num_persons=2, seed=1)
    for entry in content["annotations"]:
        entry["category_id"] = 4
    content["categories"][0]["id"] = 4
    return register(content)


def perfect_outputs(data_set):
    """Inputs and outputs of a model that finds every person exactly, as Detectron2 loads them."""
    inputs, outputs = [], []
    for image in DatasetCatalog.get(data_set):
        persons = image["annotations"]
        instances = Instances((image["height"], image["width"]))
        boxes = torch.tensor([person["bbox"] for person in persons]).double()
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.linspace(0.9, 0.5, len(persons))
        instances.pred_classes = torch.zeros(len(persons), dtype=torch.int64)
        instances.pred_keypoints = torch.tensor([person["keypoints"] for person in persons]).view(-1, 3, 3)
        inputs.append({"image_id": image["image_id"]})
        outputs.append({"instances": instances})
    return inputs, outputs


def test_evaluator_scores_what_the_loader_gives_as_perfect(name, tmp_path):
    evaluator = PoseEvaluator(name, output_dir=str(tmp_path / "out"))
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
    assert_same(evaluate_coco_results(tmp_path / "truth.json", results), metrics)

    evaluator.reset()
    assert evaluator.evaluate()["keypoints"]["AP"] == 0


def test_detectron2s_own_evaluator_agrees(name):
    inputs, outputs = perfect_outputs(name)
    for output in outputs:
        output["instances"].pred_keypoints[:, :, :2] += 6 * torch.randn(2, 3, 2)
        output["instances"].pred_boxes.tensor += 5 * torch.randn(2, 4)
    ours = PoseEvaluator(name)
    ours.process(inputs, outputs)
    theirs = COCOEvaluator(name, ("bbox", "keypoints"), False, use_fast_impl=False, kpt_oks_sigmas=SIGMAS)
    theirs.reset()
    theirs.process(inputs, outputs)
    found, expected = ours.evaluate(), theirs.evaluate()
    assert 5 < expected["keypoints"]["AP"] < 95
    for task in ("bbox", "keypoints"):
        assert {name: found[task][name] for name in expected[task]} == pytest.approx(expected[task], nan_ok=True)


def test_half_a_pixel_matters(name):
    # with very small sigmas any shift of the keypoints would show
    evaluator = PoseEvaluator(name, sigmas=[1e-4] * 3, tasks=("keypoints",))
    inputs, outputs = perfect_outputs(name)
    evaluator.process(inputs, outputs)
    assert evaluator.evaluate()["keypoints"]["AP"] == pytest.approx(100)


def test_evaluator_from_config(name, tmp_path):
    cfg = get_cfg()
    add_querypose_config(cfg)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1, 0.2]
    with pytest.raises(UserError, match="3 keypoints but 2 OKS sigmas"):
        PoseEvaluator(cfg, name, output_dir=str(tmp_path))
    cfg.TEST.KEYPOINT_OKS_SIGMAS = []
    cfg.TEST.EVALUATOR_BACKEND = "pycocotools"
    evaluator = PoseEvaluator(cfg, name, output_dir=str(tmp_path))
    evaluator.process(*perfect_outputs(name))
    assert evaluator.evaluate()["keypoints"]["AP"] == pytest.approx(100)


def test_detections_of_all_processes_are_evaluated_once(name, monkeypatch):
    inputs, outputs = perfect_outputs(name)
    ranks = [PoseEvaluator(name), PoseEvaluator(name)]
    ranks[0].process(inputs[:1], outputs[:1])
    ranks[1].process(inputs[1:], outputs[1:])
    assert ranks[0].evaluate()["keypoints"]["AR"] < 60

    module = "querypose.evaluation.pose_evaluator.comm"
    monkeypatch.setattr(f"{module}.gather", lambda data, dst: [rank._results for rank in ranks])
    assert ranks[0].evaluate()["keypoints"]["AP"] == pytest.approx(100)
    monkeypatch.setattr(f"{module}.gather", lambda data, dst: [])
    monkeypatch.setattr(f"{module}.is_main_process", lambda: False)
    assert ranks[1].evaluate() == {}


def test_test_sets_are_written_and_not_evaluated(register, tmp_path):
    content = ground_truth_of()
    content.update(annotations=[], categories=[{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}])
    evaluator = PoseEvaluator(register(content, Skeleton(NAMES, [], [], SIGMAS)), output_dir=str(tmp_path / "out"))
    instances = Instances((500, 500))
    instances.pred_boxes = Boxes(torch.tensor([[1.0, 2, 3, 4]]))
    instances.scores, instances.pred_classes = torch.tensor([0.5]), torch.tensor([0])
    instances.pred_keypoints = torch.ones(1, 3, 3)
    evaluator.process([{"image_id": 1}], [{"instances": instances}])
    assert evaluator.evaluate() == {}
    (result,) = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert result["keypoints"] == [0.5, 0.5, 1.0] * 3 and result["bbox"] == [1, 2, 2, 2]


def test_results_that_cannot_be_written_do_not_cost_the_ap(name, tmp_path, messages):
    (tmp_path / "file").touch()
    evaluator = PoseEvaluator(name, output_dir=tmp_path / "file")
    evaluator.process(*perfect_outputs(name))
    assert evaluator.evaluate()["keypoints"]["AP"] == pytest.approx(100)
    assert "cannot write the results to" in messages()


def test_several_test_sets_write_results_of_their_own(name, tmp_path):
    sets = (name, "synthetic_people_val")
    cfg = tiny_config("light", "OUTPUT_DIR", str(tmp_path), "DATASETS.TEST", sets)
    PoseTrainer.build_evaluator(cfg, name).evaluate()
    assert (tmp_path / "inference" / name / "coco_instances_results.json").is_file()
