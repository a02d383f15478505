"""plot_training: reading metrics.json and drawing its curves."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from querypose.errors import UserError
from querypose.visualization import plot_training
from querypose.visualization.training_plot import read_metrics, running_mean, training_curves

TOOL = Path(__file__).resolve().parents[1] / "tools" / "plot_training.py"


def write(folder, records, end=""):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "metrics.json"
    file.write_text("".join(json.dumps(record) + "\n" for record in records) + end)
    return file


def run_records(offset=0.0):
    constant = {"loss_l1": 1.0, "loss_l1_0": 2.0, "lr": 0.1, "time": 3}
    losses = [{"iteration": i, "total_loss": 10.0 / (i + 1) + offset, **constant} for i in range(0, 100, 20)]
    return losses + [{"iteration": 99, "bbox/AP": 30.0, "keypoints/AP": 50.0, "keypoints/AP50": 80.0}]


def test_a_line_that_is_not_whole_is_left_out(tmp_path):
    # The second line is what a killed run and its resumption leave behind.
    lines = ['{"iteration": 0, "lr": 1}', '{"iteration": 20, "l{"iteration": 20, "lr": 3}']
    lines += ['{"iteration": 40, "lr": 4}', '{"iteration": 60, "l']
    file = tmp_path / "metrics.json"
    file.write_text("\n".join(lines))
    assert read_metrics(file) == {0: {"lr": 1.0}, 40: {"lr": 4.0}}


def test_a_resumed_run_replaces_what_it_repeats(tmp_path):
    first = [{"iteration": 20, "lr": 1.0}, {"iteration": 40, "lr": 2.0}]
    file = write(tmp_path, [*first, {"iteration": 20, "lr": 5.0, "total_loss": 7.0}, {"iteration": 0, "lr": 0.5}])
    assert read_metrics(file) == {0: {"lr": 0.5}, 20: {"lr": 5.0, "total_loss": 7.0}, 40: {"lr": 2.0}}
    assert list(read_metrics(file)) == [0, 20, 40]


def test_losses_are_summed_over_stages_but_not_over_kinds():
    records = {5: {"loss_l1": 1.0, "loss_l1_0": 2.0, "loss_l1_10": 4.0, "loss_l2": 8.0, "eta_seconds": 1.0}}
    curves = training_curves(records)
    assert set(curves) == {"loss_l1", "loss_l2"}
    assert curves["loss_l1"][0].tolist() == [5] and curves["loss_l1"][1].tolist() == [7.0]
    assert curves["loss_l2"][1].tolist() == [8.0]


def test_numbers_that_are_not_finite_are_left_out():
    curves = training_curves({1: {"total_loss": float("nan")}, 2: {"total_loss": 3.0, "keypoints/AP": float("nan")}})
    assert set(curves) == {"total_loss"} and curves["total_loss"][1].tolist() == [3.0]


def test_running_mean():
    assert running_mean([1, 2, 6, 3, 8], 3).tolist() == pytest.approx([1.5, 3, 11 / 3, 17 / 3, 5.5])
    assert running_mean([1, 2, 6], 1).tolist() == [1, 2, 6]
    assert running_mean([4.0], 50).tolist() == [4.0]
    assert running_mean(np.full(30, 2.5), 7).tolist() == pytest.approx([2.5] * 30)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures, save = [], Figure.savefig

    def savefig(self, *args, **kwargs):
        figures.append(self)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def test_one_panel_per_quantity(tmp_path, drawn):
    file = write(tmp_path, run_records(), end='{"iteration": 100, "tot')
    figure = plot_training(file, tmp_path / "new" / "curves.png")
    assert Image.open(figure).format == "PNG"
    panels = {axis.get_title(): axis for axis in drawn[0].axes}
    assert list(panels) == ["total loss", "loss_l1", "keypoints/AP", "bbox/AP", "learning rate"]
    raw, smooth = panels["total loss"].lines
    assert raw.get_xdata().tolist() == [0, 20, 40, 60, 80]
    assert raw.get_ydata().tolist() == pytest.approx([10 / (i + 1) for i in range(0, 100, 20)])
    assert smooth.get_ydata().tolist() == pytest.approx(raw.get_ydata().tolist()), "5 records need no smoothing"
    assert panels["loss_l1"].lines[0].get_ydata().tolist() == [3.0] * 5
    assert panels["total loss"].get_yscale() == "log" and panels["loss_l1"].get_yscale() == "linear"
    assert panels["keypoints/AP"].texts[0].get_text() == "50.0"


def test_runs_differ_in_color_and_are_named_by_folder(tmp_path, drawn):
    files = [write(tmp_path / "first", run_records()), write(tmp_path / "second", run_records(-5.0))]
    plot_training(files, tmp_path / "curves.png")
    figure = drawn[0]
    assert [text.get_text() for text in figure.legends[0].texts] == ["first", "second"]
    total = next(axis for axis in figure.axes if axis.get_title() == "total loss")
    assert total.get_yscale() == "linear", "a loss below 0 has no logarithm"
    assert len({line.get_color() for line in total.lines}) == 2


def test_tool_takes_folders_and_files(tmp_path, drawn, capsys):
    spec = importlib.util.spec_from_file_location("plot_training_tool", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    first, second = write(tmp_path / "first", run_records()), write(tmp_path / "second", run_records(-5.0))
    given = [str(first.parent), str(second), "--output", str(tmp_path / "curves.png"), "--labels", "one", "two"]
    tool.main([*given, "--smoothing", "3"])
    assert f"written: {tmp_path / 'curves.png'}" in capsys.readouterr().out
    assert [text.get_text() for text in drawn[0].legends[0].texts] == ["one", "two"]
    with pytest.raises(UserError, match="2 metrics files need as many labels, not 1"):
        tool.main(given[:-1])
    with pytest.raises(SystemExit) as stopped:
        tool.main([*given, "--smoothing", "0"])
    assert stopped.value.code == 2


def test_unusable_files_are_rejected(tmp_path):
    good = write(tmp_path / "good", run_records())
    for file, output, reason in (
        (good, tmp_path / "curves.docx", "curves.docx cannot be written: Format 'docx' is not supported"),
        (good, good / "curves.png", "cannot be written"),
        (tmp_path / "absent.json", tmp_path / "a.png", "cannot read .*absent.json: No such file"),
        (write(tmp_path, [], end='{"iteration": 3'), tmp_path / "a.png", "holds no training record"),
        (write(tmp_path / "time", [{"iteration": 1, "time": 2.0}]), tmp_path / "a.png", "no losses"),
    ):
        with pytest.raises(UserError, match=reason):
            plot_training(file, output)
