"""docs/CONFIG.md says of every key of QueryPose what it is, and says it as config.py does."""

import inspect
import re
from pathlib import Path

from load_tool import load_tool

from querypose import config


def test_the_page_is_written_from_the_config():
    page = (Path(__file__).resolve().parents[1] / "docs" / "CONFIG.md").read_text(encoding="utf-8")
    expected = load_tool("make_config_reference").config_reference_page()
    assert page == expected, "run: python tools/make_config_reference.py --output docs/CONFIG.md"
    assert "| `SOLVER.AMP.ENABLED` | `False` |" in page
    assert "# dp, width of part queries (Table 2c)\nnode.PART_DIM = 128\n" in page
    assert "| `MODEL.QUERYPOSE.VARIANT` | `full`, `branched`, `light` |" in page


def test_every_key_has_a_comment():
    """A comment stands above each assignment or above the first of several without an empty line between."""
    for block in re.split(r"\n\s*\n", inspect.getsource(config).partition("def _add_model_keys")[2]):
        lines = [line.strip() for line in block.splitlines() if line.startswith("    ")]
        first = next((i for i, line in enumerate(lines) if re.match(r"(cfg|node)\.\w.* = ", line)), None)
        assert first is None or any(line.startswith("#") for line in lines[:first]), block
