"""Exponential moving average of the weights: evaluated, saved, and resumed exactly."""

from typing import Any

from detectron2.engine import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAveraging(HookBase):
    """After every step of `model`, which is not wrapped: average = decay * average + (1 - decay) * weights.

    `averaged` is the model to evaluate and to save; BatchNorm's statistics in it are the latest. Checkpoints hold its
    weights under `model`, where every program finds them, and the weights that are trained in the state of this hook.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.averaged = self._average.module

    def after_step(self) -> None:
        self._average.update_parameters(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.model.state_dict(), "n_averaged": int(self._average.n_averaged)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called when the averaged weights have been loaded into the model."""
        self.averaged.load_state_dict(self.model.state_dict())
        self.model.load_state_dict(state_dict["weights"])
        self._average.n_averaged.fill_(state_dict["n_averaged"])
