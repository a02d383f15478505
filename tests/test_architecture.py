"""The figure of the model: its names are those of the code, and the same code draws the same file."""

import pytest
from matplotlib.figure import Figure
from tiny_model import tiny_model

from querypose.errors import UserError
from querypose.modeling import decoder as decoder_module
from querypose.visualization.architecture import draw_architecture


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Everything that is written in the figure."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: figures.append(figure))
    draw_architecture(tmp_path / "figure.svg")
    return [text.get_text() for text in figures[0].axes[0].texts]


def test_names_in_the_figure_are_those_of_the_modules(texts):
    model = tiny_model("full")
    decoder = model.decoder
    stage = decoder.keypoint_stages[0]
    written = "\n".join(texts)
    for owner, names in {
        model: ["preprocess", "backbone"],
        decoder: ["proposal_boxes", "instance_queries", "part_queries"],
        stage: ["tower", "part_embedding", "part_update", "self_attention", "feedforward", "heads", "instance_to_part"],
        decoder_module: ["pool_regions"],
    }.items():
        for name in names:
            assert hasattr(owner, name) and name in written
    for module in (decoder.box_stages[0], stage, stage.part_embedding, stage.part_update, stage.heads, model.criterion):
        assert type(module).__name__ in written
    assert hasattr(stage, "instance_interaction") and "instance_interaction" in written


def test_the_same_file_every_time(tmp_path):
    first, second = (draw_architecture(tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second and b"<svg" in first


def test_a_file_of_another_format_is_rejected(tmp_path):
    with pytest.raises(UserError, match="figure.txt cannot be written"):
        draw_architecture(tmp_path / "figure.txt")
