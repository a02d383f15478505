"""The config of a run: the defaults, a YAML file and `KEY VALUE` overrides, checked before anything is built."""

import ast
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from querypose.config import add_querypose_config
from querypose.config_checks import check_config
from querypose.data import skeleton_of
from querypose.errors import UserError
from querypose.modeling.part_division import build_part_division, part_groups


def setup_config(
    config_file: str, opts: Sequence[str] = (), add_config: Callable[[CfgNode], None] | None = None
) -> CfgNode:
    """Defaults, then the file, then the overrides; checked, with the skeleton and the parts of the data set stored.

    MODEL.DEVICE "cuda", Detectron2's default, becomes "cpu" on a machine without CUDA. opts: `KEY, VALUE, KEY, VALUE,
    ..`. add_config: adds the keys of an extension to the defaults (docs/EXTENDING.md).
    """
    cfg = get_cfg()
    add_querypose_config(cfg)
    if add_config is not None:
        add_config(cfg)
    defaults = cfg.clone()
    if not os.path.isfile(config_file):
        raise UserError(f"the config file '{config_file}' does not exist; give one such as configs/querypose_R50.yaml")
    try:
        # safe: a YAML file that names Python objects would run code
        _merge(cfg, CfgNode.load_yaml_with_base(config_file, allow_unsafe=False), defaults)
    except UserError as error:
        raise UserError(f"{config_file}: {error}") from error
    except RecursionError as error:
        raise UserError(f"{config_file}: it is its own _BASE_") from error
    except (OSError, ValueError, AssertionError, yaml.YAMLError) as error:
        raise UserError(f"{config_file}: it cannot be read ({error})") from error
    except (AttributeError, TypeError) as error:
        raise UserError(f"{config_file}: it does not hold keys; see configs/querypose_R50.yaml") from error
    if flags := [key for key in opts if str(key).startswith("--")]:
        raise UserError(f"{flags[0]} must come before the KEY VALUE pairs")
    if len(opts) % 2:
        raise UserError(f"overrides are KEY VALUE pairs, but {opts[-1]} has no value")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        values: Any = value
        for node in reversed(key.split(".")):
            values = {node: values}
        _merge(cfg, values, defaults)
    check_config(cfg)

    skeleton, config = skeleton_of(cfg), cfg.MODEL.QUERYPOSE
    parts = build_part_division(skeleton, config.PART_DIVISION, config.PART_GROUPS)
    config.PART_GROUPS = part_groups(skeleton, parts)
    config.SKELETON.KEYPOINT_NAMES = list(skeleton.keypoint_names)
    config.SKELETON.FLIP_PAIRS = [list(pair) for pair in skeleton.flip_pairs]
    config.SKELETON.LIMBS = [list(limb) for limb in skeleton.limbs]
    config.SKELETON.SIGMAS = list(skeleton.sigmas)
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def _merge(cfg: CfgNode, values: Mapping[str, Any], defaults: CfgNode, prefix: str = "") -> None:
    """Set the keys of `cfg`, in place, to nested `values`; kinder than yacs, which takes no 1 for 1.0."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in cfg and not cfg.is_new_allowed():
            raise UserError(f"unknown key {key}; valid there are {', '.join(sorted(cfg))}")
        default = defaults.get(name)
        if isinstance(default, CfgNode) and isinstance(value, Mapping):
            _merge(cfg[name], value, default, f"{key}.")
        elif isinstance(value, Mapping) and name not in cfg:
            cfg[name] = CfgNode(value)
        else:
            cfg[name] = _in_kind_of(default, value, key)


def _in_kind_of(default: Any, value: Any, key: str) -> Any:
    """`value` as YAML or a command line gives it, in the kind of `default`, if it is clear what is meant."""
    text = value
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    if isinstance(default, list | tuple):
        values = value if isinstance(value, list | tuple) else [value]
        kinds: dict[Any, Any] = {str: str, int: int | float, float: int | float}
        kind = kinds.get(type(default[0]), object) if default else object
        if value is not None and all(isinstance(item, kind) for item in values):
            return type(default)(values)
    elif default is None or type(value) is type(default):
        return value
    elif isinstance(default, str) and isinstance(value, int | float):
        return str(text)
    elif isinstance(default, float) and type(value) is int:
        return float(value)
    example = f"its keys, {', '.join(sorted(default))}" if isinstance(default, CfgNode) else f"its default {default!r}"
    raise UserError(f"{key} is {value!r}; give a value such as {example}")
