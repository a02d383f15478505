"""One training step: precision, gradient accumulation, clipping, and metrics without waiting for the GPU."""

import contextlib
import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from querypose.engine.optimizer import clip_gradients

METRIC_PERIOD = 20  # iterations between transfers of the losses from a GPU; Detectron2's writers write as often


class StepTrainer(SimpleTrainer):
    """Detectron2's loop around a step that may split its batch and may compute in bfloat16.

    clip: SOLVER.CLIP_GRADIENTS; None: gradients are not clipped. accumulation_steps: parts of a batch, one after the
    other; their losses are divided by the persons and keypoints of the whole batch, so that their gradients add up to
    its gradient. bfloat16: forward passes under autocast, without a gradient scaler, as bfloat16 has float32's range.

    `batch` is that of the last step, and `is_finite` whether the norm of its gradient was; the optimizer only steps if
    so. `is_updating` while it changes the weights: an error meanwhile leaves them half changed.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        *,
        clip: CfgNode | None = None,
        accumulation_steps: int = 1,
        bfloat16: bool = False,
    ):
        super().__init__(model, data_loader, optimizer)
        self.clip = clip or CfgNode({"ENABLED": False, "NORM_TYPE": 2.0})
        self.accumulation_steps = accumulation_steps
        self.bfloat16 = bfloat16
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.is_finite = True
        self.is_updating = False

    @property
    def plain_model(self) -> nn.Module:
        """The model without its data-parallel wrapper."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    @property
    def reports(self) -> bool:
        """Whether this iteration's metrics are exchanged: every one on CPUs, every METRIC_PERIOD-th on GPUs."""
        return not self.parameters[0].is_cuda or (self.iter + 1) % METRIC_PERIOD == 0

    def run_step(self) -> None:
        start = time.perf_counter()
        self.batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        losses = self.backward(self.batch)
        # of the common gradient, and so the same in all processes
        self.is_finite = bool(clip_gradients(self.parameters, self.clip).isfinite())
        if self.is_finite:
            self.is_updating = True
            self.optimizer.step()
            self.is_updating = False
            if self.reports:
                values = torch.stack([loss.float() for loss in losses.values()]).cpu()  # one transfer for all
                self._write_metrics(dict(zip(losses, values, strict=True)), data_time)

    def backward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Add a batch's gradient to the parameters'; a loss that is not finite makes it NaN, in all processes."""
        total: dict[str, Tensor] = {}
        parts = self.parts(batch)
        for index, (part, options) in enumerate(parts):
            # processes exchange the gradients of the last part only, which holds the sum over all parts
            exchanges = index == len(parts) - 1 or not isinstance(self.model, DistributedDataParallel)
            with contextlib.nullcontext() if exchanges else self.model.no_sync():
                losses = self.forward(self.model, part, options)
                loss: Tensor = sum(losses.values())  # type: ignore[assignment]
                (loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)).backward()
            for name, loss in losses.items():
                total[name] = total.get(name, 0.0) + loss.detach()
        return total

    def parts(self, batch: list[dict[str, Any]]) -> list[tuple[list[dict[str, Any]], dict[str, int]]]:
        """The parts of a batch, each with what the model has to know about the whole."""
        if self.accumulation_steps == 1:
            return [(batch, {})]
        size = -(-len(batch) // self.accumulation_steps)
        people = [inputs["instances"] for inputs in batch]
        labeled = [one.gt_keypoints.tensor[..., 2] > 0 for one in people if len(one)]
        options = {"num_persons": sum(map(len, people)), "num_keypoints": sum(int(one.sum()) for one in labeled)}
        return [(batch[first : first + size], options) for first in range(0, len(batch), size)]

    def forward(self, model: nn.Module, part: list[dict[str, Any]], options: dict[str, int]) -> dict[str, Tensor]:
        with torch.autocast(self.parameters[0].device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            return model(part, **options)
