"""The kind and the range of config values, whatever they mean together: numbers within bounds, lists of one kind."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode

from querypose.errors import UserError

_ANY = math.inf

# least and greatest value that a number, and every number of a list, may have
RANGES = {
    "MODEL.QUERYPOSE.NUM_QUERIES": (1, 100_000),
    "MODEL.QUERYPOSE.NUM_STAGES": (1, 1000),
    "MODEL.QUERYPOSE.HIDDEN_DIM": (1, 65_536),
    "MODEL.QUERYPOSE.PART_DIM": (1, 65_536),
    "MODEL.QUERYPOSE.NUM_TOWER_LAYERS": (1, 1000),
    "MODEL.QUERYPOSE.TOWER_DIM": (1, 65_536),
    "MODEL.QUERYPOSE.DYNAMIC_DIM": (1, 65_536),
    "MODEL.QUERYPOSE.NUM_HEADS": (1, 65_536),
    "MODEL.QUERYPOSE.FEEDFORWARD_DIM": (1, 1_000_000),
    "MODEL.QUERYPOSE.BOX_POOLER_RESOLUTION": (1, 1000),
    "MODEL.QUERYPOSE.KEYPOINT_POOLER_RESOLUTION": (1, 1000),
    "MODEL.QUERYPOSE.NUM_CLASS_LAYERS": (0, 1000),
    "MODEL.QUERYPOSE.NUM_BOX_LAYERS": (0, 1000),
    "MODEL.QUERYPOSE.DROPOUT": (0, 0.999),
    "MODEL.QUERYPOSE.LOSS.CLASS_WEIGHT": (0, _ANY),
    "MODEL.QUERYPOSE.LOSS.L1_WEIGHT": (0, _ANY),
    "MODEL.QUERYPOSE.LOSS.GIOU_WEIGHT": (0, _ANY),
    "MODEL.QUERYPOSE.LOSS.KEYPOINT_WEIGHT": (0, _ANY),
    "MODEL.QUERYPOSE.LOSS.HEATMAP_WEIGHT": (0, _ANY),
    "MODEL.QUERYPOSE.LOSS.ATTENTION_WEIGHT": (0, _ANY),
    "MODEL.QUERYPOSE.LOSS.SMOOTH_L1_BETA": (0, _ANY),
    "MODEL.QUERYPOSE.COST.CLASS": (0, _ANY),
    "MODEL.QUERYPOSE.COST.L1": (0, _ANY),
    "MODEL.QUERYPOSE.COST.GIOU": (0, _ANY),
    "MODEL.QUERYPOSE.TEST.TOPK_POSES": (0, _ANY),
    "MODEL.PIXEL_STD": (1e-6, _ANY),
    "MODEL.PIXEL_MEAN": (-_ANY, _ANY),
    "MODEL.FPN.OUT_CHANNELS": (1, 65_536),
    "MODEL.BACKBONE.FREEZE_AT": (0, 5),
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": (0, _ANY),
    "SOLVER.BASE_LR": (0, _ANY),
    "SOLVER.WEIGHT_DECAY": (0, _ANY),
    "SOLVER.WEIGHT_DECAY_NORM": (0, _ANY),
    "SOLVER.WEIGHT_DECAY_BIAS": (0, _ANY),
    "SOLVER.MOMENTUM": (0, 1),
    "SOLVER.GAMMA": (0, _ANY),
    "SOLVER.MAX_ITER": (1, _ANY),
    "SOLVER.STEPS": (0, _ANY),
    "SOLVER.IMS_PER_BATCH": (1, 1_000_000),
    "SOLVER.ACCUMULATION_STEPS": (1, _ANY),
    "SOLVER.WARMUP_FACTOR": (0, 1),
    "SOLVER.WARMUP_ITERS": (0, _ANY),
    "SOLVER.CHECKPOINT_PERIOD": (1, _ANY),
    "SOLVER.CHECKPOINTS_KEPT": (0, _ANY),
    "SOLVER.BACKBONE_MULTIPLIER": (0, _ANY),
    "SOLVER.FLOW_MULTIPLIER": (0, _ANY),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": (1e-12, _ANY),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": (1e-6, _ANY),
    "INPUT.MIN_SIZE_TRAIN": (1, 100_000),
    "INPUT.MAX_SIZE_TRAIN": (1, 100_000),
    "INPUT.MIN_SIZE_TEST": (0, 100_000),
    "INPUT.MAX_SIZE_TEST": (1, 100_000),
    "INPUT.CROP.PROB": (0, 1),
    "INPUT.CROP.SIZE": (1e-6, 100_000),
    "INPUT.CROP.RESIZE_BEFORE": (1, 100_000),
    "SEED": (-1, 2**32 - 1),
    "DATALOADER.NUM_WORKERS": (0, 1000),
    "TEST.DETECTIONS_PER_IMAGE": (1, _ANY),
    "TEST.EVAL_PERIOD": (0, _ANY),
}

# lists that may not be empty, and how many values they have (None: any number of them)
LENGTHS = {
    "MODEL.PIXEL_MEAN": 3,
    "MODEL.PIXEL_STD": 3,
    "MODEL.QUERYPOSE.IN_FEATURES": None,
    "INPUT.MIN_SIZE_TRAIN": None,
    "INPUT.CROP.SIZE": 2,
    "INPUT.CROP.RESIZE_BEFORE": None,
}

# of Detectron2's keys that take one of a few names: the names
_NAMES = {
    "INPUT.FORMAT": ("RGB", "BGR"),
    "INPUT.CROP.TYPE": ("absolute", "absolute_range", "relative", "relative_range"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("horizontal", "none"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("full_model", "norm", "value"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    # the others repeat images of rare categories, of which there are none, or need keys that Detectron2 v0.6 lacks
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler",),
}

# backbones whose features' names are known here
_BACKBONES = (
    "build_hrnet_backbone",
    "build_resnet_fpn_backbone",
    "build_swin_fpn_backbone",
    "build_timm_fpn_backbone",
)

# arguments of timm's constructor that name files or addresses of weights
_TIMM_FILES = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}

# lists that are empty by default, and what they hold
_KINDS = {
    "DATASETS.TRAIN": str,
    "DATASETS.TEST": str,
    "TEST.KEYPOINT_OKS_SIGMAS": float,
    "MODEL.QUERYPOSE.SKELETON.KEYPOINT_NAMES": str,
    "MODEL.QUERYPOSE.SKELETON.SIGMAS": float,
}
# None by default: numbers, if anything
_OPTIONAL_NUMBERS = ("MODEL.QUERYPOSE.TEST.TOPK_POSES", "SOLVER.WEIGHT_DECAY_NORM", "SOLVER.WEIGHT_DECAY_BIAS")


def check_values(cfg: CfgNode, defaults: CfgNode) -> None:
    """Raise a UserError for a value of another kind than its default's, one out of range, and lists of odd lengths.

    Args:
        cfg: the config.
        defaults: of all its keys.
    """
    for key, value, default in _leaves(cfg, defaults):
        if value is None and default is not None:
            raise UserError(f"{key} is None; give a value such as its default, {default!r}")
        if key in _OPTIONAL_NUMBERS and value is not None and not _is(value, float):
            raise UserError(f"{key} is {value!r}; it must be a number, or None")
        kind = _KINDS.get(key) or _kind_of(default)
        if kind and isinstance(value, list | tuple):
            odd = [item for item in value if not _is(item, kind)]
            if odd:
                what = "text" if kind is str else "numbers"
                raise UserError(f"{key} holds {odd[0]!r}; give a list of {what}, such as {default!r}")
        if key in LENGTHS:
            length = LENGTHS[key]
            if not value or (length and len(value) != length):
                raise UserError(f"{key} has {len(value)} values; give {length or 'one or more'}, such as {default!r}")
        if key in RANGES:
            _check_range(key, value, *RANGES[key])


def check_detectron2_values(cfg: CfgNode) -> None:
    """Raise a UserError for values of Detectron2's keys that it would find in the middle of the start, or never."""
    for key, names in _NAMES.items():
        value = _get(cfg, key)
        if value not in names:
            raise UserError(f"{key} is {value!r}; valid are {', '.join(names)}")
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise UserError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}; give cpu, cuda or cuda:1") from error
    if list(cfg.SOLVER.STEPS) != sorted(set(cfg.SOLVER.STEPS)):
        raise UserError(f"SOLVER.STEPS is {cfg.SOLVER.STEPS}; it must rise from each to the next")
    crop = cfg.INPUT.CROP
    if crop.TYPE == "absolute_range" and crop.SIZE[0] > crop.SIZE[1]:
        raise UserError(f"INPUT.CROP.SIZE is {crop.SIZE}; with TYPE 'absolute_range' the smaller side comes first")
    if crop.TYPE.startswith("relative") and max(crop.SIZE) > 1:
        raise UserError(f"INPUT.CROP.SIZE is {crop.SIZE}; with TYPE '{crop.TYPE}' both must be at most 1")
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(cfg.INPUT.MIN_SIZE_TRAIN) != 2:
        raise UserError("INPUT.MIN_SIZE_TRAIN must hold least and greatest, as MIN_SIZE_TRAIN_SAMPLING is 'range'")
    if cfg.MODEL.LOAD_PROPOSALS:
        # their files are pickles, which can run any program
        raise UserError("MODEL.LOAD_PROPOSALS is True, but QueryPose learns its proposals; set it to False")
    if cfg.MODEL.META_ARCHITECTURE == "QueryPose":
        made = {"p2", "p3", "p4", "p5"}
        if cfg.MODEL.BACKBONE.NAME != "build_hrnet_backbone":
            made = {name.replace("res", "p") for name in cfg.MODEL.FPN.IN_FEATURES}
        odd = [name for name in cfg.MODEL.QUERYPOSE.IN_FEATURES if name not in made]
        # a backbone of somebody else's has names of its own
        if odd and cfg.MODEL.BACKBONE.NAME in _BACKBONES:
            raise UserError(
                f"MODEL.QUERYPOSE.IN_FEATURES names {odd[0]!r}, which the backbone does not make; valid are "
                f"{', '.join(sorted(made))}"
            )
    if not cfg.OUTPUT_DIR:
        raise UserError("OUTPUT_DIR is empty; name a folder for the results")
    files = sorted(_TIMM_FILES & cfg.MODEL.TIMM.OPTIONS.keys())
    if files:
        raise UserError(f"MODEL.TIMM.OPTIONS.{files[0]} is not for here; give weights by MODEL.WEIGHTS")


def _check_range(key: str, value: Any, low: float, high: float) -> None:
    for number in value if isinstance(value, list | tuple) else [value]:
        if number is None or (low <= number <= high and math.isfinite(number)):
            continue
        if not math.isfinite(number):
            bounds = "a finite number"
        elif number > high:
            bounds = f"at most {high:g}"
        else:
            bounds = "0 or more" if low == 0 else f"at least {low:g}"
        raise UserError(f"{key} is {value!r}; it must be {bounds}")


def _get(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _leaves(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, defaults.get(name, CfgNode()), f"{prefix}{name}.")
        elif name in defaults:
            yield f"{prefix}{name}", value, defaults[name]


def _kind_of(default: Any) -> type | None:
    """The kind of a flat list's values; None for anything else."""
    if isinstance(default, list | tuple) and default:
        for kind in (str, float):
            if all(_is(item, kind) for item in default):
                return kind
    return None


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind)
