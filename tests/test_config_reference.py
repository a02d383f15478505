"""docs/CONFIG.md says of every key of QueryPose what it is, and says it as config.py does."""

from pathlib import Path

import pytest
from detectron2.config import get_cfg

from querypose.analysis.config_reference import Keys, Note, config_reference_page, flatten, read_config_source
from querypose.config import add_querypose_config
from querypose.config_checks import valid_values

PAGE = Path(__file__).resolve().parents[1] / "docs" / "CONFIG.md"


def own_keys() -> set[str]:
    """Keys that Detectron2 lacks or gives another value."""
    plain, cfg = get_cfg(), get_cfg()
    add_querypose_config(cfg)
    before = flatten(plain)
    return {key for key, value in flatten(cfg).items() if key not in before or before[key] != value}


def test_every_key_has_a_comment():
    groups = [item for item in read_config_source() if isinstance(item, Keys)]
    documented = [name for group in groups for name in group.names]
    assert len(documented) == len(set(documented))
    assert own_keys() <= set(documented)
    assert [group.names for group in groups if not group.comment] == []


def test_the_page_is_what_the_comments_say():
    assert PAGE.read_text(encoding="utf-8") == config_reference_page(), (
        "run: python tools/make_config_reference.py --output docs/CONFIG.md"
    )


def test_valid_values_are_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    own = {key: values for key, values in valid_values().items() if key.startswith("MODEL.QUERYPOSE.")}
    assert len(own) == 10
    for key, values in own.items():
        row = next(line for line in page.splitlines() if line.startswith("| ") and f"`{key}`" in line.split("|")[1])
        assert ", ".join(f"`{value}`" for value in values) in row


SOURCE = """
def _add_model_keys(cfg):
    # a note
    # of two lines

    # the first
    # comment
    cfg.A = 1
    node = cfg.NODE = CfgNode()
    # the second
    node.B = 2
    node.C = CfgNode({"D": 3, "E": 4})

    node.F = 5
def _add_backbone_keys(cfg):
    # any key
    cfg.G = CfgNode(new_allowed=True)
def _add_solver_keys(cfg):
    pass
def _add_data_keys(cfg):
    pass
"""


def test_comments_belong_to_the_assignments_below_them():
    assert read_config_source(SOURCE) == [
        Note("Model", ["a note", "of two lines"]),
        Keys("Model", ["A"], "the first comment"),
        Keys("Model", ["NODE.B", "NODE.C.D", "NODE.C.E"], "the second"),
        Keys("Model", ["NODE.F"], ""),
        Keys("Backbones", ["G"], "any key"),
    ]


@pytest.mark.parametrize("output", ["missing/CONFIG.md", "."])
def test_an_output_that_cannot_be_written_is_told(tmp_path, monkeypatch, output):
    import runpy

    from querypose.errors import UserError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["make_config_reference.py", "--output", output])
    tool = runpy.run_path(str(PAGE.parents[1] / "tools" / "make_config_reference.py"))
    with pytest.raises(UserError, match="cannot be written"):
        tool["main"]()
