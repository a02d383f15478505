"""Parameters and multiply-adds of a model, counted from the shapes of its tensors: no weights, no data, no hardware."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from querypose.modeling import QueryPose, QueryPoseDecoder

# RoIAlign averages 2 x 2 samples at each location, each interpolated from 4 values
_ROI_ALIGN = 2 * 2 * 4


def count_operations(cfg: CfgNode, height: int, width: int) -> tuple[QueryPose, dict[str, int]]:
    """The multiply-adds, for one image, of each module that inference calls, by its name in the model.

    Counted are convolutions, matrix products (Linear layers, dynamic MLPs, attention) and RoIAlign; a multiplication
    and its addition are one operation, as in Detectron2 and fvcore. Norms, activations, interpolation and pooling are
    not counted. Every query goes through all stages. The flow is part of the loss and is not run. A module's number
    includes those of the modules in it, a stage's its RoIAlign.

    Args:
        cfg: config of the model.
        height, width: of the padded input, multiples of 32.

    Returns:
        the model, on the device "meta", and the numbers.
    """
    cfg = cfg.clone()
    cfg.defrost()
    # none of these changes a shape
    cfg.MODEL.DEVICE, cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.COMPILE = "meta", False, "none"
    with torch.device("meta"):
        model = build_model(cfg).eval()
    decoder: QueryPoseDecoder = model.decoder
    config = cfg.MODEL.QUERYPOSE
    number, dim = config.NUM_QUERIES, config.HIDDEN_DIM
    operations: dict[str, int] = {}

    def count(name: str, module: nn.Module, *inputs: Any) -> None:
        # autocast, which the stages turn off, does not know the device "meta": fake tensors claim to be on the CPU
        tensors = [*module.named_parameters(), *module.named_buffers()]
        claimed = {key: torch.empty(tensor.shape, dtype=tensor.dtype) for key, tensor in tensors}
        with FlopCounterMode(display=False) as counter:
            functional_call(module, claimed, inputs)
        for inner, kinds in counter.get_flop_counts().items():
            if inner != "Global":
                # PyTorch names the outermost module by its class, and counts a multiply-add twice
                operations[".".join([name, *inner.split(".")[1:]])] = sum(kinds.values()) // 2

    with FakeTensorMode(), torch.no_grad(), _plain_attention():
        count("backbone", model.backbone, torch.empty(1, 3, height, width))
        queries = torch.empty(1, number, dim)
        parts = None if decoder.part_queries is None else torch.empty(number, *decoder.part_queries.weight.shape)
        box_size, keypoint_size = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION, decoder.keypoint_resolution
        box_regions = torch.empty(number, dim, box_size, box_size)
        keypoint_regions = torch.empty(number, dim, keypoint_size, keypoint_size)
        for kind, inputs in (
            ("box_stages", (box_regions, torch.empty(1, number, 4), queries)),
            ("keypoint_stages", (keypoint_regions, queries[0], parts)),
        ):
            name = f"decoder.{kind}"
            counted: dict[str, str] = {}  # the first stage that looks the same
            for index, stage in enumerate(getattr(decoder, kind)):
                first = counted.setdefault(repr(stage), f"{name}.{index}")
                if first == f"{name}.{index}":
                    count(first, stage, *inputs)
                    operations[first] += _ROI_ALIGN * inputs[0].numel()
                same = [key for key in operations if f"{key}.".startswith(f"{first}.")]
                operations.update({f"{name}.{index}{key.removeprefix(first)}": operations[key] for key in same})
                operations[name] = operations.get(name, 0) + operations[f"{name}.{index}"]
    operations["decoder"] = operations["decoder.box_stages"] + operations["decoder.keypoint_stages"]
    operations[""] = operations["backbone"] + operations["decoder"]
    return model, operations


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """nn.MultiheadAttention as single operations; the counter does not know PyTorch's fast path for inference."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
