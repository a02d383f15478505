"""COCO's average precision: known numbers, agreement of the backends, what may be missing; the tool."""

import json
import math

import pytest
from evaluation_data import COCO_BACKENDS, NAMES, SIGMAS, assert_same, ground_truth_of, one_person, results_near
from load_tool import load_tool

from querypose.errors import UserError
from querypose.evaluation import evaluate_coco_results
from querypose.evaluation.ground_truth import load_ground_truth


@pytest.mark.parametrize("backend", COCO_BACKENDS)
@pytest.mark.parametrize(("oks", "ap"), [(0.999, 100), (0.77, 60), (0.501, 10), (0.499, 0)])
def test_keypoint_ap_against_the_closed_form(backend, oks, ap):
    # OKS of one keypoint is exp(-d^2 / (2 area (2 sigma)^2)); AP counts thresholds .50, .55, .. , .95
    shift = math.sqrt(-2 * math.log(oks)) * 100 * 2 * SIGMAS[0]
    ground_truth, results = one_person(shift)
    metrics = evaluate_coco_results(ground_truth, results, backend=backend)
    assert metrics["keypoints"]["AP"] == pytest.approx(ap)
    assert metrics["keypoints"]["AP50"] == pytest.approx(100 * (oks > 0.5))
    assert metrics["keypoints"]["AR75"] == pytest.approx(100 * (oks > 0.75))
    assert metrics["bbox"]["AP"] == pytest.approx(100) and math.isnan(metrics["bbox"]["APs"])
    # twice the sigma: a fourth of the exponent
    looser = evaluate_coco_results(ground_truth, results, [2 * SIGMAS[0], 1, 1], ("keypoints",), backend)
    assert list(looser) == ["keypoints"]
    assert looser["keypoints"]["AP"] == pytest.approx(10 * sum(oks**0.25 >= t / 100 for t in range(50, 100, 5)))


@pytest.mark.parametrize(("noise", "extra"), [(0.0, 1), (0.05, 1), (0.1, 3), (0.4, 1)])
def test_backends_agree_on_random_data(noise, extra):
    ground_truth = ground_truth_of(num_images=12, num_persons=6, seed=3, extra=extra)
    results = results_near(ground_truth, noise) + results_near(ground_truth, 2 * noise + 0.1, seed=1)
    before = json.dumps([ground_truth, results])
    fast, official = (evaluate_coco_results(ground_truth, results, backend=backend) for backend in COCO_BACKENDS)
    assert json.dumps([ground_truth, results]) == before
    assert_same(fast, official)
    if noise == 0.1:
        assert 1 < official["keypoints"]["AP"] < 99  # else there would be little to agree about


@pytest.mark.parametrize("backend", COCO_BACKENDS)
def test_without_detections_every_ap_is_zero(backend, messages):
    metrics = evaluate_coco_results(ground_truth_of(num_images=2), [], backend=backend)
    assert metrics["bbox"]["AP"] == metrics["keypoints"]["AP"] == metrics["keypoints"]["AR"] == 0
    assert "not a single detection" in messages()


def test_annotations_without_persons_and_unknown_backends_are_refused():
    with pytest.raises(UserError, match="no annotations of persons"):
        evaluate_coco_results({**one_person()[0], "annotations": []}, [])
    with pytest.raises(UserError, match="backend is 'x'; it must be one of faster-coco-eval, pycocotools"):
        evaluate_coco_results(*one_person(), backend="x")


def test_scorers_see_images_in_the_order_of_their_ids():
    """Detections of equal score count in this order, so that AP is that of the official tools on the same file."""
    truth = one_person()[0]
    truth["images"] = [{**truth["images"][0], "id": number} for number in (30, 1, 200)]
    content, _ = load_ground_truth(truth).numbered([])
    assert [image["id"] for image in content["images"]] == [2, 1, 3]


def run_tool(folder, truth, results, *options):
    """What the tool writes about them to its --output."""
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    files = {"--dataset": "truth.json", "--results": "results.json", "--output": "metrics.json"}
    arguments = [word for option, file in files.items() for word in (option, str(folder / file))]
    load_tool("evaluate_results").main([*arguments, *options])
    return json.loads((folder / "metrics.json").read_text())


def test_metrics_of_the_tool(tmp_path):
    truth = ground_truth_of(num_images=2, num_persons=3)
    results = results_near(truth, noise=0)
    metrics = run_tool(tmp_path, truth, results, "--backend", "pycocotools")
    assert metrics["keypoints"]["AP"] == pytest.approx(100) and metrics["bbox"]["AP"] == pytest.approx(100)
    assert None in metrics["bbox"].values(), "no person is small"
    without_boxes = [{**result, "bbox": None} for result in results]
    assert evaluate_coco_results(truth, without_boxes, tasks=("keypoints",))["keypoints"]["AP"] == pytest.approx(100)
    del results[0]["bbox"]
    assert list(run_tool(tmp_path, truth, results)) == ["keypoints"], "keypoints alone are a valid submission"


def test_sigmas_and_errors_by_keypoint(tmp_path, capsys):
    truth = ground_truth_of(num_images=3, num_persons=3)
    results = results_near(truth, noise=0.03)
    picture = tmp_path / "keypoints.png"
    metrics = run_tool(tmp_path, truth, results, "--per-keypoint", str(picture), "--sigmas", "0.1", "0.1", "0.1")
    assert list(metrics["per_keypoint"]["keypoints"]) == NAMES and picture.stat().st_size > 5000
    expected = evaluate_coco_results(truth, results, [0.1] * 3)["keypoints"]["AP"]
    assert metrics["keypoints"]["AP"] == pytest.approx(expected)
    assert expected > evaluate_coco_results(truth, results, SIGMAS)["keypoints"]["AP"]
    assert "left_hand" in capsys.readouterr().out
