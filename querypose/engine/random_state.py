"""Randomness in training is a function of the seed, the process and the iteration: a resumed run samples the same."""

import os
import random

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from querypose.data import TrainingLoader
from querypose.data.training_loader import hashed


class SeedSteps(HookBase):
    """Seeds every iteration, and starts the loader where a resumed run stopped, with the seed that it drew."""

    def __init__(self, loader: TrainingLoader):
        self.loader = loader
        self.seed = loader.seed

    def before_train(self) -> None:
        self.loader.seed = self.seed
        self.loader.first_batch = self.trainer.start_iter

    def before_step(self) -> None:
        self.seed_step(self.trainer.iter)

    def seed_step(self, iteration: int) -> None:
        python, numpy, pytorch = hashed(self.seed, iteration, comm.get_rank())
        random.seed(python)
        np.random.seed(numpy)
        torch.manual_seed(pytorch)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.seed = state_dict["seed"]


def make_deterministic(cfg: CfgNode) -> None:
    """Have PyTorch compute the same bits in every run, with SEED 0 where the config has none; call it first.

    PyTorch warns of operations for which a GPU has no deterministic algorithm.
    """
    cfg.SEED = max(cfg.SEED, 0)
    cfg.CUDNN_BENCHMARK = False
    # read when CUDA's matrix multiplication is first used: its workspaces must not be shared between streams
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=cfg.MODEL.DEVICE != "cpu")
