"""Latency and step time of a QueryPose or of a baseline, in all and by part."""

import contextlib
import itertools
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

from querypose.benchmark.clock import PartClock, Parts, peak_allocated_mb, repeat, summary
from querypose.benchmark.movenet import MoveNetMultiPose
from querypose.engine import train_loop
from querypose.engine.optimizer import build_optimizer
from querypose.engine.train_loop import StepTrainer
from querypose.engine.train_net import speed_up_cpu_training
from querypose.errors import UserError
from querypose.modeling import QueryPose
from querypose.precision import rounding_weights

PRECISIONS = ("float32", "tf32", "bfloat16")


def baseline_config(device: str) -> CfgNode:
    """Detectron2's Keypoint R-CNN R50-FPN, without weights."""
    # upstream's detectron2.model_zoo needs pkg_resources, which setuptools 81 lacks
    file = Path(detectron2.__file__).parent / "model_zoo/configs/COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml"
    cfg = get_cfg()
    cfg.merge_from_file(str(file))
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


def parts_of(model: nn.Module) -> Parts:
    """The methods of the forward pass that are timed."""
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
        heads: list[nn.Module] = list(model.decoder.keypoint_stages)
    elif isinstance(model, MoveNetMultiPose):
        heads = [model.decoder]
    else:
        heads = [model.get_submodule("roi_heads.keypoint_head")]

    def count(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        # RoI features (persons, C, H, W), or MoveNet's peaks (images, persons)
        persons.add(args[0].shape[0] if args[0].ndim == 4 else args[0].numel())

    with contextlib.ExitStack() as stack:
        for head in heads:
            stack.enter_context(head.register_forward_pre_hook(count))
        yield persons


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
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision_name == "tf32"
        self.cfg, self.device, self.bfloat16 = cfg, cfg.MODEL.DEVICE, precision_name == "bfloat16"
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

        def predict() -> None:
            with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.bfloat16):
                self.model(self.inputs)

        with torch.no_grad():
            if self.bfloat16 and getattr(self.cfg.MODEL, "COMPILE", "none") == "none":
                with rounding_weights(self.model, torch.bfloat16):  # as PosePredictor does
                    predict()
            result = self._measure(predict, {})
        if self.persons is not None:
            assert result["persons"] == [self.persons * len(self.inputs)], result
        return result

    def training(self) -> dict[str, Any]:
        """The same of a step of the trainer, the parts matching, backward pass and optimizer included."""
        # Detectron2's own configs lack our keys: a plain optimizer is close enough
        ours = isinstance(self.model, QueryPose)
        optimizer = build_optimizer(self.cfg, self.model) if ours else torch.optim.SGD(self.model.parameters(), lr=1e-6)
        batches, clip = itertools.repeat(self.inputs), self.cfg.SOLVER.CLIP_GRADIENTS
        trainer = StepTrainer(self.model, batches, optimizer, clip=clip, bfloat16=self.bfloat16)
        trainer.iter = 0
        speed_up_cpu_training(self.cfg)
        parts: Parts = {"backward": [(Tensor, "backward")]}
        parts["optimizer"] = [(train_loop, "clip_gradients"), (optimizer, "step")]
        with EventStorage():
            return self._measure(trainer.run_step, parts, optimizer)

    def _measure(
        self, function: Callable[[], None], parts: Parts, optimizer: torch.optim.Optimizer | None = None
    ) -> dict[str, Any]:
        seconds, clock = repeat(function, self.repetitions, self.warm_up), PartClock()
        with clock.attached(parts_of(self.model) | parts), counted_persons(self.model) as persons, clock.time("all"):
            function()
        times = dict(clock.seconds)
        times["other"] = times.pop("all") - sum(times.values())
        if optimizer is not None:
            optimizer.zero_grad()  # a step begins without gradients
        states = optimizer.state.values() if optimizer else ()
        moments = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        memory = peak_allocated_mb(function, self.device, [*self.model.parameters(), *self.model.buffers(), *moments])
        # with gradients: the counter does not know attention's fast path for inference
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            function()
        result = summary(seconds)
        return result | {
            "images_per_s": 1000 * len(self.inputs) / result["median_ms"],
            "persons": sorted(persons),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "gflops": counter.get_total_flops() / 1e9,
            "peak_memory_mb": memory,
            "parts_ms": {name: 1000 * value for name, value in times.items()},
        }
