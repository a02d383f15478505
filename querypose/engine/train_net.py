"""The program behind tools/train_net.py and tools/test_net.py, for training scripts of extensions too."""

import argparse
import contextlib
import ctypes
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from querypose.atomic_io import make_output_folder, writing
from querypose.data import check_datasets
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.engine.processes import DEFAULT_TIMEOUT, launch, process_group
from querypose.engine.run_summary import timed_inference, write_results
from querypose.engine.trainer import PoseTrainer
from querypose.errors import UserError
from querypose.setup_config import setup_config

logger = logging.getLogger(__name__)


def main(
    args: argparse.Namespace,
    *,
    trainer: type[PoseTrainer] = PoseTrainer,
    add_config: Callable[[CfgNode], None] | None = None,
) -> dict[str, Any] | None:
    """Train or evaluate in as many processes as the arguments of `parser()` ask for.

    add_config: adds an extension's keys; it and the trainer must be importable. Returns the metrics of the last
    evaluation; None where processes were started.
    """
    return launch(functools.partial(_run, trainer=trainer, add_config=add_config), args)


def parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, with a free port for the processes of one machine."""
    result = default_argument_parser()
    result.set_defaults(dist_url="auto")
    deterministic = "compute the same bits in every run, slower; docs/RELIABILITY.md"
    result.add_argument("--deterministic", action="store_true", help=deterministic)
    timeout = "seconds that a process waits for the others before the job ends (default %(default)s)"
    result.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT, help=timeout)
    return result


def _run(
    args: argparse.Namespace, trainer: type[PoseTrainer], add_config: Callable[[CfgNode], None] | None
) -> dict[str, Any] | None:
    """What every process does."""
    cfg = setup_config(args.config_file, args.opts, add_config)
    with process_group(cfg.MODEL.DEVICE, args.timeout):
        check_datasets(cfg, train=not args.eval_only)
        resumable = args.resume and any(Path(cfg.OUTPUT_DIR).glob("model_*.pth"))
        if args.eval_only and not (cfg.MODEL.WEIGHTS or resumable):
            raise UserError("nothing to evaluate: give MODEL.WEIGHTS, or --resume for a checkpoint in OUTPUT_DIR")
        if cfg.TEST.PRECISE_BN.ENABLED and not args.eval_only:  # it fails where a step calls a norm twice
            raise UserError("TEST.PRECISE_BN is not supported in training; set TEST.PRECISE_BN.ENABLED False")
        if args.eval_only and not cfg.DATASETS.TEST:
            raise UserError("there is nothing to evaluate on; set DATASETS.TEST to one or more data sets")
        for name in cfg.DATASETS.TEST:
            trainer.build_evaluator(cfg, name)  # its errors are reported before training, not after it
        make_output_folder(cfg.OUTPUT_DIR, "OUTPUT_DIR")
        if not args.eval_only and not args.resume:
            refuse_existing_run(cfg.OUTPUT_DIR)
        if args.deterministic:
            make_deterministic(cfg)
        cfg.freeze()
        with writing(cfg.OUTPUT_DIR, "free disk space or choose another OUTPUT_DIR"):
            default_setup(cfg, args)
        logging.getLogger("querypose").parent = logging.getLogger("detectron2")
        log_parts(cfg)
        if args.eval_only:
            model = trainer.build_model(cfg)
            checkpointer = PoseCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
            checkpointer.must_fit = True
            checkpointer.load((checkpointer.get_checkpoint_file() if args.resume else "") or cfg.MODEL.WEIGHTS)
            run: Callable[[], Any] = functools.partial(trainer.test, cfg, model)
        else:
            speed_up_cpu_training(cfg)
            training = trainer(cfg)
            training.resume_or_load(resume=args.resume)
            model, run = training.evaluated_model, training.train
        with timed_inference(model) as seconds:
            results = run()
        write_results(cfg, results, seconds)
        if comm.is_main_process():
            verify_results(cfg, results)  # with TEST.EXPECTED_RESULTS
        return results


def make_deterministic(cfg: CfgNode) -> None:
    """Have PyTorch compute the same bits in every run, with SEED 0 where the config has none; call it first."""
    cfg.SEED = max(cfg.SEED, 0)
    cfg.CUDNN_BENCHMARK = False
    # read when CUDA's matrix multiplication is first used: its workspaces must not be shared between streams
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=cfg.MODEL.DEVICE != "cpu")


def speed_up_cpu_training(cfg: CfgNode) -> None:
    """Where MODEL.DEVICE is a CPU, flush denormal numbers to zero and let glibc keep what this process frees.

    It would return large tensors' memory to the system, which clears all of a step's memory in every step.
    """
    if cfg.MODEL.DEVICE != "cpu":
        return
    torch.set_flush_denormal(True)  # gradients below float32's normal range take a CPU a hundred times as long
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries, Windows
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def refuse_existing_run(folder: str) -> None:
    """Raise a UserError, in every process, if a training run has left metrics or checkpoints in the folder."""
    traces = ("metrics.json", "last_checkpoint", "model_*.pth", "results.json")
    # empty files are a failed start's
    files = [path.name for name in traces for path in Path(folder).glob(name) if path.stat().st_size]
    found = comm.all_gather(files)[0]
    if found:
        raise UserError(
            f"OUTPUT_DIR {folder} holds a run ({found[0]}); continue it with --resume, or give another folder"
        )


def log_parts(cfg: CfgNode) -> None:
    """Log which keypoints share a part query."""
    parts = cfg.MODEL.QUERYPOSE.PART_GROUPS
    lines = [f"  part {number}: {', '.join(part)}" for number, part in enumerate(parts, 1)]
    logger.info("%d keypoints in %d parts:\n%s", sum(map(len, parts)), len(parts), "\n".join(lines))
