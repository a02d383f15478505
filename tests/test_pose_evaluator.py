"""The evaluator: known numbers, agreement of the two backends, and everything that may be missing."""

import importlib.util
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from querypose.config import add_querypose_config
from querypose.data import register_coco_keypoints
from querypose.errors import UserError
from querypose.evaluation import BACKENDS, PoseEvaluator, evaluate_coco_results
from querypose.skeleton import Skeleton

NAMES = ["head", "left_hand", "right_hand"]
SIGMAS = [0.05, 0.1, 0.1]
TOOL = Path(__file__).resolve().parents[1] / "tools" / "evaluate_results.py"


def ground_truth_of(num_images=1, num_persons=1, seed=0, extra=1.0):
    """Random persons, `extra` the scale of their size; every fifth a crowd, every seventh unlabelled."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image_id in range(1, num_images + 1):
        for _ in range(num_persons):
            number = len(annotations) + 1
            width, height = rng.uniform(20, 150, 2) * extra
            x, y = rng.uniform(0, 300, 2)
            keypoints = np.zeros((len(NAMES), 3))
            keypoints[:, 0], keypoints[:, 1] = x + rng.uniform(0, width, 3), y + rng.uniform(0, height, 3)
            keypoints[:, 2] = 0 if number % 7 == 0 else rng.integers(1, 3, 3)
            annotations.append(
                {
                    "id": number,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [x, y, width, height],
                    "area": 0.5 * width * height,
                    "iscrowd": int(number % 5 == 0),
                    "keypoints": keypoints.flatten().tolist(),
                    "num_keypoints": int((keypoints[:, 2] > 0).sum()),
                }
            )
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 500, "height": 500} for i in range(1, num_images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": NAMES, "sigmas": SIGMAS}],
    }


def results_near(ground_truth, noise, seed=0):
    rng = np.random.default_rng(seed)
    results = []
    for person in ground_truth["annotations"]:
        scale = noise * math.sqrt(person["area"])
        keypoints = np.array(person["keypoints"], dtype=float).reshape(-1, 3)
        keypoints[:, :2] += rng.normal(0, scale, (len(keypoints), 2))
        keypoints[:, 2] = rng.uniform(0, 1, len(keypoints))
        results.append(
            {
                "image_id": person["image_id"],
                "category_id": 1,
                "bbox": (np.array(person["bbox"]) + rng.normal(0, 0.3 * scale, 4)).tolist(),
                "score": float(rng.uniform()),
                "keypoints": keypoints.flatten().tolist(),
            }
        )
    return results


def one_person(shift=0.0, width=100.0):
    """One person whose head alone is labelled, and a detection `shift` pixels beside it."""
    ground_truth = ground_truth_of()
    keypoints = [50.0, 50.0, 2, 0, 0, 0, 0, 0, 0]
    ground_truth["annotations"][0].update(
        bbox=[0.0, 0.0, width, width], area=width**2, keypoints=keypoints, num_keypoints=1
    )
    found = [50.0 + shift, 50.0, 0.9, 7, 7, 0.1, 8, 8, 0.1]
    result = {
        "image_id": 1,
        "category_id": 1,
        "bbox": [0.0, 0.0, width, width],
        "score": 0.5,
        "keypoints": found,
    }
    return ground_truth, [result]


def assert_same(metrics, expected):
    assert metrics.keys() == expected.keys()
    for task in expected:
        assert metrics[task] == pytest.approx(expected[task], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("oks", "ap"), [(0.999, 100), (0.77, 60), (0.501, 10), (0.499, 0)])
def test_keypoint_ap_against_the_closed_form(backend, oks, ap):
    # OKS of one keypoint is exp(-d^2 / (2 area (2 sigma)^2)); AP counts thresholds .50, .55, .. , .95
    shift = math.sqrt(-2 * math.log(oks)) * 100 * 2 * SIGMAS[0]
    ground_truth, results = one_person(shift)
    metrics = evaluate_coco_results(ground_truth, results, backend=backend)
    assert metrics["keypoints"]["AP"] == pytest.approx(ap)
    assert metrics["keypoints"]["AP50"] == pytest.approx(100 * (oks > 0.5))
    assert metrics["keypoints"]["AR75"] == pytest.approx(100 * (oks > 0.75))
    assert metrics["bbox"]["AP"] == pytest.approx(100)
    # twice the sigma: a fourth of the exponent
    looser = evaluate_coco_results(ground_truth, results, [2 * SIGMAS[0], 1, 1], ("keypoints",), backend)
    assert list(looser) == ["keypoints"]
    assert looser["keypoints"]["AP"] == pytest.approx(
        10 * sum(oks**0.25 >= t / 100 for t in range(50, 100, 5))
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_box_ap_against_the_closed_form(backend):
    ground_truth, results = one_person()
    results[0]["bbox"] = [0.0, 0.0, 100.0, 72.0]  # IoU .72: thresholds .50 .. .70
    metrics = evaluate_coco_results(ground_truth, results, backend=backend)["bbox"]
    assert metrics["AP"] == pytest.approx(50)
    assert metrics["AP50"] == pytest.approx(100) and metrics["AP75"] == 0
    assert metrics["APl"] == pytest.approx(50) and math.isnan(metrics["APs"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_20_best_poses_of_an_image_count(backend):
    ground_truth, results = one_person()
    wrong = {**results[0], "score": 0.9, "keypoints": [400.0] * 9}
    nineteen = evaluate_coco_results(ground_truth, results + [wrong] * 19, backend=backend)
    assert nineteen["keypoints"]["AP"] == pytest.approx(5)  # precision 1/20
    twenty = evaluate_coco_results(ground_truth, results + [wrong] * 20, backend=backend)
    assert twenty["keypoints"]["AP"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_without_detections_count(backend):
    ground_truth = ground_truth_of(num_images=4)
    results = results_near(ground_truth, noise=0)[:2]
    metrics = evaluate_coco_results(ground_truth, results, backend=backend)
    assert metrics["keypoints"]["AR"] == pytest.approx(50)
    assert metrics["bbox"]["AR"] == pytest.approx(50)


@pytest.mark.parametrize(("noise", "extra"), [(0.0, 1), (0.05, 1), (0.1, 3), (0.4, 1)])
def test_backends_agree_on_random_data(noise, extra):
    ground_truth = ground_truth_of(num_images=12, num_persons=6, seed=3, extra=extra)
    results = results_near(ground_truth, noise) + results_near(ground_truth, 2 * noise + 0.1, seed=1)
    before = json.dumps([ground_truth, results])
    fast, official = (evaluate_coco_results(ground_truth, results, backend=backend) for backend in BACKENDS)
    assert json.dumps([ground_truth, results]) == before
    assert_same(fast, official)
    if noise == 0.1:
        assert 1 < official["keypoints"]["AP"] < 99  # else there would be little to agree about


def test_backends_agree_on_photographs(shared_folder):
    file = shared_folder / "data" / "coco_mini" / "person_keypoints_val.json"
    results = results_near(json.loads(file.read_text()), noise=0.06)
    fast, official = (evaluate_coco_results(file, results, backend=backend) for backend in BACKENDS)
    assert fast["keypoints"]["AP"] > 1
    assert_same(fast, official)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_detections_every_ap_is_zero(backend, caplog):
    # Detectron2 configures its loggers not to pass messages on
    logging.getLogger("querypose").propagate = True
    metrics = evaluate_coco_results(ground_truth_of(num_images=2), [], backend=backend)
    assert metrics["bbox"]["AP"] == metrics["keypoints"]["AP"] == metrics["keypoints"]["AR"] == 0
    assert "not a single detection" in caplog.text


def test_area_and_labels_that_a_file_leaves_out():
    ground_truth = ground_truth_of(num_images=3, num_persons=5)
    complete = json.loads(json.dumps(ground_truth))
    for bare, full in zip(ground_truth["annotations"], complete["annotations"], strict=True):
        full["area"] = 0.53 * full["bbox"][2] * full["bbox"][3]
        full["iscrowd"] = 0
        for key in ("area", "iscrowd", "num_keypoints"):
            del bare[key]
    results = results_near(complete, noise=0.08)
    for backend in BACKENDS:
        assert_same(
            evaluate_coco_results(ground_truth, results, backend=backend),
            evaluate_coco_results(complete, results, backend=backend),
        )


def test_other_classes_do_not_count():
    ground_truth = ground_truth_of(num_images=2)
    results = results_near(ground_truth, noise=0)
    ground_truth["categories"].append({"id": 2, "name": "dog"})
    dog = {"id": 99, "image_id": 1, "category_id": 2, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0}
    ground_truth["annotations"].append(dog)
    assert evaluate_coco_results(ground_truth, results)["bbox"]["AP"] == pytest.approx(100)


def change(**changes):
    ground_truth, results = one_person()
    return [{**results[0], **changes}]


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ({"a": 1}, "no list"),
        ([3], "entry 0 .* instead of an object"),
        ([{"image_id": 1, "category_id": 1, "score": 1, "bbox": [1, 2, 3, 4]}], "entry 0 .* no 'keypoints'"),
        (change(image_id=77), "image 77, which is not in the data set"),
        (change(category_id=0), "category_id 0 instead of 1"),
        (change(keypoints=[1.0] * 51), "'keypoints' 51 values instead of 9"),
        (change(keypoints=None), "'keypoints' None instead of 9"),
        (change(bbox=[1.0] * 5), "'bbox' 5 values instead of 4"),
        (change(score=float("nan")), "not finite"),
        (change(bbox=["a", 1, 2, 3]), "not finite"),
    ],
)
def test_results_that_do_not_fit_are_refused(results, reason):
    with pytest.raises(UserError, match=reason):
        evaluate_coco_results(one_person()[0], results)


def test_wrong_options_are_refused():
    ground_truth, results = one_person()
    with pytest.raises(UserError, match="3 keypoints but 2 OKS sigmas"):
        evaluate_coco_results(ground_truth, results, sigmas=[0.1, 0.1])
    with pytest.raises(UserError, match="backend is 'fast'"):
        evaluate_coco_results(ground_truth, results, backend="fast")
    with pytest.raises(UserError, match="tasks"):
        evaluate_coco_results(ground_truth, results, tasks=("segm",))
    with pytest.raises(UserError, match="no annotations of persons"):
        evaluate_coco_results({**ground_truth, "annotations": []}, results)


@pytest.fixture
def data_set(tmp_path):
    """A registered data set of 3 images with 2 persons each, its category id 4."""
    content = ground_truth_of(num_images=3, num_persons=2, seed=1)
    for entry in content["annotations"]:
        entry["category_id"] = 4
    content["categories"][0]["id"] = 4
    (tmp_path / "truth.json").write_text(json.dumps(content))
    register_coco_keypoints("evaluated_people", tmp_path / "truth.json", tmp_path)
    yield "evaluated_people", content
    DatasetCatalog.remove("evaluated_people")
    MetadataCatalog.remove("evaluated_people")


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


def test_evaluator_scores_what_the_loader_gives_as_perfect(data_set, tmp_path):
    name, content = data_set
    evaluator = PoseEvaluator(name, output_dir=str(tmp_path / "out"))
    inputs, outputs = perfect_outputs(name)
    before = outputs[0]["instances"].pred_keypoints.clone()
    evaluator.reset()
    for given, output in zip(inputs, outputs, strict=True):
        evaluator.process([given], [output])
    metrics = evaluator.evaluate()
    assert metrics["keypoints"]["AP"] == pytest.approx(100)
    assert metrics["bbox"]["AP"] == pytest.approx(100)
    assert torch.equal(outputs[0]["instances"].pred_keypoints, before)

    # the file holds the annotations' own numbers, both tasks in one entry, and evaluates to the same
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    person = content["annotations"][0]
    assert results[0]["keypoints"][:2] == pytest.approx(person["keypoints"][:2], abs=1e-3)
    assert results[0]["bbox"] == pytest.approx(person["bbox"], abs=1e-3)
    assert (results[0]["image_id"], results[0]["category_id"]) == (1, 4)
    assert_same(evaluate_coco_results(tmp_path / "truth.json", results), metrics)

    evaluator.reset()
    assert evaluator.evaluate()["keypoints"]["AP"] == 0


def test_detectron2s_own_evaluator_agrees(data_set):
    name, _ = data_set
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
        assert {name: found[task][name] for name in expected[task]} == pytest.approx(
            expected[task], nan_ok=True
        )


def test_half_a_pixel_matters(data_set):
    # with very small sigmas any shift of the keypoints would show
    name, _ = data_set
    evaluator = PoseEvaluator(name, sigmas=[1e-4] * 3, tasks=("keypoints",))
    inputs, outputs = perfect_outputs(name)
    evaluator.process(inputs, outputs)
    assert evaluator.evaluate()["keypoints"]["AP"] == pytest.approx(100)


def test_evaluator_from_config(data_set, tmp_path):
    name, _ = data_set
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


def test_detections_of_all_processes_are_evaluated_once(data_set, monkeypatch):
    name, _ = data_set
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


def test_test_sets_are_written_and_not_evaluated(tmp_path):
    content = ground_truth_of()
    content.update(annotations=[], categories=[{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}])
    (tmp_path / "info.json").write_text(json.dumps(content))
    register_coco_keypoints(
        "unlabelled_people", tmp_path / "info.json", tmp_path, Skeleton(NAMES, [], [], SIGMAS)
    )
    try:
        evaluator = PoseEvaluator("unlabelled_people", output_dir=str(tmp_path / "out"))
        instances = Instances((500, 500))
        instances.pred_boxes = Boxes(torch.tensor([[1.0, 2, 3, 4]]))
        instances.scores, instances.pred_classes = torch.tensor([0.5]), torch.tensor([0])
        instances.pred_keypoints = torch.ones(1, 3, 3)
        evaluator.process([{"image_id": 1}], [{"instances": instances}])
        assert evaluator.evaluate() == {}
        (result,) = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
        assert result["keypoints"] == [0.5, 0.5, 1.0] * 3 and result["bbox"] == [1, 2, 2, 2]
    finally:
        DatasetCatalog.remove("unlabelled_people")
        MetadataCatalog.remove("unlabelled_people")


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("evaluate_results", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tool_evaluates_files(tool, tmp_path):
    ground_truth = ground_truth_of(num_images=2, num_persons=3)
    results = results_near(ground_truth, noise=0)
    (tmp_path / "truth.json").write_text(json.dumps(ground_truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    arguments = ["--dataset", str(tmp_path / "truth.json"), "--results", str(tmp_path / "results.json")]
    for backend in BACKENDS:
        tool.main([*arguments, "--output", str(tmp_path / "metrics.json"), "--backend", backend])
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert metrics["keypoints"]["AP"] == pytest.approx(100) and metrics["bbox"]["AP"] == pytest.approx(
            100
        )
    assert None in metrics["bbox"].values()  # no person is small

    # keypoints alone are a valid submission
    (tmp_path / "results.json").write_text(json.dumps([{k: r[k] for k in r if k != "bbox"} for r in results]))
    tool.main([*arguments, "--output", str(tmp_path / "metrics.json")])
    assert list(json.loads((tmp_path / "metrics.json").read_text())) == ["keypoints"]


@pytest.mark.parametrize(
    ("dataset", "content", "reason"),
    [
        ("truth.json", "{}", "no list"),
        ("truth.json", "[", "not valid JSON"),
        ("truth.json", None, "cannot be read"),
        ("truth.json", json.dumps(change(image_id=9)), "image 9"),
        ("none.json", "[]", "does not exist"),
        ("truth", "[]", "is not known"),
    ],
)
def test_tool_ends_with_a_sentence(tool, tmp_path, monkeypatch, capsys, dataset, content, reason):
    monkeypatch.chdir(tmp_path)
    Path("truth.json").write_text(json.dumps(one_person()[0]))
    if content is not None:
        Path("results.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        tool.main(["--dataset", dataset, "--results", "results.json"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and reason in error and error.count("\n") == 1
