"""Training on Detectron2's trainer: optimiser, data-parallel processes, hooks."""

from querypose.engine.main import refuse_existing_run, train_net_main, train_net_parser
from querypose.engine.optimizer import build_optimizer
from querypose.engine.processes import launch
from querypose.engine.trainer import PoseTrainer

__all__ = ["PoseTrainer", "build_optimizer", "launch", "refuse_existing_run", "train_net_main", "train_net_parser"]
