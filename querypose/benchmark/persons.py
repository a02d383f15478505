"""The same number of persons for the keypoint heads of every model, and its count."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from detectron2.structures import Instances
from torch import Tensor, nn

from querypose.benchmark.movenet import MoveNetMultiPose
from querypose.errors import UserError
from querypose.modeling import QueryPose


def fix_persons(model: nn.Module, inputs: list[dict[str, Any]], persons: int) -> None:
    """Make inference run the keypoint heads for exactly `persons` boxes of each image; all else runs as usual.

    QueryPose: for the queries with the highest class scores; UserError if it has fewer. MoveNet: for the highest
    peaks. Keypoint R-CNN: for the `gt_boxes` of the inputs, after the box head and instead of its detections.
    """
    if isinstance(model, MoveNetMultiPose):
        model.persons = persons
        return
    if isinstance(model, QueryPose):
        queries = model.decoder.instance_queries.num_embeddings
        if persons > queries:
            raise UserError(f"--persons {persons} is more than the model's {queries} queries")
        model.topk_poses, model.pose_score_floor = persons, 0.0
        return
    roi_heads: Any = model.roi_heads
    run_keypoint_head = roi_heads.forward_with_given_boxes
    targets = [image["instances"].to(model.device) for image in inputs]

    def on_given_boxes(features: dict[str, Tensor], _detections: list[Instances]) -> list[Instances]:
        given = [Instances(one.image_size, pred_boxes=one.gt_boxes, pred_classes=one.gt_classes) for one in targets]
        return run_keypoint_head(features, given)

    roi_heads.forward_with_given_boxes = on_given_boxes


@contextlib.contextmanager
def counted_rows(model: nn.Module) -> Iterator[dict[str, set[int]]]:
    """How many boxes, of all images together, the "box" and "keypoint" heads are called with inside the block."""
    rows: dict[str, set[int]] = {"box": set(), "keypoint": set()}
    if isinstance(model, QueryPose):
        heads: Any = (model.decoder.box_stages, model.decoder.keypoint_stages)
    elif isinstance(model, MoveNetMultiPose):
        heads = ([], [model.decoder])
    else:
        roi_heads: Any = model.roi_heads
        heads = ([roi_heads.box_head], [roi_heads.keypoint_head])

    def count(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        # RoI features (rows, C, H, W), or MoveNet's peaks (images, persons)
        rows[name].add(args[0].shape[0] if args[0].ndim == 4 else args[0].numel())

    with contextlib.ExitStack() as stack:
        for name, modules in zip(rows, heads, strict=True):
            for module in modules:
                stack.enter_context(module.register_forward_pre_hook(functools.partial(count, name)))
        yield rows
