"""What tools/train_net.py and tools/test_net.py do in every process."""

import argparse
import logging

from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from querypose.config import setup_config
from querypose.data import check_datasets
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.engine.trainer import PoseTrainer
from querypose.errors import UserError


def train_net_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments; the config file is needed, and two runs on one machine do not share a port."""
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")
    for action in parser._actions:
        if action.dest == "config_file":
            action.required = True
    return parser


def train_net_main(args: argparse.Namespace):
    """Train, or with `eval_only` evaluate; returns the metrics of the last evaluation."""
    cfg = setup_config(args.config_file, args.opts)
    check_datasets(cfg, train=not args.eval_only)
    if args.eval_only and not cfg.MODEL.WEIGHTS and not args.resume:
        raise UserError(
            "nothing to evaluate: give MODEL.WEIGHTS path/to/model.pth, or --resume for the last checkpoint"
        )
    cfg.freeze()
    default_setup(cfg, args)
    logging.getLogger("querypose").parent = logging.getLogger("detectron2")
    if args.eval_only:
        model = PoseTrainer.build_model(cfg)
        PoseCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = PoseTrainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = PoseTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()
