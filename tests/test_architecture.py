"""The figure of the model: its names are those of the code, and the same code draws the same file."""

from load_tool import load_tool
from matplotlib.figure import Figure
from tiny_model import tiny_model

from querypose.modeling import decoder as decoder_module


def test_names_in_the_figure_are_those_of_the_modules(tmp_path, monkeypatch):
    draw, figures, files = (
        load_tool("draw_architecture").draw_architecture,
        [],
        [tmp_path / "a.svg", tmp_path / "b.svg"],
    )
    with monkeypatch.context() as patched:
        patched.setattr(Figure, "savefig", lambda figure, *args, **options: figures.append(figure))
        draw(files[0])
    written = "\n".join(text.get_text() for text in figures[0].axes[0].texts)
    model = tiny_model("full")
    decoder = model.decoder
    stage = decoder.keypoint_stages[0]
    for owner, names in {
        model: "preprocess backbone",
        decoder: "proposal_boxes instance_queries part_queries",
        stage: "tower part_embedding part_update self_attention feedforward heads instance_to_part",
        decoder_module: "pool_regions",
    }.items():
        for name in names.split():
            assert hasattr(owner, name) and name in written
    for module in (decoder.box_stages[0], stage, stage.part_embedding, stage.part_update, stage.heads, model.criterion):
        assert type(module).__name__ in written
    assert hasattr(stage, "instance_interaction") and "instance_interaction" in written
    for file in files:
        draw(file)
    assert files[0].read_bytes() == files[1].read_bytes()
