"""tools/evaluate_results.py: files of results in, metrics out."""

import json
import logging
from pathlib import Path

import pytest
from detectron2.utils.logger import setup_logger
from evaluation_data import COCO_BACKENDS, change, ground_truth_of, one_person, results_near
from load_tool import load_tool


@pytest.fixture(autouse=True)
def no_handlers():
    """A handler of the tool writes to the stdout of its test."""
    yield
    logging.getLogger("querypose").handlers.clear()
    setup_logger.cache_clear()


@pytest.fixture(scope="module")
def tool():
    return load_tool("evaluate_results")


def test_tool_evaluates_files(tool, tmp_path):
    ground_truth = ground_truth_of(num_images=2, num_persons=3)
    results = results_near(ground_truth, noise=0)
    (tmp_path / "truth.json").write_text(json.dumps(ground_truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    arguments = ["--dataset", str(tmp_path / "truth.json"), "--results", str(tmp_path / "results.json")]
    for backend in COCO_BACKENDS:
        tool.main([*arguments, "--output", str(tmp_path / "metrics.json"), "--backend", backend])
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert metrics["keypoints"]["AP"] == pytest.approx(100) and metrics["bbox"]["AP"] == pytest.approx(100)
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
