"""What tools/train_net.py and tools/test_net.py do in every process."""

import argparse
import logging
from pathlib import Path

from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from querypose.data import check_datasets
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.engine.processes import DEFAULT_TIMEOUT
from querypose.engine.random_state import make_deterministic
from querypose.engine.run_summary import InferenceTimer, write_results
from querypose.engine.trainer import PoseTrainer
from querypose.errors import UserError
from querypose.setup_config import setup_config

logger = logging.getLogger(__name__)

# What a training leaves in its folder, of which nothing may be overwritten by another one.
RUN_TRACES = ("metrics.json", "last_checkpoint", "model_*.pth", "results.json")


def train_net_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments; the config file is needed, and two runs on one machine do not share a port."""
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="compute the same bits in every run (docs/RELIABILITY.md has the limits of GPUs); slower",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="how long a process waits for the others before the job ends (default %(default)s)",
    )
    for action in parser._actions:
        if action.dest == "config_file":
            action.required = True
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be more than 0")
    return seconds


def train_net_main(args: argparse.Namespace):
    """Train, or with `eval_only` evaluate; returns the metrics of the last evaluation and leaves them in
    results.json."""
    cfg = setup_config(args.config_file, args.opts)
    check_datasets(cfg, train=not args.eval_only)
    if args.eval_only and not cfg.MODEL.WEIGHTS and not args.resume:
        raise UserError(
            "nothing to evaluate: give MODEL.WEIGHTS path/to/model.pth, or --resume for the last checkpoint"
        )
    for name in cfg.DATASETS.TEST:
        PoseTrainer.build_evaluator(cfg, name)  # what it cannot do is told before a training, not after it
    if not args.eval_only and not args.resume:
        refuse_existing_run(cfg.OUTPUT_DIR)
    if args.deterministic:
        make_deterministic(cfg)
    cfg.freeze()
    default_setup(cfg, args)
    logging.getLogger("querypose").parent = logging.getLogger("detectron2")
    log_parts(cfg)
    if args.eval_only:
        model = PoseTrainer.build_model(cfg)
        checkpointer = PoseCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.must_fit = True
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        with InferenceTimer(model) as timer:
            results = PoseTrainer.test(cfg, model)
        write_results(cfg, args.config_file, results, timer.milliseconds)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = PoseTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    with InferenceTimer(trainer.model) as timer:
        results = trainer.train()
    write_results(cfg, args.config_file, results, timer.milliseconds)
    return results


def refuse_existing_run(folder: str) -> None:
    """Raise a UserError, in every process, if a training has left metrics or checkpoints in the folder."""
    traces = []
    if comm.is_main_process():
        traces = [path for name in RUN_TRACES for path in Path(folder).glob(name)]
    traces = comm.all_gather(traces)[0]
    if traces:
        raise UserError(
            f"OUTPUT_DIR {folder} holds a run already ({traces[0].name}); go on with it by --resume, or give another "
            "OUTPUT_DIR"
        )


def log_parts(cfg):
    """Log which keypoints share a part query."""
    parts = cfg.MODEL.QUERYPOSE.PART_GROUPS
    lines = [f"  part {number}: {', '.join(part)}" for number, part in enumerate(parts, 1)]
    logger.info("%d keypoints in %d parts:\n%s", sum(map(len, parts)), len(parts), "\n".join(lines))
