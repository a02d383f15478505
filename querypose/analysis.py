"""Parameters and multiply-adds of a model, counted from the shapes of its tensors: no weights, no data, no hardware."""

import itertools

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from fvcore.nn import parameter_count
from tabulate import tabulate
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from querypose.modeling import QueryPose, QueryPoseDecoder

# of every kind of module that was counted the multiply-adds, by the names of the modules in it
_counted: dict[str, dict[str, int]] = {}


def count_operations(cfg: CfgNode, height: int, width: int) -> tuple[QueryPose, dict[str, int]]:
    """Return the model of a config, on the device "meta", and the multiply-adds of each module that inference calls.

    Counted are convolutions, matrix products (Linear layers, dynamic MLPs, attention) and RoIAlign, for one image of
    that size, multiples of 32; a multiplication and its addition are one operation, as in Detectron2 and fvcore. Every
    query goes through all stages. A module's number, by its name in the model, includes those of the modules in it.
    """
    cfg = cfg.clone()
    cfg.defrost()
    # none of these changes a shape
    cfg.MODEL.DEVICE, cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.COMPILE = "meta", False, "none"
    with torch.device("meta"):
        model = build_model(cfg).eval()
    decoder: QueryPoseDecoder = model.decoder
    dim, box_size = cfg.MODEL.QUERYPOSE.HIDDEN_DIM, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
    number, keypoint_size = cfg.MODEL.QUERYPOSE.NUM_QUERIES, decoder.keypoint_resolution
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH):  # attention in operations that the counter knows
        operations = _count("backbone", model.backbone, torch.empty(1, 3, height, width))
        queries = torch.empty(1, number, dim)
        parts = None if decoder.part_queries is None else torch.empty(number, *decoder.part_queries.weight.shape)
        box_regions = torch.empty(number, dim, box_size, box_size)
        keypoint_regions = torch.empty(number, dim, keypoint_size, keypoint_size)
        for name, stages, inputs in (
            ("decoder.box_stages", decoder.box_stages, (box_regions, torch.empty(1, number, 4), queries)),
            ("decoder.keypoint_stages", decoder.keypoint_stages, (keypoint_regions, queries[0], parts)),
        ):
            operations[name] = 0
            for index, stage in enumerate(stages):
                operations.update(_count(f"{name}.{index}", stage, *inputs))
                # RoIAlign averages 2 x 2 samples at each location, each interpolated from 4 values
                operations[f"{name}.{index}"] += 2 * 2 * 4 * inputs[0].numel()
                operations[name] += operations[f"{name}.{index}"]
    operations["decoder"] = operations["decoder.box_stages"] + operations["decoder.keypoint_stages"]
    operations[""] = operations["backbone"] + operations["decoder"]
    return model, operations


def _count(name: str, module: nn.Module, *inputs: Tensor | None) -> dict[str, int]:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shapes = [[getattr(tensor, "shape", None) for tensor in group] for group in (tensors.values(), inputs)]
    kind = repr((module, shapes))
    if kind not in _counted:
        # autocast, which the stages turn off, does not know the device "meta": fake tensors claim to be on the CPU
        claimed = {key: torch.empty(tensor.shape, dtype=tensor.dtype) for key, tensor in tensors.items()}
        for key, _ in module.named_parameters():
            claimed[key].requires_grad_()  # the counter does not know attention's fast path for inference
        with FlopCounterMode(display=False) as counter:
            functional_call(module, claimed, inputs)
        flops = {inner: sum(kinds.values()) for inner, kinds in counter.get_flop_counts().items() if inner != "Global"}
        # PyTorch names the outermost module by its class, and counts a multiply-add twice
        _counted[kind] = {inner.partition(".")[2]: number // 2 for inner, number in flops.items()}
    return {f"{name}.{inner}".rstrip("."): number for inner, number in _counted[kind].items()}


def module_table(cfg: CfgNode, height: int, width: int, depth: int) -> str:
    """A table of the modules down to `depth` below the model, without those that cost nothing.

    Numbered neighbors of the same class and costs share a line: "0 .. 5" are six modules, each with these numbers.
    """
    model, operations = count_operations(cfg, height, width)
    parameters = parameter_count(model)
    rows: list[list[str]] = []

    def add(path: str, label: str, level: int) -> None:
        module = model.get_submodule(path)
        row = ["  " * level + label, type(module).__name__]
        for costs in (parameters, operations):
            row += [_with_unit(costs.get(path, 0)), f"{100 * costs.get(path, 0) / costs['']:.1f}"]
        rows.append(row)
        kinds: dict[str, tuple[type[nn.Module], int, int, str]] = {}
        for name, child in module.named_children() if level < depth else ():
            inner = f"{path}.{name}".lstrip(".")
            if parameters[inner] or operations.get(inner, 0):
                own = "" if name.isdecimal() else name
                kinds[name] = type(child), parameters[inner], operations.get(inner, 0), own
        for _, group in itertools.groupby(kinds, kinds.__getitem__):
            first, *others = group
            add(f"{path}.{first}".lstrip("."), f"{first} .. {others[-1]}" if others else first, level + 1)

    add("", "model", 0)
    header = ["module", "class", "parameters", "%", "multiply-adds", "%"]
    align = ("left", "left", *["right"] * 4)
    return tabulate(rows, header, colalign=align, disable_numparse=True, preserve_whitespace=True)


def _with_unit(number: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
