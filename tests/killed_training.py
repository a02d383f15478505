"""Short training runs: the config of most tests of training, and a run that is killed again and again."""

import itertools
import json
import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from tiny_model import tiny_config

from querypose.data import resolve_dataset
from querypose.engine import PoseTrainer
from querypose.engine.checkpointer import PoseCheckpointer, why_damaged
from querypose.synthetic.dataset import write_synthetic_people


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
    if isinstance(first, torch.Tensor):
        assert first.shape == second.shape
        return (first.double() - second.double()).abs().max().item() if first.numel() else 0.0
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        return max((largest_difference(first[key], second[key]) for key in first), default=0.0)
    if isinstance(first, list | tuple):
        return max((largest_difference(*pair) for pair in zip(first, second, strict=True)), default=0.0)
    if isinstance(first, int | float) and not isinstance(first, bool):
        return abs(first - second)
    assert first == second
    return 0.0


def train_until_struck(cfg, strike: str, at: int) -> None:
    """Train in this process; "write" kills it at that many calls of write while it saves a checkpoint, "replace" before
    a file takes its name, "step" within an iteration."""
    torch.set_num_threads(1)
    trainer = resumed(cfg)
    (Path(cfg.OUTPUT_DIR) / "started").write_text(str(trainer.start_iter))
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


def forked(function, *args) -> int:
    """Run it in a child; the child's process id."""
    child = os.fork()
    if child == 0:
        for number in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        code = 1
        try:
            function(*args)
            code = 0
        finally:
            os._exit(code)
    return child


def kill_again_and_again(root: Path, kills: int) -> None:
    """Print as JSON the iterations that were resumed, what is left over, and the difference from a run left alone."""
    people = write_synthetic_people(root / "people", "train", 6)
    alone, killed = config(people, root / "alone"), config(people, root / "killed")
    folder, starts, draw = root / "killed", [], random.Random(1)
    folder.mkdir()
    assert os.waitpid(forked(train, alone), 0)[1] == 0, "the training that is left alone fails"
    for kind in itertools.islice(itertools.cycle(["write", "time", "replace", "step"]), kills):
        at = {"write": draw.randrange(150), "replace": draw.randrange(3), "step": draw.randrange(4)}.get(kind, 0)
        (folder / "started").unlink(missing_ok=True)
        child = forked(train_until_struck, killed, kind, at)
        if kind == "time":
            while not (folder / "started").is_file() and os.waitpid(child, os.WNOHANG) == (0, 0):
                time.sleep(0.005)
            time.sleep(0.3 * draw.random())
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status), f"{kind} {at}: the training ended with {status} after {len(starts)} kills"
        starts.append(int((folder / "started").read_text()))
        checkpoint = PoseCheckpointer(torch.nn.Identity(), str(folder)).get_checkpoint_file()
        assert checkpoint or starts[-1] == 0, "no whole checkpoint is left"
        assert not checkpoint or why_damaged(checkpoint) is None
    assert os.waitpid(forked(train, killed), 0)[1] == 0, "the training does not end"
    partial = [path.name for path in folder.iterdir() if path.name.endswith(".partial")]
    difference = largest_difference(state_of(root / "alone"), state_of(folder))
    print(json.dumps({"starts": starts, "partial": partial, "difference": difference}))
