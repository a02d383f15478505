"""plot_training: reading metrics.json and drawing its curves; the figure of the model."""

import json

import pytest
from load_tool import TOOLS, load_file, load_tool
from matplotlib.figure import Figure
from tiny_model import tiny_model

from querypose.errors import UserError
from querypose.modeling import decoder as decoder_module
from querypose.visualization.plots import plot_training, read_curves

FIGURE = TOOLS.parent / "docs/draw_architecture.py"


def write(folder, records):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "metrics.json"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def run_records(offset=0.0):
    constant = {"loss_l1": 1.0, "loss_l1_0": 2.0, "lr": 0.1, "time": 3}
    losses = [{"iteration": i, "total_loss": 10.0 / (i + 1) + offset, **constant} for i in range(0, 100, 20)]
    return losses + [{"iteration": 99, "bbox/AP": 30.0, "keypoints/AP": 50.0, "keypoints/AP50": 80.0}]


def test_reading(tmp_path):
    """Losses are summed over stages, not over kinds; what a killed run and its resumption leave behind; no NaN."""
    (tmp_path / "metrics.json").write_text(
        """{"iteration": 20, "lr": 1}
        {"iteration": 30, "l{"iteration": 30, "lr": 3}
        {"iteration": 40, "lr": 4, "loss_l2": NaN, "bbox/AP": NaN}
        {"iteration": 20, "lr": 5, "loss_l1": 1, "loss_l1_0": 2, "loss_l1_10": 4, "loss_l2": 8, "eta_seconds": 1}
        {"iteration": 0, "lr": 0.5}
        {"iteration": "x", "lr": 9}
        {"iteration": 60, "l"""
    )
    curves = {name: curve.tolist() for name, curve in read_curves(tmp_path / "metrics.json").items()}
    assert curves == {"lr": [[0, 20, 40], [0.5, 5, 4]], "loss_l1": [[20], [7]], "loss_l2": [[20], [8]]}


@pytest.fixture
def drawn(monkeypatch):
    """The Matplotlib figures that were saved."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: figures.append(figure))
    return figures


def test_one_panel_per_quantity(tmp_path, drawn):
    plot_training([write(tmp_path, run_records())], tmp_path / "new" / "curves.png", ["run"])
    panels = {axis.get_title(): axis for axis in drawn[0].axes}
    assert list(panels) == ["total loss", "loss_l1", "keypoints/AP", "bbox/AP", "learning rate"]
    for line in panels["total loss"].lines:  # 5 records need no smoothing
        assert line.get_xdata().tolist() == [0, 20, 40, 60, 80]
        assert line.get_ydata().tolist() == pytest.approx([10 / (i + 1) for i in range(0, 100, 20)])
    assert panels["loss_l1"].lines[0].get_ydata().tolist() == [3.0] * 5
    assert panels["total loss"].get_yscale() == "log" and panels["loss_l1"].get_yscale() == "linear"
    assert panels["keypoints/AP"].texts[0].get_text() == "50.0"


def test_tool_draws_runs_by_folder_and_file_in_different_colors(tmp_path, drawn):
    main = load_tool("plot_training").main
    first, second = write(tmp_path / "first", run_records()), write(tmp_path / "second", run_records(-5.0))
    given = [str(first.parent), str(second), "--output", str(tmp_path / "curves.png")]
    main(given)
    main([*given, "--labels", "one", "two"])
    names = [[text.get_text() for text in figure.legends[0].texts] for figure in drawn]
    assert names == [given[:2], ["one", "two"]]
    total = next(axis for axis in drawn[0].axes if axis.get_title() == "total loss")
    assert total.get_yscale() == "linear", "a loss below 0 has no logarithm"
    assert len({line.get_color() for line in total.lines}) == 2


def test_a_file_without_curves_is_rejected(tmp_path):
    with pytest.raises(UserError, match="no losses"):
        plot_training([write(tmp_path, [{"iteration": 1, "time": 2.0, "lr": None}])], tmp_path / "a.png", ["run"])


def test_names_in_the_figure_are_those_of_the_modules(tmp_path, drawn):
    load_file(FIGURE).draw_architecture(tmp_path / "figure.svg")
    written = "\n".join(text.get_text() for text in drawn[0].axes[0].texts)
    model = tiny_model("full")
    decoder, stage = model.decoder, model.decoder.keypoint_stages[0]
    parts = "tower part_embedding part_update self_attention feedforward heads instance_to_part instance_interaction"
    named = {model: "preprocess backbone", decoder: "proposal_boxes instance_queries part_queries", stage: parts}
    for owner, names in {**named, decoder_module: "pool_regions"}.items():
        assert all(hasattr(owner, name) and name in written for name in names.split())
    for module in (decoder.box_stages[0], stage, stage.part_embedding, stage.part_update, stage.heads, model.criterion):
        assert type(module).__name__ in written
