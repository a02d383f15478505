"""Detectron2's trainer with QueryPose's data, optimizer and evaluation; on GPUs or CPU processes."""

import contextlib
import functools
import logging
import os
import re
import weakref
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.logger import setup_logger
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from querypose.atomic_io import cut_unfinished_line
from querypose.data import PoseDatasetMapper, SkipUnreadable, TrainingLoader, training_records
from querypose.engine.checkpoint_hooks import BestCheckpoint, PeriodicCheckpoints
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.engine.non_finite import NonFiniteGuard
from querypose.engine.optimizer import build_optimizer
from querypose.engine.random_state import SeedSteps
from querypose.engine.resume_check import check_resumable
from querypose.engine.signals import Interrupted, StopOnSignal
from querypose.engine.train_loop import METRIC_PERIOD, StepTrainer
from querypose.engine.training_hooks import EvalHook, MetricsWriter, ProgressBar, UnreadableImages
from querypose.engine.weight_averaging import WeightAveraging
from querypose.errors import UserError
from querypose.evaluation import PoseEvaluator

logger = logging.getLogger(__name__)

# Detectron2's loop logs the traceback of every exception; a UserError is reported in one sentence elsewhere
logging.getLogger("detectron2.engine.train_loop").addFilter(
    lambda record: not (record.exc_info and isinstance(record.exc_info[1], UserError))
)


class PoseTrainer(DefaultTrainer):
    """`PoseTrainer(cfg).train()`: Detectron2's interface; an interrupted run resumes exactly where it was."""

    def __init__(self, cfg: CfgNode):
        # not DefaultTrainer.__init__: it only supports data-parallel training on GPUs
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        steps = cfg.SOLVER.ACCUMULATION_STEPS
        # no_sync() does not support static graphs
        model = wrap_for_distribution(model, static_graph=steps == 1)
        self._trainer = StepTrainer(
            model,
            self.build_train_loader(cfg),
            optimizer,
            clip=cfg.SOLVER.CLIP_GRADIENTS,
            accumulation_steps=steps,
            bfloat16=use_bfloat16(cfg),
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = PoseCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.completed = -1  # the last completed iteration
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Detectron2's; see `PoseCheckpointer` for which checkpoint is resumed.

        Raises:
            UserError: a checkpoint of another model or optimizer (`check_resumable`); processes that do not find the
                same checkpoint, on machines that do not share a folder.
        """
        resumed = resume and any(comm.all_gather(self.checkpointer.has_checkpoint()))
        check = functools.partial(
            check_resumable, cfg=self.cfg, model=self._trainer.plain_model, optimizer=self._trainer.optimizer
        )
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume, check=check)
        if resumed:
            self.completed = self.iter  # of the checkpoint
            self.start_iter = self.iter + 1
        if len(set(comm.all_gather(self.start_iter))) > 1:
            raise UserError(
                f"not every process can read the checkpoints in {self.cfg.OUTPUT_DIR}; set OUTPUT_DIR to a folder that "
                "all machines share"
            )

    def train(self) -> dict[str, Any] | None:
        """Train to the end; returns the metrics of the evaluation there.

        Raises:
            UserError: bad input; a loss or gradient that is not finite, unless SOLVER.NON_FINITE skips such steps. The
                state after the last completed iteration is saved, as with any other exception.
            Interrupted: SIGTERM or Ctrl-C; the state is saved, and the process may end with the exception's code.
        """
        try:
            super().train()
        except Interrupted as stop:
            done = "nothing was saved since the last checkpoint"
            if stop.between_steps and self.start_iter <= self.completed and self.iter < self.max_iter:
                done = f"the state after iteration {self.completed} is in {self.save_now()}"
            logger.warning("%s: %s; continue with --resume", stop.signal_name, done)
            if comm.get_world_size() > 1:
                comm.synchronize()  # a process that ends stops the others, the one that writes included
            raise
        except Exception as error:
            saved = self._save_after_error()
            if isinstance(error, UserError):
                raise UserError(f"{error}{saved}") from error
            logger.error("training failed%s", saved)
            raise
        return getattr(self, "_last_eval_results", None)

    def run_step(self) -> None:
        super().run_step()
        self.completed = self.iter

    def save_now(self) -> Path:
        """Write a checkpoint of the state after the last iteration, on the main process; its path, on every one."""
        path = self.checkpoints.path(self.completed)
        if comm.is_main_process():
            self.checkpoints.save(self.completed)
        return path

    def _save_after_error(self) -> str:
        """Save what an error would lose, and say where; the error may be from an iteration that is not completed."""
        saved = self.completed < self.start_iter or self.checkpoints.saved == self.completed
        if saved or self._trainer.is_updating or not comm.is_main_process():
            return ""
        if self.completed < self.iter:
            self.guard.restore_buffers()
        try:
            path = self.save_now()
        except UserError as error:
            logger.error("%s", error)
            return ""
        return f"; the state after iteration {self.completed} is in {path}: continue with --resume"

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's, and those for fault tolerance: seeds, numbers that are not finite, checkpoints, signals.

        Their order matters: a step is checked before it is saved, and saved before it is evaluated.
        """
        cfg = self.cfg
        self.seed_steps = SeedSteps(self._trainer.data_loader)
        self.guard = NonFiniteGuard(cfg.SOLVER.NON_FINITE, cfg.OUTPUT_DIR)
        self.averaging = None
        if cfg.SOLVER.EMA > 0:
            self.averaging = WeightAveraging(self._trainer.plain_model, cfg.SOLVER.EMA)
            self.checkpointer.saved_model = self.averaging.averaged
        self.checkpoints = PeriodicCheckpoints(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
        is_main = comm.is_main_process()
        found = [
            self.seed_steps,
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            self.guard,
            self.averaging,
            self._precise_bn(),
            self.checkpoints if is_main else None,
            StopOnSignal(),
            EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate),
        ]
        if is_main and cfg.DATASETS.TEST:
            names = ["keypoints/AP", f"{cfg.DATASETS.TEST[0]}/keypoints/AP"]
            found.append(BestCheckpoint(self.checkpointer, names))
        if is_main:
            found += [MetricsWriter(self.build_writers(), period=METRIC_PERIOD), ProgressBar()]
            if cfg.DATALOADER.SKIP_UNREADABLE_IMAGES:
                found.append(UnreadableImages(unreadable_list(cfg)))
        return found

    def _evaluate(self) -> dict[str, Any]:
        self._last_eval_results = self.test(self.cfg, self.averaging.averaged if self.averaging else self.model)
        return self._last_eval_results

    def _precise_bn(self) -> HookBase | None:
        """Detectron2's hook before checkpoints and evaluations, where the config asks for it."""
        if not self.cfg.TEST.PRECISE_BN.ENABLED or not get_bn_modules(self.model):
            return None
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        loader = self.build_train_loader(cfg)  # its own: that of training must not advance
        return hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER)

    def build_writers(self) -> list[EventWriter]:
        # a line that a killed run has begun would spoil the next one
        cut_unfinished_line(Path(self.cfg.OUTPUT_DIR) / "metrics.json")
        return super().build_writers()

    # not DefaultTrainer's: Detectron2 v0.6 leaves the optimizer out of checkpoints
    def state_dict(self) -> dict[str, Any]:
        state = TrainerBase.state_dict(self)
        state["iteration"] = self.completed
        state["_trainer"] = self._trainer.state_dict()
        state["config"] = self.cfg.dump()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups = self._trainer.optimizer.param_groups
        configured = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        TrainerBase.load_state_dict(self, state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])
        else:
            logger.warning("the checkpoint has no optimizer state; the optimizer starts from scratch")
        averaging = state_dict.get("hooks", {}).get("WeightAveraging")
        if averaging and not self.averaging:  # a run with SOLVER.EMA resumes without: the model holds the average
            self._trainer.plain_model.load_state_dict(averaging["weights"])
        # learning rates, decay and schedule are the config's, at the checkpoint's iteration
        self.scheduler.base_lrs = [values["initial_lr"] for values in configured]
        groups = self._trainer.optimizer.param_groups  # load_state_dict makes new ones
        for group, values, lr in zip(groups, configured, self.scheduler.get_lr(), strict=True):
            group.update(values, lr=lr)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainingLoader:
        mapper = PoseDatasetMapper(cfg, is_train=True)
        records = training_records(cfg)
        if cfg.DATALOADER.SKIP_UNREADABLE_IMAGES:
            mapper = SkipUnreadable(mapper, unreadable_list(cfg), records)
        return TrainingLoader(cfg, mapper, records)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader[dict[str, Any]]:
        mapper = PoseDatasetMapper(cfg, is_train=False)
        if cfg.DATALOADER.SKIP_UNREADABLE_IMAGES:
            mapper = SkipUnreadable(mapper, unreadable_list(cfg))
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> PoseEvaluator:
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        if not output_folder and len(cfg.DATASETS.TEST) > 1:  # a folder for each
            folder = os.path.join(folder, re.sub(r"[^A-Za-z0-9_.-]+", "-", dataset_name).strip("-"))
        return PoseEvaluator(cfg, dataset_name, output_dir=folder)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: list[Any] | None = None) -> dict[str, Any]:
        """Detectron2's, in every process with the model that a checkpoint holds.

        Every query is run, as box AP counts up to 100 boxes of an image, unless MODEL.QUERYPOSE.TEST.TOPK_POSES is a
        number. In bfloat16 where TEST.AMP.ENABLED asks for it.
        """
        share_buffers(model)
        plain = model.module if isinstance(model, DistributedDataParallel) else model
        queries = contextlib.nullcontext()
        if cfg.MODEL.QUERYPOSE.TEST.TOPK_POSES is None and hasattr(plain, "every_query"):
            queries = plain.every_query()  # type: ignore[operator]
        device_type = next(plain.parameters()).device.type
        with queries, torch.autocast(device_type, torch.bfloat16, enabled=cfg.TEST.AMP.ENABLED):
            return super().test(cfg, model, evaluators)


