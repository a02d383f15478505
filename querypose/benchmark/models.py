"""Latency and step time of a QueryPose or of a baseline, in all and by part."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.structures import Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from querypose.benchmark.clock import PartClock, peak_allocated_mb, repeat, summary
from querypose.benchmark.movenet import MoveNetMultiPose
from querypose.engine.cpu_memory import speed_up_cpu_training
from querypose.engine.optimizer import build_optimizer, clip_gradients
from querypose.errors import UserError
from querypose.modeling import QueryPose
from querypose.precision import rounding_weights

BASELINE = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml"
PRECISIONS = ("float32", "tf32", "bfloat16")


def baseline_config(device: str) -> CfgNode:
    """Detectron2's Keypoint R-CNN R50-FPN, without weights."""
    cfg = get_cfg()
    # upstream's detectron2.model_zoo needs pkg_resources, which setuptools 81 lacks
    cfg.merge_from_file(str(Path(detectron2.__file__).parent / "model_zoo" / "configs" / BASELINE))
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", device
    return cfg


def random_batch(batch: int, height: int, width: int, persons: int, num_keypoints: int = 17) -> list[dict[str, Any]]:
    """Training inputs of noise, `persons` in each image, with all keypoints labeled; the same at every call."""
    torch.manual_seed(0)
    inputs: list[dict[str, Any]] = []
    size = torch.tensor([width, height])
    for _ in range(batch):
        low = 0.4 * torch.rand(persons, 2)
        high = low + 0.3 + 0.3 * torch.rand(persons, 2)
        points = (low[:, None] + torch.rand(persons, num_keypoints, 2) * (high - low)[:, None]) * size
        instances = Instances((height, width), gt_classes=torch.zeros(persons, dtype=torch.long))
        instances.gt_boxes = Boxes(torch.cat([low * size, high * size], dim=1))
        instances.gt_keypoints = Keypoints(torch.cat([points, torch.full_like(points[..., :1], 2.0)], dim=2))
        image = torch.randint(256, (3, height, width), dtype=torch.uint8)
        inputs.append({"image": image, "height": height, "width": width, "instances": instances})
    return inputs


