"""docs/MODEL_ZOO.md: cost, reported AP and pretrained weights of every shipped config."""

import json
from pathlib import Path

from querypose.analysis.flops import count_operations
from querypose.errors import UserError
from querypose.reproduction import load_tables
from querypose.setup_config import setup_config

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"
HEIGHT, WIDTH = 800, 1216
NOT_YET = "not yet reproduced"
NOT_OF_THE_PAPER = {
    "querypose_small": "[below](#small-model-for-photographs)",
    "quickstart": "synthetic people: [weights](../weights/README.md)",
}
# keypoint AP of complete models in the ablations and of the authors' downloads
OTHERWISE_REPORTED = {
    "querypose_R50_1x": "64.9 (Table 3)",
    "querypose_light_HRNet-W32": "69.8 (authors' download)",
    "querypose_light_HRNet-W48": "71.0 (authors' download)",
}
COMMAND = "python tools/make_model_zoo.py --output docs/MODEL_ZOO.md"


def zoo_configs() -> list[str]:
    """Names of the whole models' configs below `configs/`, without ending: COCO, 50 queries, CrowdPose, others."""
    patterns = ("querypose_*.yaml", "50_queries/*.yaml", "crowdpose/querypose_*.yaml", "quickstart.yaml")
    paths = [path for pattern in patterns for path in sorted(CONFIG_FOLDER.glob(pattern))]
    return [path.relative_to(CONFIG_FOLDER).with_suffix("").as_posix() for path in paths]


def reported(config: str) -> str:
    """Keypoint AP and where it is reported, of a config by its name below `configs/`; "-" where it is not."""
    for table in load_tables():
        for row in table.rows:
            if row.train == f"configs/{config}.yaml":
                return f"{row.paper[0]} ({table.title.partition(':')[0]})"
    return OTHERWISE_REPORTED.get(config, "-")


def reproduced(config: str, results: Path | None) -> str:
    """Keypoint AP in percent from `<results>/<config>.json`, or that there is none.

    Raises:
        UserError: a file that is not a record of metrics.
    """
    if config in NOT_OF_THE_PAPER:
        return NOT_OF_THE_PAPER[config]
    path = results / f"{config}.json" if results else None
    if path is None or not path.is_file():
        return NOT_YET
    try:
        return f"{float(json.loads(path.read_text())['keypoints']['AP']):.1f}"
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no keypoint AP; write it with tools/evaluate_results.py --output {path}"
        ) from error


def zoo_row(config: str, results: Path | None = None) -> str:
    """The table's line of one config."""
    cfg = setup_config(str(CONFIG_FOLDER / f"{config}.yaml"))
    model, operations = count_operations(cfg, HEIGHT, WIDTH)
    node, parameters = cfg.MODEL.QUERYPOSE, sum(parameter.numel() for parameter in model.parameters())
    cells = [f"`{config}`", node.VARIANT, str(node.NUM_QUERIES), f"{parameters / 1e6:.1f}"]
    parts = ("backbone", "decoder.box_stages", "decoder.keypoint_stages", "")
    cells += [f"{operations[part] / 1e9:.1f}" for part in parts]
    return f"| {' | '.join([*cells, reported(config), reproduced(config, results)])} |\n"


def model_zoo_page(results: Path | None = None) -> str:
    """The whole page, from `model_zoo.md`; `results` is a folder of metrics by config, if there are any."""
    page = Path(__file__).with_name("model_zoo.md").read_text(encoding="utf-8")
    rows = "".join(zoo_row(config, results) for config in zoo_configs())
    for name, text in (("command", COMMAND), ("rows", rows), ("height", HEIGHT), ("width", WIDTH)):
        page = page.replace(f"{{{name}}}", str(text))
    return page
