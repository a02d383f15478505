"""Write docs/CONFIG.md anew: python tools/make_config_reference.py --output docs/CONFIG.md

It holds the keys of `querypose.config` as they stand there, and the defaults of Detectron2's.
"""

import inspect
import re
import textwrap
from pathlib import Path

from detectron2.config import get_cfg

from querypose import config
from querypose.atomic_io import writing
from querypose.cli import run_tool, tool_parser
from querypose.config_checks import leaves, valid_values

PAGE = Path(__file__).resolve().parents[1] / "docs" / "CONFIG.md"

# headings, and the function of querypose.config that adds the keys below each
SECTIONS = {
    "Model": config._add_model_keys,
    "Backbones": config._add_backbone_keys,
    "Training": config._add_solver_keys,
    "Images, data sets and evaluation": config._add_data_keys,
}


def config_reference_page() -> str:
    """The text of docs/CONFIG.md."""
    cfg = get_cfg()
    config.add_querypose_config(cfg)
    defaults = dict(leaves(cfg))
    page = PAGE.read_text(encoding="utf-8").partition(f"\n## {next(iter(SECTIONS))}\n")[0]
    page = re.sub(r"(?m)^\| `([\w.]+)` \| `.*?` \|", lambda row: f"| `{row[1]}` | `{defaults[row[1]]!r}` |", page)
    for title, add_keys in SECTIONS.items():
        body = textwrap.dedent(inspect.getsource(add_keys).partition("\n")[2])
        page += f"\n## {title}\n\n```python\n{body.rstrip()}\n```\n"
    page += "\n## Valid values\n\n| key | values |\n|---|---|\n"
    for key, valid in valid_values().items():
        page += f"| `{key}` | {', '.join(f'`{value}`' for value in valid)} |\n"
    return page


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the page to write; an older one is replaced")
    args = parser.parse_args()
    with writing(args.output):
        args.output.write_text(config_reference_page(), encoding="utf-8")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    run_tool(main)
