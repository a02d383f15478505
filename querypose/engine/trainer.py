"""Detectron2's trainer with QueryPose's data, optimizer and evaluation; on GPUs or CPU processes."""

import contextlib
import json
import logging
import math
import re
import weakref
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model, hooks
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.utils.data import DataLoader

from querypose.atomic_io import cut_unfinished_line, remove_partial_files, whole_file, writing
from querypose.data import PoseDatasetMapper, SkipUnreadable, TrainingLoader, training_records
from querypose.data.mapper import Mapper, Records
from querypose.engine.checkpointer import PeriodicCheckpoints, PoseCheckpointer
from querypose.engine.hooks import Interrupted, MetricsWriter, ProgressBar, SeedSteps, StopOnSignal, WeightAveraging
from querypose.engine.non_finite import NonFiniteGuard
from querypose.engine.optimizer import build_optimizer
from querypose.engine.resume_check import check_resumable
from querypose.engine.train_loop import METRIC_PERIOD, StepTrainer
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
        device, steps = torch.device(cfg.MODEL.DEVICE), cfg.SOLVER.ACCUMULATION_STEPS
        model = create_ddp_model(
            model,
            device_ids=[torch.cuda.current_device()] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            static_graph=steps == 1,  # every parameter has a gradient in every step, but no_sync() does not support it
        )
        loader, clip, bfloat16 = self.build_train_loader(cfg), cfg.SOLVER.CLIP_GRADIENTS, use_bfloat16(cfg)
        self._trainer = StepTrainer(model, loader, optimizer, clip=clip, accumulation_steps=steps, bfloat16=bfloat16)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = PoseCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.completed = -1  # the last completed iteration
        self.best = -math.inf  # keypoint AP of all evaluations
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the newest intact checkpoint, or else MODEL.WEIGHTS; a UserError for one of another config's run."""
        output = Path(self.cfg.OUTPUT_DIR)
        if comm.is_main_process():
            remove_partial_files(output)
            # a line that a killed run has begun would spoil the next one
            cut_unfinished_line(output / "metrics.json")
        path = self.checkpointer.get_checkpoint_file() if resume else ""
        if not path:
            self.checkpointer.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])
            return
        content = self.checkpointer._load_file(path)
        check_resumable(path, content, self.cfg, self._trainer.plain_model, self._trainer.optimizer)
        self.checkpointer.load(path)
        self.completed = self.iter  # of the checkpoint
        self.start_iter = self.iter + 1
        if (output / "model_best.json").is_file():
            try:
                self.best = float(json.loads((output / "model_best.json").read_text())["value"])
            except (ValueError, LookupError, TypeError):
                logger.warning("model_best.json is damaged; the next evaluation counts as the best so far")

    def train(self) -> dict[str, Any] | None:
        """Train to the end, and return the metrics of the evaluation there; an exception saves the last state first."""
        try:
            TrainerBase.train(self, self.start_iter, self.max_iter)
        except Interrupted as stop:
            done = "nothing was saved since the last checkpoint"
            if stop.between_steps and self.start_iter <= self.completed and self.iter < self.max_iter:
                done = f"the state after iteration {self.completed} is in {self.save_now()}"
            logger.warning("%s: %s; continue with --resume", stop.signal_name, done)
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
        """Write a checkpoint of the state after the last iteration; every process must call it."""
        path = self.checkpoints.save(self.completed)
        comm.synchronize()  # a process that ends stops the others, the one that writes included
        return path

    def _save_after_error(self) -> str:
        """Save what an error would lose, and say where; the error may be from an iteration that is not completed."""
        saved = self.completed < self.start_iter or self.checkpoints.saved == self.completed
        if saved or self._trainer.is_updating or not comm.is_main_process():
            return ""
        if self.completed < self.iter:
            self.guard.restore_buffers()
        try:
            path = self.checkpoints.save(self.completed)
        except UserError as error:
            logger.error("%s", error)
            return ""
        return f"; the state after iteration {self.completed} is in {path}: continue with --resume"

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's, and those for fault tolerance; a step is checked, saved and evaluated, in this order."""
        cfg = self.cfg
        self.seed_steps = SeedSteps(self._trainer.data_loader)
        self.guard = NonFiniteGuard(cfg.SOLVER.NON_FINITE, cfg.OUTPUT_DIR)
        self.averaging, self.evaluated_model = None, self._trainer.plain_model
        if cfg.SOLVER.EMA > 0:
            self.averaging = WeightAveraging(self._trainer.plain_model, cfg.SOLVER.EMA)
            self.evaluated_model = self.checkpointer.saved_model = self.averaging.averaged
        self.checkpoints = PeriodicCheckpoints(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
        found = [
            self.seed_steps,
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            self.guard,
            self.averaging,
            self.checkpoints,
            StopOnSignal(),
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate),
        ]
        if comm.is_main_process():
            with writing(cfg.OUTPUT_DIR, "free disk space or choose another OUTPUT_DIR"):
                found += [MetricsWriter(self.build_writers(), period=METRIC_PERIOD), ProgressBar()]
        return found

    def _evaluate(self) -> dict[str, Any]:
        self._last_eval_results = results = self.test(self.cfg, self.evaluated_model)
        if results:
            first = results.get(self.cfg.DATASETS.TEST[0], results)  # by data set where there are several
            value = first.get("keypoints", {}).get("AP", math.nan)
            if value > self.best:  # NaN is not better than anything
                self._save_best(value)
        return results

    def _save_best(self, value: float) -> None:
        """`model_best.pth` and `model_best.json`: the state with the highest keypoint AP on the first test set."""
        self.best, record = value, Path(self.cfg.OUTPUT_DIR) / "model_best.json"
        try:
            self.checkpointer.save("model_best", tag=False, iteration=self.completed)
            with writing(record, "free disk space"), whole_file(record) as file:
                content = {"metric": "keypoints/AP", "value": value, "iteration": self.completed}
                file.write(json.dumps(content).encode())
        except UserError as error:
            logger.error("%s (training continues without the best checkpoint)", error)
        else:
            logger.info("keypoints/AP %.3f is the best so far; saved model_best.pth", value)

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
        self._trainer.load_state_dict(state_dict["_trainer"])
        averaging = state_dict.get("hooks", {}).get("WeightAveraging")
        if averaging and not self.averaging:  # a run with SOLVER.EMA resumes without: the model holds the average
            self._trainer.plain_model.load_state_dict(averaging["weights"])
        # learning rates, decay and schedule are the config's, at the checkpoint's iteration
        self.scheduler.base_lrs = [values["initial_lr"] for values in configured]
        groups = self._trainer.optimizer.param_groups  # load_state_dict makes new ones
        for group, values, lr in zip(groups, configured, self.scheduler.get_lr(), strict=True):
            group.update(values, lr=lr)

    build_optimizer = staticmethod(build_optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainingLoader:
        records = training_records(cfg)
        return TrainingLoader(cfg, build_mapper(cfg, is_train=True, records=records), records)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader[dict[str, Any]]:
        return build_detection_test_loader(cfg, dataset_name, mapper=build_mapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> PoseEvaluator:
        # several data sets have a folder each
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", dataset_name).strip("-") if len(cfg.DATASETS.TEST) > 1 else ""
        folder = output_folder or str(Path(cfg.OUTPUT_DIR, "inference", name))
        return PoseEvaluator(cfg, dataset_name, output_dir=folder)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: list[Any] | None = None) -> dict[str, Any]:
        """Detectron2's, with every query unless TOPK_POSES is a number, as box AP counts 100 boxes of an image."""
        share_buffers(model)
        queries = contextlib.nullcontext()
        if cfg.MODEL.QUERYPOSE.TEST.TOPK_POSES is None and hasattr(model, "every_query"):
            queries = model.every_query()  # type: ignore[operator]
        device_type = next(model.parameters()).device.type
        with queries, torch.autocast(device_type, torch.bfloat16, enabled=cfg.TEST.AMP.ENABLED):
            return super().test(cfg, model, evaluators)


def use_bfloat16(cfg: CfgNode) -> bool:
    """SOLVER.AMP.ENABLED, except on CPUs without bfloat16 instructions: emulation is slower than float32."""
    if not cfg.SOLVER.AMP.ENABLED or not cfg.MODEL.DEVICE.startswith("cpu"):
        return cfg.SOLVER.AMP.ENABLED
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(hasattr(torch.cpu, name) and getattr(torch.cpu, name)() for name in names)
    if not native:
        logger.warning("SOLVER.AMP.ENABLED: this processor has no bfloat16 instructions; training in float32")
    return native


def build_mapper(cfg: CfgNode, is_train: bool, records: Records | None = None) -> Mapper:
    """The mapper of training or evaluation, around which images are skipped where the config asks for it."""
    mapper = PoseDatasetMapper(cfg, is_train=is_train)
    if cfg.DATALOADER.SKIP_UNREADABLE_IMAGES:
        return SkipUnreadable(mapper, Path(cfg.OUTPUT_DIR) / "unreadable_images.txt", records)
    return mapper


def share_buffers(model: nn.Module) -> None:
    """Give every process the first one's buffers: each has gathered BatchNorm statistics from its own images."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