def parts_of(model: nn.Module) -> dict[str, list[tuple[Any, str]]]:
    """The methods that are timed, (object, name) each, by the name of their part."""
    if isinstance(model, MoveNetMultiPose):
        return {
            "backbone": [(model.backbone, "pyramid")],
            "heads": [(model.backbone, "dense_maps"), (model.keypoint_offset, "forward")],
            "decoder": [(model.decoder, "forward")],
        }
    if not isinstance(model, QueryPose):
        return {
            "backbone": [(model.backbone, "forward")],
            "proposals": [(model.proposal_generator, "forward")],
            "box head": [(model.roi_heads, "_forward_box")],
            "keypoint head": [(model.roi_heads, "_forward_keypoint")],
        }
    decoder = model.decoder
    keypoint_stages = [(stage, "forward") for stage in decoder.keypoint_stages]
    return {
        "backbone": [(model.backbone, "forward")],
        "box stages": [(stage, name) for stage in decoder.box_stages for name in ("pool", "forward")],
        "keypoint stages": [(decoder, "pool_keypoint_regions"), *keypoint_stages],
        "matching": [(model.criterion.matcher, "assign")],
    }


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
def counted_persons(model: nn.Module) -> Iterator[set[int]]:
    """For how many persons, of all images together, the keypoint heads are called inside the block."""
    persons: set[int] = set()
    if isinstance(model, QueryPose):
        heads: Any = model.decoder.keypoint_stages
    elif isinstance(model, MoveNetMultiPose):
        heads = [model.decoder]
    else:
        heads = [model.roi_heads.keypoint_head]

    def count(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        # RoI features (persons, C, H, W), or MoveNet's peaks (images, persons)
        persons.add(args[0].shape[0] if args[0].ndim == 4 else args[0].numel())

    with contextlib.ExitStack() as stack:
        for head in heads:
            stack.enter_context(head.register_forward_pre_hook(count))
        yield persons


def precision(name: str, device: str) -> torch.autocast:
    """Switch TF32 matrix products and convolutions on for "tf32", else off; the context is for "bfloat16"."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=name == "bfloat16")


class Benchmark:
    """A model with random weights, measured on random images of one size in pixels.

    persons: in each image; inference runs the keypoint heads for exactly that many. None: three, and inference as the
    model does it by itself. warm_up: calls before those that count. model: another one than the config's.
    """

    def __init__(
        self,
        cfg: CfgNode,
        *,
        batch: int,
        height: int,
        width: int,
        precision_name: str = "float32",
        persons: int | None = None,
        repetitions: int = 5,
        warm_up: int = 1,
        model: nn.Module | None = None,
    ):
        torch.manual_seed(0)
        self.cfg, self.device, self.precision_name = cfg, cfg.MODEL.DEVICE, precision_name
        self.model = build_model(cfg) if model is None else model
        if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
            # else random features are so large that all proposals are the whole image, and NMS leaves 3 of 1,000
            for module in self.model.modules():
                if isinstance(module, BottleneckBlock):
                    nn.init.zeros_(module.conv3.norm.weight)
        self.inputs = random_batch(batch, height, width, persons or 3, getattr(self.model, "num_keypoints", 17))
        self.persons = persons
        self.repetitions, self.warm_up = repetitions, warm_up

    def inference(self) -> dict[str, Any]:
        """Latency, throughput, parts, work and memory of the model in inference."""
        self.model.eval()
        if self.persons is not None:
            fix_persons(self.model, self.inputs, self.persons)

        def call(clock: PartClock | None = None) -> None:
            with precision(self.precision_name, self.device):
                self.model(self.inputs)

        with torch.no_grad():
            if self.precision_name == "bfloat16" and getattr(self.cfg.MODEL, "COMPILE", "none") == "none":
                with rounding_weights(self.model, torch.bfloat16):  # as PosePredictor does
                    call()
            result = self._measure(call)
        if self.persons is not None:
            assert result["persons"] == [self.persons * len(self.inputs)], result
        return result

    def training(self) -> dict[str, Any]:
        """The same of a training step; parts are those of the forward pass, matching, backward pass and optimizer."""
        self.model.train()
        # Detectron2's own configs lack our keys: a plain optimizer is close enough
        ours = isinstance(self.model, QueryPose)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = build_optimizer(self.cfg, self.model) if ours else torch.optim.SGD(parameters, lr=1e-6)
        speed_up_cpu_training(self.cfg)

        def step(clock: PartClock) -> None:
            optimizer.zero_grad()
            with precision(self.precision_name, self.device):
                losses = self.model(self.inputs)
            with clock.time("backward"):
                sum(losses.values()).backward()
            with clock.time("optimizer"):
                if not ours or clip_gradients(parameters, self.cfg.SOLVER.CLIP_GRADIENTS).isfinite():
                    optimizer.step()

        with EventStorage():
            return self._measure(step, optimizer)

    def _measure(
        self, function: Callable[[PartClock], None], optimizer: torch.optim.Optimizer | None = None
    ) -> dict[str, Any]:
        idle, clock = PartClock(), PartClock()
        seconds = repeat(lambda: function(idle), self.repetitions, self.warm_up)
        with clock.attached(parts_of(self.model)), counted_persons(self.model) as persons, clock.time("all"):
            function(clock)
        parts = dict(clock.seconds)
        parts["other"] = parts.pop("all") - sum(parts.values())
        if optimizer is not None:
            optimizer.zero_grad()  # a step begins without gradients
        states = optimizer.state.values() if optimizer else ()
        moments = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        held = [*self.model.parameters(), *self.model.buffers(), *moments]
        memory = peak_allocated_mb(lambda: function(idle), self.device, held)
        # with gradients: the counter does not know attention's fast path for inference
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            function(idle)
        result = summary(seconds)
        return result | {
            "images_per_s": 1000 * len(self.inputs) / result["median_ms"],
            "persons": sorted(persons),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "gflops": counter.get_total_flops() / 1e9,
            "peak_memory_mb": memory,
            "parts_ms": {name: 1000 * value for name, value in parts.items()},
        }
