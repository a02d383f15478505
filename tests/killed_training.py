"""Short training runs: the config of most tests of training, and a run that kills itself."""

import itertools
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from tiny_model import tiny_config

from querypose.data import resolve_dataset
from querypose.engine import PoseTrainer


def config(people: str, folder: Path, *opts):
    cfg = tiny_config(
        "light", "DATASETS.TRAIN", (people,), "DATALOADER.NUM_WORKERS", 0, "SEED", 5, "INPUT.MIN_SIZE_TRAIN", (48, 64),
        "INPUT.CROP.SIZE", (40, 60), "INPUT.CROP.RESIZE_BEFORE", (64, 80), "SOLVER.IMS_PER_BATCH", 2,
        "SOLVER.BASE_LR", 1e-3, "SOLVER.WARMUP_ITERS", 5, "SOLVER.STEPS", (10, 20), "SOLVER.MAX_ITER", 24,
        "SOLVER.CHECKPOINT_PERIOD", 2, "OUTPUT_DIR", str(folder),
        "MODEL.QUERYPOSE.GROUND_TRUTH_REGIONS.COPIES", 1, "SOLVER.EMA", 0.9, "MODEL.QUERYPOSE.NUM_STAGES", 1, *opts,
    )  # fmt: skip
    resolve_dataset(people)
    return cfg


class Do(HookBase):
    """Calls `action` before an iteration."""

    def __init__(self, iteration, action):
        self.iteration, self.action = iteration, action

    def before_step(self):
        if self.trainer.iter == self.iteration:
            self.action()


class Poison(HookBase):
    """Makes a pixel infinite in some iterations: of the last image of the last process."""

    def __init__(self, *iterations):
        self.iterations = iterations

    def before_train(self):
        self.backward = self.trainer._trainer.backward
        self.trainer._trainer.backward = self.poisoned

    def poisoned(self, batch):
        if self.trainer.iter in self.iterations and comm.get_rank() == comm.get_world_size() - 1:
            batch[-1]["image"] = batch[-1]["image"].float()
            batch[-1]["image"][0, 3, 4] = torch.inf
        return self.backward(batch)


def resumed(cfg) -> PoseTrainer:
    trainer = PoseTrainer(cfg)
    trainer.resume_or_load(resume=True)
    return trainer


def train(cfg, *hooks) -> PoseTrainer:
    trainer = resumed(cfg)
    trainer.register_hooks(hooks)
    trainer.train()
    return trainer


def state_of(folder: Path) -> dict:
    """The final checkpoint but for its config, which names the folder."""
    state = torch.load(folder / "model_final.pth", weights_only=True)
    del state["trainer"]["config"]
    return state


def largest_difference(first, second) -> float:
    """Over all tensors and numbers of two checkpoints, which must have the same structure."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        return max((largest_difference(first[key], second[key]) for key in first), default=0.0)
    if isinstance(first, list | tuple):
        return max((largest_difference(*pair) for pair in zip(first, second, strict=True)), default=0.0)
    if isinstance(first, torch.Tensor | int | float):
        first, second = torch.as_tensor(first), torch.as_tensor(second)
        assert first.shape == second.shape
        return (first.double() - second.double()).abs().max().item() if first.numel() else 0.0
    assert first == second
    return 0.0


def train_until_struck(people: str, folder: Path, strike: str = "", at: int = 0) -> None:
    """Train in this process; "write" kills it at that many calls of write while it saves a checkpoint, "replace" before
    a file takes its name, "step" within an iteration."""
    trainer = resumed(config(people, folder))
    (folder / "started").write_text(str(trainer.start_iter))
    calls = itertools.count()

    def or_die(function):
        def call(*args, **kwargs):
            if next(calls) >= at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    if strike == "replace":
        os.replace = or_die(os.replace)
    elif strike == "step":
        trainer._trainer.backward = or_die(trainer._trainer.backward)
    elif strike == "write":
        save = torch.save
        torch.save = lambda data, file: save(data, SimpleNamespace(write=or_die(file.write), flush=file.flush))
    trainer.train()
