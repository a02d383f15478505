"""One training step: precision, accumulation of gradients, and metrics without waiting for the GPU."""

import contextlib
import time

import torch
from detectron2.engine import SimpleTrainer
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
                persons of the whole batch, so that their gradients add up to its gradient.
            bfloat16: forward passes under autocast. bfloat16 has float32's range, so that no gradient scaler is needed;
                flow, sigmas, box deltas and losses stay in float32.
        """
        super().__init__(model, data_loader, optimizer)
        self.accumulation_steps = accumulation_steps
        self.bfloat16 = bfloat16

    def run_step(self):
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        loss_dict = self.backward(data)
        self._write_metrics(loss_dict, data_time)
        self.optimizer.step()

    def backward(self, data: list[dict]) -> dict[str, torch.Tensor]:
        """Add the gradients of a batch's losses to the parameters'; the losses by name."""
        device_type = next(self.model.parameters()).device.type
        total: dict[str, torch.Tensor] = {}
        parts, options = [data], {}
        if self.accumulation_steps > 1:
            size = -(-len(data) // self.accumulation_steps)
            parts = [data[first : first + size] for first in range(0, len(data), size)]
            options = {"num_persons": sum(len(inputs["instances"]) for inputs in data)}
        for index, part in enumerate(parts):
            with self._synchronized(last=index == len(parts) - 1):
                with torch.autocast(device_type, dtype=torch.bfloat16, enabled=self.bfloat16):
                    loss_dict = self.model(part, **options)
                sum(loss_dict.values()).backward()
            for name, loss in loss_dict.items():
                total[name] = total.get(name, 0.0) + loss.detach()
        return total

    def _synchronized(self, last: bool):
        """Processes exchange the gradients of the last part only, which has those of all parts added up."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _write_metrics(self, loss_dict, data_time, prefix=""):
        """Detectron2's, of one transfer instead of one for each loss; on a GPU every METRIC_PERIOD iterations only."""
        values = torch.stack([loss.detach().float() for loss in loss_dict.values()])
        if values.is_cuda and (self.iter + 1) % METRIC_PERIOD:
            return
        super()._write_metrics(dict(zip(loss_dict, values.cpu(), strict=True)), data_time, prefix)


class BFloat16Trainer(StepTrainer):
    """A StepTrainer under bfloat16 autocast."""

    def __init__(self, model, data_loader, optimizer, *, accumulation_steps: int = 1):
        super().__init__(model, data_loader, optimizer, accumulation_steps=accumulation_steps, bfloat16=True)
