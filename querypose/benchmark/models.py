"""Latency and step time of a QueryPose or of Detectron2's Keypoint R-CNN, in all and by part."""

import contextlib

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, Keypoints
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from querypose.benchmark.clock import (
    PartClock,
    peak_gflops,
    peak_process_memory_mb,
    peak_tensor_memory_mb,
    repeat,
    summary,
    synchronize,
)
from querypose.engine.cpu_memory import keep_freed_memory
from querypose.engine.optimizer import GradientClipper, build_optimizer
from querypose.modeling import QueryPose
from querypose.rounded_weights import rounding_weights

PEER = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml"
PRECISIONS = ("float32", "tf32", "bfloat16")


def peer_config(device: str) -> CfgNode:
    """Detectron2's Keypoint R-CNN R50-FPN, without weights."""
    cfg = model_zoo.get_config(PEER)
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = device
    return cfg


def made_up_batch(batch: int, height: int, width: int, persons: int, num_keypoints: int = 17) -> list[dict]:
    """Training inputs of noise, `persons` in each image, with all keypoints labelled; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for _ in range(batch):
        low = torch.rand(persons, 2, generator=generator) * 0.4
        corners = torch.cat([low, low + 0.3 + 0.3 * torch.rand(persons, 2, generator=generator)], dim=1)
        boxes = corners * torch.tensor([width, height, width, height])
        place = torch.rand(persons, num_keypoints, 2, generator=generator)
        points = boxes[:, None, :2] + place * (boxes[:, 2:] - boxes[:, :2])[:, None]
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.zeros(persons, dtype=torch.long)
        instances.gt_keypoints = Keypoints(torch.cat([points, torch.full_like(points[..., :1], 2.0)], dim=2))
        image = (255 * torch.rand(3, height, width, generator=generator)).to(torch.uint8)
        inputs.append({"image": image, "height": height, "width": width, "instances": instances})
    return inputs


def parts_of(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules whose forward passes are timed, by the name of their part."""
    if isinstance(model, QueryPose):
        stages = {"box stages": list(model.decoder.box_stages), "keypoint stages": list(model.decoder.keypoint_stages)}
        return {"backbone": [model.backbone], **stages}
    return {"backbone": [model.backbone], "proposals": [model.proposal_generator], "heads": [model.roi_heads]}


@contextlib.contextmanager
def precision(name: str, device: str):
    """Inside the block compute in float32, in float32 with TF32 matrix products, or under bfloat16 autocast."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=name == "bfloat16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class Benchmark:
    """A model with random weights, measured on made-up images of one size."""

    def __init__(
        self,
        cfg: CfgNode,
        *,
        batch: int,
        height: int,
        width: int,
        precision_name: str = "float32",
        persons: int = 3,
        repetitions: int = 5,
        warm_up: int = 1,
    ):
        """
        Args:
            cfg: of the model and, for training, the optimiser.
            batch, height, width: images and their size in pixels; persons: in each of them.
            precision_name: one of PRECISIONS.
            repetitions, warm_up: calls that count, and calls before them that do not.
        """
        torch.manual_seed(0)
        self.cfg, self.device, self.precision_name = cfg, cfg.MODEL.DEVICE, precision_name
        self.model = build_model(cfg)
        self.inputs = made_up_batch(batch, height, width, persons, getattr(self.model, "num_keypoints", 17))
        self.repetitions, self.warm_up = repetitions, warm_up

    def inference(self) -> dict:
        """Latency, throughput, parts, work and memory of the model in inference."""
        self.model.eval()

        def call(clock=None):
            with precision(self.precision_name, self.device):
                self.model(self.inputs)

        with torch.no_grad():
            if self.precision_name == "bfloat16" and getattr(self.cfg.MODEL, "COMPILE", "none") == "none":
                with rounding_weights(self.model, torch.bfloat16):  # as PosePredictor does
                    call()
            return self._measure(call)

    def training(self) -> dict:
        """The same of a training step; parts are those of the forward pass, matching, backward pass and optimiser."""
        self.model.train()
        # Detectron2's own configs have no key of ours: a plain optimiser is close enough
        ours = isinstance(self.model, QueryPose)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = build_optimizer(self.cfg, self.model) if ours else torch.optim.SGD(parameters, lr=1e-6)
        clip = GradientClipper(self.cfg) if ours else None
        if self.device == "cpu":
            keep_freed_memory()
        from detectron2.utils.events import EventStorage

        def step(clock):
            optimizer.zero_grad()
            with precision(self.precision_name, self.device):
                losses = self.model(self.inputs)
            with clock.time("backward"):
                sum(losses.values()).backward()
            with clock.time("optimiser"):
                if clip is None or clip(parameters).isfinite():
                    optimizer.step()

        with EventStorage():
            return self._measure(step, optimizer)

    def _measure(self, function, optimizer: torch.optim.Optimizer | None = None) -> dict:
        idle = PartClock(self.device)
        seconds = repeat(lambda: function(idle), self.device, self.repetitions, self.warm_up)
        process_memory = peak_process_memory_mb()
        clock = PartClock(self.device)
        with clock.attached(parts_of(self.model)), self._timed_matching(clock), clock.time("all"):
            function(clock)
        parts = dict(clock.seconds)
        total = parts.pop("all")
        parts["other"] = total - sum(parts.values())
        if optimizer is not None:
            optimizer.zero_grad()  # what a step begins with, so that gradients are not held before it
        memory = peak_tensor_memory_mb(lambda: function(idle), self.device, self._held(optimizer))
        # with gradients, as attention's path for inference is one operation that the counter does not know
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            function(PartClock(self.device))
        synchronize(self.device)
        result = summary(seconds)
        gflops = counter.get_total_flops() / 1e9
        dtype = torch.bfloat16 if self.precision_name == "bfloat16" else torch.float32
        with precision("tf32" if self.precision_name == "tf32" else "float32", self.device):
            peak = peak_gflops(self.device, dtype, size=8192 if self.device.startswith("cuda") else 1024)
        return result | {
            "images_per_s": 1000 * len(self.inputs) / result["median_ms"],
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "gflops": gflops,
            "peak_memory_mb": memory,
            "process_peak_mb": process_memory,
            "machine_gflops_per_s": peak,
            "of_machine_peak": gflops / (result["median_ms"] / 1000) / peak,
            "parts_ms": {name: 1000 * value for name, value in parts.items()},
        }

    def _held(self, optimizer: torch.optim.Optimizer | None) -> list[torch.Tensor]:
        """What stays from call to call: weights, buffers, the optimiser's state."""
        states = optimizer.state.values() if optimizer is not None else ()
        moments = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
        return [*self.model.parameters(), *self.model.buffers(), *moments]

    @contextlib.contextmanager
    def _timed_matching(self, clock: PartClock):
        matcher = getattr(getattr(self.model, "criterion", None), "matcher", None)
        if matcher is None:
            yield
            return
        assign = matcher.assign

        def timed(*args):
            with clock.time("matching"):
                return assign(*args)

        matcher.assign = timed
        try:
            yield
        finally:
            del matcher.assign
