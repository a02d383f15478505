"""docs/CONFIG.md: the keys of `querypose.config` with their defaults and comments, as they stand there."""

import inspect
import textwrap

from detectron2.config import get_cfg

from querypose import config
from querypose.config_checks import leaves, valid_values

_DETECTRON2_PAGE = "https://detectron2.readthedocs.io/en/latest/modules/config.html"
COMMAND = "python tools/make_config_reference.py --output docs/CONFIG.md"

# headings, and the function of querypose.config that adds the keys below each
_SECTIONS = {
    "Model": config._add_model_keys,
    "Backbones": config._add_backbone_keys,
    "Training": config._add_solver_keys,
    "Images, data sets and evaluation": config._add_data_keys,
}

# keys of Detectron2 that a run of QueryPose often sets; their defaults are read, not written here
_DETECTRON2_KEYS = {
    "MODEL.WEIGHTS": "weights to train from or to evaluate: a file, `detectron2://..`, `timm://..`",
    "MODEL.DEVICE": '"cuda", "cpu"; without a GPU "cuda" becomes "cpu"',
    "MODEL.BACKBONE.NAME": "one of the backbones below, or `build_resnet_fpn_backbone`",
    "MODEL.BACKBONE.FREEZE_AT": "Detectron2's ResNet: how many of its first stages are frozen",
    "DATASETS.TRAIN": "registered data sets, `FILE.json`, `FILE.json@IMAGE_FOLDER`, `FILE.yaml@SPLIT`: one, or a tuple",
    "DATASETS.TEST": "the same, for evaluation",
    "DATALOADER.NUM_WORKERS": "processes that read images, for every GPU",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "exclude images without persons from training",
    "INPUT.RANDOM_FLIP": '"horizontal" or "none"',
    "INPUT.MIN_SIZE_TEST": "short side of an image in inference, in pixels",
    "INPUT.MAX_SIZE_TEST": "the most that its long side may have",
    "SOLVER.MAX_ITER": "iterations of a training run",
    "SOLVER.STEPS": "iterations after which the learning rate is multiplied by `SOLVER.GAMMA`",
    "SOLVER.LR_SCHEDULER_NAME": '"WarmupMultiStepLR", "WarmupCosineLR"',
    "SOLVER.REFERENCE_WORLD_SIZE": "GPUs that batch and schedule are meant for; with another number Detectron2 scales "
    "batch, learning rate and schedule; 0 scales nothing",
    "SOLVER.CHECKPOINT_PERIOD": "iterations between checkpoints",
    "SOLVER.AMP.ENABLED": "train in bfloat16",
    "TEST.EVAL_PERIOD": "iterations between evaluations; 0 evaluates at the end only",
    "TEST.DETECTIONS_PER_IMAGE": "most persons that are returned for an image",
    "TEST.KEYPOINT_OKS_SIGMAS": "OKS sigmas, one for each keypoint, instead of the data set's",
    "OUTPUT_DIR": "folder for checkpoints, logs, `config.yaml` and results",
    "SEED": "of the random numbers; -1 takes another one in every run",
}


def config_reference_page() -> str:
    """The text of docs/CONFIG.md."""
    cfg = get_cfg()
    config.add_querypose_config(cfg)
    defaults = dict(leaves(cfg))
    lines = [
        "# Configuration reference",
        f"Written by `{COMMAND}` from `querypose/config.py`; do not edit it, run the tool again.",
        "",
        "A config is a YAML file (`--config-file`) over these defaults; `_BASE_` names the file that it starts from; "
        "`KEY VALUE` pairs at the end of a command override both. Unknown keys and invalid values are refused "
        f"with one sentence. All keys of [Detectron2's reference]({_DETECTRON2_PAGE}) exist too; those that QueryPose "
        "does not read, such as `MODEL.RPN`'s, are without effect.",
        "",
        "## Detectron2's keys that a run often sets",
        "",
        "| key | default | meaning |",
        "|---|---|---|",
        *[f"| `{key}` | `{defaults[key]!r}` | {meaning} |" for key, meaning in _DETECTRON2_KEYS.items()],
    ]
    for title, add_keys in _SECTIONS.items():
        body = textwrap.dedent(inspect.getsource(add_keys).partition("\n")[2])
        lines += ["", f"## {title}", "", "```python", body.rstrip(), "```"]
    lines += ["", "## Valid values", "", "| key | values |", "|---|---|"]
    lines += [f"| `{key}` | {', '.join(f'`{value}`' for value in valid)} |" for key, valid in valid_values().items()]
    return "\n".join(lines) + "\n"
