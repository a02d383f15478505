"""Short training runs: the config of most tests of training, and a run that is killed again and again.

`kill_again_and_again` prints one JSON object: for each kill where it struck, the iteration that was resumed after it,
and the largest difference of the final state from that of an uninterrupted run. Children are forked from a process that
has imported everything and computed nothing.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from tiny_model import tiny_config

from querypose.data import resolve_dataset
from querypose.engine import PoseTrainer
from querypose.engine.checkpointer import PoseCheckpointer, why_damaged
from querypose.synthetic.dataset import write_synthetic_people

ITERATIONS, PERIOD = 30, 2


def config(people: str, folder: Path, *opts):
    cfg = tiny_config(
        "light", "DATASETS.TRAIN", (people,), "DATALOADER.NUM_WORKERS", 0, "SEED", 5, "INPUT.MIN_SIZE_TRAIN", (48, 64),
        "INPUT.CROP.SIZE", (40, 60), "INPUT.CROP.RESIZE_BEFORE", (64, 80), "SOLVER.IMS_PER_BATCH", 2,
        "SOLVER.BASE_LR", 1e-3, "SOLVER.WARMUP_ITERS", 5, "SOLVER.STEPS", (10, 20), "SOLVER.MAX_ITER", ITERATIONS,
        "SOLVER.CHECKPOINT_PERIOD", PERIOD, "OUTPUT_DIR", str(folder),
        "MODEL.QUERYPOSE.GROUND_TRUTH_REGIONS.COPIES", 1, "SOLVER.EMA", 0.9, "MODEL.QUERYPOSE.NUM_STAGES", 1, *opts,
    )  # fmt: skip
    resolve_dataset(people)
    return cfg


class Poison(HookBase):
    """Makes a pixel infinite in some iterations: of the last image of the last process."""

    def __init__(self, *iterations: int):
        self.iterations = iterations

    def before_train(self) -> None:
        self.backward = self.trainer._trainer.backward
        self.trainer._trainer.backward = self.poisoned

    def poisoned(self, batch: list[dict]) -> dict:
        if self.trainer.iter in self.iterations and comm.get_rank() == comm.get_world_size() - 1:
            batch[-1]["image"] = batch[-1]["image"].float()
            batch[-1]["image"][0, 3, 4] = torch.inf
        return self.backward(batch)


def train(cfg, strike: str | None = None, at: int = 0) -> None:
    """Train in this process; "write" kills it at that many calls of write while it saves a checkpoint, "replace" before
    a file takes its name, "step" within an iteration."""
    torch.set_num_threads(1)
    trainer = PoseTrainer(cfg)
    trainer.resume_or_load(resume=True)
    (Path(cfg.OUTPUT_DIR) / "started").write_text(str(trainer.start_iter))
    count = 0

    def or_die(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count > at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    if strike == "replace":
        os.replace = or_die(os.replace)
    elif strike == "step":
        trainer._trainer.backward = or_die(trainer._trainer.backward)
    elif strike == "write":
        save = torch.save

        class Fragile:
            def __init__(self, file):
                self.write, self.flush = or_die(file.write), file.flush

        torch.save = lambda data, file: save(data, Fragile(file))
    trainer.train()


def forked(function) -> int:
    """Run it in a child; the child's process id."""
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return child


def state_of(folder: Path) -> dict:
    """The final checkpoint but for its config, which names the folder."""
    state = torch.load(folder / "model_final.pth", weights_only=True)
    del state["trainer"]["config"]
    return state


def largest_difference(first: dict, second: dict) -> float:
    """Over all tensors and numbers of two checkpoints, which must have the same structure."""
    if isinstance(first, torch.Tensor):
        assert first.shape == second.shape
        return (first.double() - second.double()).abs().max().item() if first.numel() else 0.0
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        return max((largest_difference(first[key], second[key]) for key in first), default=0.0)
    if isinstance(first, list | tuple):
        assert len(first) == len(second)
        return max((largest_difference(*pair) for pair in zip(first, second, strict=True)), default=0.0)
    if isinstance(first, int | float) and not isinstance(first, bool):
        return abs(first - second)
    assert first == second
    return 0.0


def kill_again_and_again(root: Path, kills: int, seed: int) -> None:
    people = write_synthetic_people(root / "people", "train", 6)
    alone, killed = config(people, root / "alone"), config(people, root / "killed")
    for cfg in (alone, killed):
        Path(cfg.OUTPUT_DIR).mkdir()
    start = time.monotonic()
    reference = forked(lambda: train(alone))
    assert os.waitpid(reference, 0)[1] == 0, "the training that is left alone fails"
    # so short that the training does not end before the last kill, however fast the machine is
    longest = min(0.8, (time.monotonic() - start) / kills)

    draw = random.Random(seed)
    folder, strikes, starts = root / "killed", [], []
    while len(strikes) < kills:
        kind = draw.choice(["write", "write", "replace", "step", "time"])
        at = {"write": draw.randrange(150), "replace": draw.randrange(3), "step": draw.randrange(4)}.get(kind, 0)
        (folder / "started").unlink(missing_ok=True)
        child = forked(lambda kind=kind, at=at: train(killed, kind, at))
        if kind == "time":
            while not (folder / "started").is_file() and os.waitpid(child, os.WNOHANG) == (0, 0):
                time.sleep(0.005)
            time.sleep(draw.random() * longest)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status), f"{kind} {at}: the training ended with {status} after {len(strikes)} kills"
        strikes.append(kind)
        starts.append(int((folder / "started").read_text()))
        checkpoint = PoseCheckpointer(torch.nn.Identity(), str(folder)).get_checkpoint_file()
        assert checkpoint or starts[-1] == 0, "no whole checkpoint is left"
        assert not checkpoint or why_damaged(checkpoint) is None
    last = forked(lambda: train(killed))
    assert os.waitpid(last, 0)[1] == 0, "the training does not end"
    partial = [path.name for path in folder.iterdir() if path.name.endswith(".partial")]
    difference = largest_difference(state_of(root / "alone"), state_of(folder))
    print(json.dumps({"strikes": strikes, "starts": starts, "partial": partial, "difference": difference}))
