"""One training step: precision, accumulation of gradients, and metrics without waiting for the GPU."""

import contextlib
import math
import time

import torch
from detectron2.engine import SimpleTrainer
from detectron2.structures import Instances
from torch.nn.parallel import DistributedDataParallel

# Iterations between two transfers of the losses from a GPU; Detectron2's writers write as often.
METRIC_PERIOD = 20


class StepTrainer(SimpleTrainer):
    """Detectron2's loop around a step that may take its batch in parts and may compute in bfloat16."""

    def __init__(self, model, data_loader, optimizer, *, accumulation_steps: int = 1, bfloat16: bool = False):
        """
        Args:
            model, data_loader, optimizer: as Detectron2's.
            accumulation_steps: parts that a batch is taken in, one after the other. Their losses are divided by the
                persons and keypoints of the whole batch, so that their gradients add up to its gradient.
            bfloat16: forward passes under autocast. bfloat16 has float32's range, so that no gradient scaler is needed;
                flow, sigmas, box deltas and losses stay in float32.
        """
        super().__init__(model, data_loader, optimizer)
        self.accumulation_steps = accumulation_steps
        self.bfloat16 = bfloat16

    @property
    def plain_model(self) -> torch.nn.Module:
        """The model without what makes it data-parallel."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    def run_step(self):
        start = time.perf_counter()
        self.batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        loss_dict = self.backward(self.batch)
        self.optimizer.step()
        self._write_metrics(loss_dict, data_time)

    def backward(self, data: list[dict]) -> dict[str, torch.Tensor]:
        """Add the gradients of a batch's losses to the parameters'; the losses by name.

        A loss that is not finite makes the whole gradient NaN, and with it, where there are several processes, that of
        every one of them.
        """
        total: dict[str, torch.Tensor] = {}
        parts = self.parts(data)
        for index, (part, options) in enumerate(parts):
            with self._synchronized(last=index == len(parts) - 1):
                loss_dict = self.forward(self.model, part, options)
                loss = sum(loss_dict.values())
                (loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)).backward()
            for name, loss in loss_dict.items():
                total[name] = total.get(name, 0.0) + loss.detach()
        return total

    def parts(self, data: list[dict]) -> list[tuple[list[dict], dict]]:
        """The parts that a batch is taken in, each with what the model has to know about the whole."""
        if self.accumulation_steps == 1:
            return [(data, {})]
        size = -(-len(data) // self.accumulation_steps)
        options = {
            "num_persons": sum(len(inputs["instances"]) for inputs in data),
            "num_keypoints": sum(labelled_keypoints(inputs["instances"]) for inputs in data),
        }
        return [(data[first : first + size], options) for first in range(0, len(data), size)]

    def forward(self, model: torch.nn.Module, part: list[dict], options: dict) -> dict[str, torch.Tensor]:
        """The losses of a part, computed in the precision of the training."""
        device_type = next(model.parameters()).device.type
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=self.bfloat16):
            return model(part, **options)

    def _synchronized(self, last: bool):
        """Processes exchange the gradients of the last part only, which has those of all parts added up."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _write_metrics(self, loss_dict, data_time, prefix=""):
        """Detectron2's, of one transfer instead of one for each loss; on a GPU every METRIC_PERIOD iterations only.

        Nothing is written, in no process, of a step that the optimiser has left out because it was not finite.
        """
        values = [loss.detach().float() for loss in loss_dict.values()]
        values = torch.stack([*values, getattr(self.optimizer, "found_inf", torch.zeros_like(values[0]))])
        if values.is_cuda and (self.iter + 1) % METRIC_PERIOD:
            return
        *losses, left_out = values.cpu()
        if not left_out:
            super()._write_metrics(dict(zip(loss_dict, losses, strict=True)), data_time, prefix)


class BFloat16Trainer(StepTrainer):
    """A StepTrainer under bfloat16 autocast."""

    def __init__(self, model, data_loader, optimizer, *, accumulation_steps: int = 1):
        super().__init__(model, data_loader, optimizer, accumulation_steps=accumulation_steps, bfloat16=True)


def labelled_keypoints(instances: Instances) -> int:
    """Keypoints of an image's persons that have a label, which the auxiliary heatmap is normalised by."""
    if not instances.has("gt_keypoints"):
        return 0
    return int((instances.gt_keypoints.tensor[..., 2] > 0).sum())
