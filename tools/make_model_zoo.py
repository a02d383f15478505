"""Write the table of docs/MODEL_ZOO.md anew: python tools/make_model_zoo.py --output docs/MODEL_ZOO.md

Costs are counted from shapes: a minute on a CPU, no weights and no data. The text and the reported AP stay.
"""

from pathlib import Path

from querypose.analysis import count_operations
from querypose.atomic_io import writing
from querypose.cli import run_tool, tool_parser
from querypose.data.annotations import read_json
from querypose.errors import UserError
from querypose.reproduction.runs import REPOSITORY
from querypose.setup_config import setup_config

PAGE = REPOSITORY / "docs" / "MODEL_ZOO.md"
CONFIG_FOLDER = REPOSITORY / "configs"
HEIGHT, WIDTH = 800, 1216


def zoo_configs() -> list[str]:
    """Names of the whole models' configs below `configs/`, without ending: COCO, 50 queries, CrowdPose, others."""
    patterns = ("querypose_*.yaml", "50_queries/*.yaml", "crowdpose/querypose_*.yaml", "quickstart.yaml")
    paths = [path for pattern in patterns for path in sorted(CONFIG_FOLDER.glob(pattern))]
    return [path.relative_to(CONFIG_FOLDER).with_suffix("").as_posix() for path in paths]


def model_zoo_page(results: Path | None = None) -> str:
    """docs/MODEL_ZOO.md with the costs counted anew, and AP from `results`, a folder of metrics by config, if given."""
    before, line, rest = PAGE.read_text(encoding="utf-8").partition("|---|\n")
    table, empty_line, after = rest.partition("\n\n")
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()]
    reported = {row[0].strip("`"): row[-2:] for row in rows}
    lines = []
    for config in zoo_configs():
        cfg = setup_config(str(CONFIG_FOLDER / f"{config}.yaml"))
        model, operations = count_operations(cfg, HEIGHT, WIDTH)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        parts = ("backbone", "decoder.box_stages", "decoder.keypoint_stages", "")
        costs = [f"{cost:.1f}" for cost in (parameters / 1e6, *(operations[part] / 1e9 for part in parts))]
        paper, ours = reported.get(config, ("-", "not yet reproduced"))
        if results and (file := results / f"{config}.json").is_file():
            metrics = read_json(file, "metrics")
            ours = f"{metrics['keypoints']['AP']:.1f}" if "keypoints" in metrics else ours
        node = cfg.MODEL.QUERYPOSE
        lines.append(f"| {' | '.join([f'`{config}`', node.VARIANT, str(node.NUM_QUERIES), *costs, paper, ours])} |")
    return before + line + "\n".join(lines) + empty_line + after


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the page to write; an older one is replaced")
    parser.add_argument("--results", type=Path, help="folder of metrics, CONFIG.json of tools/evaluate_results.py")
    args = parser.parse_args()
    if args.results and not args.results.is_dir():
        raise UserError(f"--results {args.results} is not a folder; give a folder of metrics, or omit the option")
    with writing(args.output):
        args.output.write_text(model_zoo_page(args.results), encoding="utf-8")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    run_tool(main)
