"""tools/evaluate_results.py: files of results in, metrics out; bad input is in test_bad_input and test_bad_flags."""

import json

import pytest
from evaluation_data import COCO_BACKENDS, NAMES, SIGMAS, ground_truth_of, results_near
from load_tool import load_tool

from querypose.evaluation import evaluate_coco_results


def evaluate(folder, truth, results, *options):
    """What the tool writes about them to its --output."""
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    files = {"--dataset": "truth.json", "--results": "results.json", "--output": "metrics.json"}
    arguments = [word for option, file in files.items() for word in (option, str(folder / file))]
    load_tool("evaluate_results").main([*arguments, *options])
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("backend", COCO_BACKENDS)
def test_metrics(tmp_path, backend):
    truth = ground_truth_of(num_images=2, num_persons=3)
    results = results_near(truth, noise=0)
    metrics = evaluate(tmp_path, truth, results, "--backend", backend)
    assert metrics["keypoints"]["AP"] == pytest.approx(100) and metrics["bbox"]["AP"] == pytest.approx(100)
    assert None in metrics["bbox"].values(), "no person is small"
    for result in results:
        del result["bbox"]
    assert list(evaluate(tmp_path, truth, results)) == ["keypoints"], "keypoints alone are a valid submission"


def test_sigmas_and_errors_by_keypoint(tmp_path, capsys):
    truth = ground_truth_of(num_images=3, num_persons=3)
    results = results_near(truth, noise=0.03)
    picture = tmp_path / "keypoints.png"
    metrics = evaluate(tmp_path, truth, results, "--per-keypoint", str(picture), "--sigmas", "0.1", "0.1", "0.1")
    assert list(metrics["per_keypoint"]["keypoints"]) == NAMES and picture.stat().st_size > 5000
    expected = evaluate_coco_results(truth, results, [0.1] * 3)["keypoints"]["AP"]
    assert metrics["keypoints"]["AP"] == pytest.approx(expected)
    assert expected > evaluate_coco_results(truth, results, SIGMAS)["keypoints"]["AP"]
    assert "left_hand" in capsys.readouterr().out