def use_bfloat16(cfg: CfgNode) -> bool:
    """Whether to train under autocast: where SOLVER.AMP says so, except on CPUs without bfloat16 instructions.

    Those compute the same numbers by emulation, several times slower than float32; they train in float32.
    """
    if not cfg.SOLVER.AMP.ENABLED or not cfg.MODEL.DEVICE.startswith("cpu"):
        return cfg.SOLVER.AMP.ENABLED
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    native = any(check is not None and check() for check in checks)
    if not native:
        logger.warning(
            "SOLVER.AMP.ENABLED: this processor has no bfloat16 instructions; training in float32, which is faster"
        )
    return native


def unreadable_list(cfg: CfgNode) -> str:
    """Path of the file that names the skipped images."""
    return os.path.join(cfg.OUTPUT_DIR, "unreadable_images.txt")


def wrap_for_distribution(model: nn.Module, static_graph: bool = True) -> nn.Module:
    """DistributedDataParallel where there are several processes; every parameter has a gradient in every step.

    static_graph: whether every step runs the same graph once, as all do that do not accumulate gradients.
    """
    if comm.get_world_size() == 1:
        return model
    devices = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
    return DistributedDataParallel(
        model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=static_graph
    )


def share_buffers(model: nn.Module) -> None:
    """Give every process the first one's buffers: each has gathered BatchNorm statistics from its own images."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
