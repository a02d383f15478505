"""Checks of a config before anything is built: values of one key, and keys that contradict each other."""

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

from querypose import modeling
from querypose.config import add_querypose_config
from querypose.errors import UserError
from querypose.modeling.backbones.swin import check_swin

# of Detectron2's layers; "" for none
_NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")
_VALID_VALUES = {
    "MODEL.QUERYPOSE.VARIANT": ("full", "branched", "light"),
    "MODEL.QUERYPOSE.INITIALIZATION": ("deliberate", "authors"),
    "MODEL.QUERYPOSE.TRAIN_QUERIES": ("all", "matched"),
    "MODEL.CHANNELS_LAST": (None, True, False),
    "MODEL.COMPILE": ("none", "default", "reduce-overhead"),
    "MODEL.HRNET.NECK": ("lateral", "pooled"),
    "MODEL.HRNET.NORM": ("BN", "FrozenBN", "SyncBN"),
    "MODEL.TIMM.NORM": ("BN", "FrozenBN", "SyncBN"),
    "SOLVER.NON_FINITE": ("stop", "skip"),
    "TEST.EVALUATOR_BACKEND": ("faster-coco-eval", "pycocotools"),
    # Detectron2's keys
    "INPUT.FORMAT": ("RGB", "BGR"),
    "INPUT.CROP.TYPE": ("absolute", "absolute_range", "relative", "relative_range"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("horizontal", "none"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("full_model",),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "MODEL.FPN.NORM": _NORMS,
    "MODEL.RESNETS.NORM": _NORMS,
    # the other samplers repeat images of rare categories, or need keys that Detectron2 v0.6 lacks
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler",),
    # QueryPose learns its proposals; Detectron2 would unpickle their files, which can run any code
    "MODEL.LOAD_PROPOSALS": (False,),
}

# positive, as are all whole numbers of MODEL.QUERYPOSE that are positive by default
_POSITIVE = re.compile(
    r"INPUT\.(MIN_SIZE_TRAIN|MAX_SIZE_TRAIN|MAX_SIZE_TEST|CROP\.SIZE)"
    r"|MODEL\.(PIXEL_STD|ROI_(BOX|KEYPOINT)_HEAD\.POOLER_RESOLUTION|RESNETS\.(NUM_GROUPS|WIDTH_PER_GROUP|\w+_CHANNELS))"
    r"|SOLVER\.(MAX_ITER|IMS_PER_BATCH|ACCUMULATION_STEPS|CHECKPOINT_PERIOD|CLIP_GRADIENTS\.CLIP_VALUE)"
)

# arguments of timm's constructor that name files or addresses of weights
_TIMM_FILES = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}


def valid_values() -> dict[str, list[Any]]:
    """The valid values of every key that takes one of a few, names in the registries included."""
    registries = {
        "MODEL.QUERYPOSE.QUERY_INTERACTION": modeling.QUERY_INTERACTION_REGISTRY,
        "MODEL.QUERYPOSE.KEYPOINT_INTERACTION": modeling.QUERY_INTERACTION_REGISTRY,
        "MODEL.QUERYPOSE.KEYPOINT_STAGE": modeling.KEYPOINT_STAGE_REGISTRY,
        "MODEL.QUERYPOSE.PART_EMBEDDING": modeling.PART_EMBEDDING_REGISTRY,
        "MODEL.QUERYPOSE.PART_UPDATE": modeling.PART_UPDATE_REGISTRY,
        "MODEL.QUERYPOSE.PART_DIVISION": modeling.PART_DIVISION_REGISTRY,
        "MODEL.QUERYPOSE.KEYPOINT_LOSS": modeling.KEYPOINT_LOSS_REGISTRY,
        "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
        "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    }
    valid = {key: list(values) for key, values in _VALID_VALUES.items()}
    valid |= {key: [name for name, _ in registry] for key, registry in registries.items()}
    valid["MODEL.QUERYPOSE.PART_DIVISION"].append(None)
    return valid


def check_config(cfg: CfgNode) -> None:
    """Raise a UserError for values that no part of the model accepts or that contradict each other."""
    values, valid, defaults = dict(leaves(cfg)), valid_values(), get_cfg()
    add_querypose_config(defaults)
    for key, default in leaves(defaults):
        if key not in valid:
            _check_numbers(key, values[key], default)
        elif values[key] not in valid[key]:
            raise UserError(f"{key} is {values[key]!r}; valid are {', '.join(sorted(map(str, valid[key])))}")
    for sentence in _contradictions(cfg, values):
        raise UserError(sentence)


def leaves(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a config by its dotted name, with its value."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _check_numbers(key: str, value: Any, default: Any) -> None:
    """A number, or each of a list, is finite, and not negative where its default is not."""
    if default is None and not (value is None or _numbers_of(value)):
        raise UserError(f"{key} is {value!r}; give a number or None")
    usual = min(_numbers_of(0 if default is None else default), default=-1)
    positive = _POSITIVE.fullmatch(key) or (key.startswith("MODEL.QUERYPOSE.") and type(default) is int and default > 0)
    for number in _numbers_of(value):
        for is_valid, condition in (
            (math.isfinite(number), "finite"),
            (not key.endswith("TOPK_POSES") or isinstance(number, int), "a whole number"),
            (key != "SEED" or number < 2**32, "less than 2**32"),
            (number > 0 or not positive, "greater than 0"),
            (number >= 0 or usual < 0, "0 or greater"),
            (number < 1 or key not in ("MODEL.QUERYPOSE.TEST.POSE_SCORE_FLOOR", "SOLVER.EMA"), "less than 1"),
        ):
            if not is_valid:
                raise UserError(f"{key} is {value!r}; it must be {condition}")


def _numbers_of(value: Any) -> list[float]:
    values = value if isinstance(value, list | tuple) else [value]
    return [number for number in values if isinstance(number, int | float) and not isinstance(number, bool)]


def _contradictions(cfg: CfgNode, values: dict[str, Any]) -> Iterator[str]:
    """Sentences about values that contradict each other, and about those that no list of valid ones describes."""
    if not _exists(cfg.MODEL.DEVICE):
        yield f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, which PyTorch does not find here; give cpu, cuda or cuda:1"
    steps, last, crop = cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER, cfg.INPUT.CROP
    if list(steps) != sorted(set(steps)):
        yield f"SOLVER.STEPS is {steps}; each step must be greater than the one before"
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and sum(step <= last for step in steps) >= last:
        yield f"SOLVER.STEPS is {steps}; SOLVER.MAX_ITER {last} must be greater than their number"
    for key, length in {"MODEL.PIXEL_MEAN": 3, "MODEL.PIXEL_STD": 3, "INPUT.CROP.SIZE": 2}.items():
        if len(values[key]) != length:
            yield f"{key} has {len(values[key])} values; give {length}"
    if crop.TYPE.startswith("absolute") and any(size % 1 for size in crop.SIZE):
        yield f"INPUT.CROP.SIZE is {crop.SIZE}; with TYPE '{crop.TYPE}' both must be whole numbers"
    if crop.TYPE == "absolute_range" and crop.SIZE[0] > crop.SIZE[1]:
        yield f"INPUT.CROP.SIZE is {crop.SIZE}; with TYPE 'absolute_range' the smaller size comes first"
    if crop.TYPE.startswith("relative") and max(crop.SIZE) > 1:
        yield f"INPUT.CROP.SIZE is {crop.SIZE}; with TYPE '{crop.TYPE}' both must be at most 1"
    for key in ("DATASETS.TRAIN", "DATASETS.TEST", "MODEL.QUERYPOSE.SKELETON.KEYPOINT_NAMES"):
        if not all(isinstance(name, str) for name in values[key]):
            yield f"{key} is {values[key]}; give names"
    for key in ("INPUT.MIN_SIZE_TRAIN", "INPUT.CROP.RESIZE_BEFORE"):
        if not values[key]:
            yield f"{key} is empty; give one or more lengths in pixels"
    lengths = list(cfg.INPUT.MIN_SIZE_TRAIN)
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and not (len(lengths) == 2 and lengths == sorted(lengths)):
        yield "INPUT.MIN_SIZE_TRAIN must hold the minimum and the maximum with MIN_SIZE_TRAIN_SAMPLING range"
    if cfg.SOLVER.REFERENCE_WORLD_SIZE and cfg.SOLVER.IMS_PER_BATCH % cfg.SOLVER.REFERENCE_WORLD_SIZE:
        yield "SOLVER.IMS_PER_BATCH must be a multiple of SOLVER.REFERENCE_WORLD_SIZE"
    expected = cfg.TEST.EXPECTED_RESULTS
    if not all(isinstance(entry, list | tuple) and len(entry) == 4 for entry in expected):
        yield "TEST.EXPECTED_RESULTS must be a list of [task, metric, value, tolerance]"
    if expected and len(cfg.DATASETS.TEST) != 1:
        yield "TEST.EXPECTED_RESULTS needs one data set in DATASETS.TEST"
    skeleton = cfg.MODEL.QUERYPOSE.SKELETON
    if any(skeleton.values()) and not skeleton.KEYPOINT_NAMES:
        yield "MODEL.QUERYPOSE.SKELETON needs KEYPOINT_NAMES; for OKS sigmas alone give TEST.KEYPOINT_OKS_SIGMAS"
    if cfg.MODEL.META_ARCHITECTURE == "QueryPose":
        yield from _contradictions_of_model(cfg)
    else:
        is_own = issubclass(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), modeling.QueryPose)
        accumulates = cfg.SOLVER.ACCUMULATION_STEPS > 1 and not is_own
        for key, used in {"TEST.FLIP": cfg.TEST.FLIP, "SOLVER.ACCUMULATION_STEPS": accumulates}.items():
            if used:
                yield f"{key} needs MODEL.META_ARCHITECTURE 'QueryPose', not '{cfg.MODEL.META_ARCHITECTURE}'"


def _exists(name: str) -> bool:
    """Whether PyTorch can use a device; `cuda` becomes `cpu` where there is none."""
    try:
        device = torch.device(name)
        if device.type != "cuda":
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError):  # of a kind that PyTorch was built without
        return False
    return device.type != "cuda" or device.index is None or device.index < torch.cuda.device_count()


def _contradictions_of_model(cfg: CfgNode) -> Iterator[str]:
    config, channels = cfg.MODEL.QUERYPOSE, cfg.MODEL.FPN.OUT_CHANNELS
    for key in ("HIDDEN_DIM", "PART_DIM"):
        if config[key] % config.NUM_HEADS:
            yield f"MODEL.QUERYPOSE.{key} {config[key]} must be a multiple of NUM_HEADS {config.NUM_HEADS}"
    if config.PART_DIM % 4:
        yield f"MODEL.QUERYPOSE.PART_DIM {config.PART_DIM} must be a multiple of 4 (the gates' reduction)"
    if channels != config.HIDDEN_DIM:
        yield f"MODEL.FPN.OUT_CHANNELS {channels} must equal MODEL.QUERYPOSE.HIDDEN_DIM {config.HIDDEN_DIM}"
    if cfg.MODEL.FPN.NORM == "GN" and channels % 32:
        yield f"MODEL.FPN.OUT_CHANNELS {channels} must be a multiple of 32 with MODEL.FPN.NORM 'GN'"
    if cfg.MODEL.BACKBONE.NAME == "build_resnet_fpn_backbone":
        for name in sorted(set(cfg.MODEL.FPN.IN_FEATURES) - set(cfg.MODEL.RESNETS.OUT_FEATURES)):
            yield f"MODEL.FPN.IN_FEATURES has {name}, which MODEL.RESNETS.OUT_FEATURES lacks"
    if cfg.MODEL.BACKBONE.NAME == "build_swin_fpn_backbone":
        check_swin(cfg.MODEL.SWIN)
    for option in sorted(_TIMM_FILES & cfg.MODEL.TIMM.OPTIONS.keys()):
        yield f"MODEL.TIMM.OPTIONS.{option} is not supported; give weights by MODEL.WEIGHTS"
    stage = modeling.KEYPOINT_STAGE_REGISTRY.get(config.KEYPOINT_STAGE)
    if config.VARIANT not in stage.variants:
        yield (
            f"MODEL.QUERYPOSE.KEYPOINT_STAGE '{config.KEYPOINT_STAGE}' does not support VARIANT '{config.VARIANT}'; "
            f"set VARIANT to {' or '.join(stage.variants)}"
        )
    needs_attention = config.LOSS.ATTENTION_WEIGHT or config.ANCHORED_COORDINATES
    embedding = modeling.PART_EMBEDDING_REGISTRY.get(config.PART_EMBEDDING)
    if needs_attention and not (stage.has_parts and embedding.makes_attention):
        making = sorted(name for name, other in modeling.PART_EMBEDDING_REGISTRY if other.makes_attention)
        yield (
            "MODEL.QUERYPOSE.LOSS.ATTENTION_WEIGHT and ANCHORED_COORDINATES need attention maps: turn them off, or use "
            f"KEYPOINT_STAGE 'KeypointStage' with PART_EMBEDDING {' or '.join(making)}"
        )
