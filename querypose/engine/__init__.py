"""Training on Detectron2's trainer: optimizer, data-parallel processes, hooks."""

from querypose.engine import train_net
from querypose.engine.optimizer import OPTIMIZER_REGISTRY, build_optimizer
from querypose.engine.processes import launch, process_group
from querypose.engine.trainer import PoseTrainer

__all__ = ["OPTIMIZER_REGISTRY", "PoseTrainer", "build_optimizer", "launch", "process_group", "train_net"]
