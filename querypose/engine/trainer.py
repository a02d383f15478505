"""Detectron2's trainer with QueryPose's data, optimiser and evaluation; also on CPU processes."""

import contextlib
import logging
import os
import weakref
from pathlib import Path

import torch
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from fvcore.nn.precise_bn import get_bn_modules
from torch.nn.parallel import DistributedDataParallel

from querypose.atomic_io import cut_unfinished_line
from querypose.data import PoseDatasetMapper, SkipUnreadable, TrainingLoader, count_unreadable, training_records
from querypose.engine.checkpoint_hooks import BestCheckpoint, PeriodicCheckpoints
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.engine.cpu_memory import keep_freed_memory
from querypose.engine.non_finite import NonFiniteGuard
from querypose.engine.optimizer import build_optimizer
from querypose.engine.progress import ProgressBar
from querypose.engine.random_state import SeedSteps
from querypose.engine.signals import Interrupted, StopOnSignal
from querypose.engine.train_loop import METRIC_PERIOD, BFloat16Trainer, StepTrainer
from querypose.errors import UserError
from querypose.evaluation import PoseEvaluator

logger = logging.getLogger(__name__)

# of `model_<iteration>.pth`, the newest; model_final.pth and model_best.pth are kept as well
CHECKPOINTS_KEPT = 5


class PoseTrainer(DefaultTrainer):
    """`PoseTrainer(cfg).train()`: Detectron2's interface; a run that ends early goes on exactly where it was."""

    def __init__(self, cfg):
        # not DefaultTrainer.__init__: it knows data-parallel training on GPUs only
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        if cfg.MODEL.DEVICE == "cpu":
            # gradients smaller than float32's normal range cost a CPU a hundred times a zero's time
            torch.set_flush_denormal(True)
            keep_freed_memory()
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        steps = accumulation_steps(cfg)
        # no_sync() is not for static graphs
        model = wrap_for_distribution(model, static_graph=steps == 1)
        trainer_class = BFloat16Trainer if use_bfloat16(cfg) else StepTrainer
        self._trainer = trainer_class(model, data_loader, optimizer, accumulation_steps=steps)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = PoseCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume=True):
        """Detectron2's; see `PoseCheckpointer` for what is resumed from.

        Raises:
            UserError: processes that do not find the same checkpoint, on machines that do not share a folder.
        """
        resumed = resume and any(comm.all_gather(self.checkpointer.has_checkpoint()))
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resumed:
            # the checkpoint holds the iteration that was done last
            self.start_iter = self.iter + 1
        if len(set(comm.all_gather(self.start_iter))) > 1:
            raise UserError(
                f"not every process can read the checkpoints in {self.cfg.OUTPUT_DIR}; set OUTPUT_DIR to a folder that "
                "all machines share"
            )

    def train(self):
        """Train to the end; returns the metrics of the evaluation there.

        Raises:
            UserError: a loss or gradient that is not finite, unless SOLVER.NON_FINITE leaves such steps out.
            Interrupted: SIGTERM or Ctrl-C; the state is saved, and the process may end with the exception's code.
        """
        try:
            with without_traceback_of_user_errors():
                super().train()
        except Interrupted as stop:
            self.stop_on_signal.restore()
            done = "nothing was saved since the last checkpoint"
            if stop.between_steps and self.iter < self.max_iter:
                self.guard.settle()
                done = f"the state after iteration {self.iter} is in {self.save_now()}"
            logger.warning("%s: %s; go on with --resume", stop.signal_name, done)
            if comm.get_world_size() > 1:
                comm.synchronize()  # a process that ends takes the others with it, the one that writes included
            raise
        return getattr(self, "_last_eval_results", None)

    def save_now(self) -> Path:
        """Write a checkpoint of the state after this iteration, on the main process; its path, on every one."""
        path = self.checkpoints.path(self.iter)
        if comm.is_main_process():
            self.checkpoints.save(self.iter)
        return path

    def build_hooks(self):
        """Detectron2's, and those that make a run survive: seeds, numbers that are not finite, checkpoints, signals.

        Their order counts: a step is judged before it is saved, and saved before it is evaluated.
        """
        cfg = self.cfg
        self.seed_steps = SeedSteps(self._trainer.data_loader)
        self.guard = NonFiniteGuard(
            cfg.SOLVER.NON_FINITE, cfg.OUTPUT_DIR, (cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD)
        )
        self.checkpoints = PeriodicCheckpoints(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, CHECKPOINTS_KEPT)
        self.stop_on_signal = StopOnSignal()
        is_main = comm.is_main_process()
        found = [
            self.seed_steps,
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            self.guard,
            self._precise_bn(),
            self.checkpoints if is_main else None,
            self.stop_on_signal,
            EvalAtTheEnd(cfg.TEST.EVAL_PERIOD, self._evaluate),
        ]
        if is_main and cfg.DATASETS.TEST:
            names = ["keypoints/AP", f"{cfg.DATASETS.TEST[0]}/keypoints/AP"]
            found.append(BestCheckpoint(self.checkpointer, names))
        if is_main:
            found += [PatientWriter(self.build_writers(), period=METRIC_PERIOD), ProgressBar()]
            if cfg.DATALOADER.SKIP_UNREADABLE_IMAGES:
                found.append(UnreadableImages(unreadable_list(cfg)))
        return found

    def _evaluate(self):
        self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def _precise_bn(self):
        """Detectron2's hook before checkpoints and evaluations, where the config asks for it."""
        if not self.cfg.TEST.PRECISE_BN.ENABLED or not get_bn_modules(self.model):
            return None
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        loader = self.build_train_loader(cfg)  # its own: training's must not move on
        return hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER)

    def build_writers(self):
        # a line that a killed run has begun would spoil the one after it
        cut_unfinished_line(Path(self.cfg.OUTPUT_DIR) / "metrics.json")
        return super().build_writers()

    # not DefaultTrainer's: Detectron2 v0.6 leaves the optimiser out of checkpoints
    def state_dict(self):
        state = TrainerBase.state_dict(self)
        # after the last iteration Detectron2 counts one more
        state["iteration"] = min(self.iter, self.max_iter - 1)
        state["_trainer"] = self._trainer.state_dict()
        return state

    def load_state_dict(self, state_dict):
        TrainerBase.load_state_dict(self, state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])
        else:
            logger.warning("the checkpoint holds no state of the optimiser, which starts anew")

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg):
        mapper = PoseDatasetMapper(cfg, is_train=True)
        records = training_records(cfg)
        if cfg.DATALOADER.SKIP_UNREADABLE_IMAGES:
            mapper = SkipUnreadable(mapper, unreadable_list(cfg), records)
        return TrainingLoader(cfg, mapper, records)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        mapper = PoseDatasetMapper(cfg, is_train=False)
        if cfg.DATALOADER.SKIP_UNREADABLE_IMAGES:
            mapper = SkipUnreadable(mapper, unreadable_list(cfg))
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return PoseEvaluator(cfg, dataset_name, output_dir=folder)

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """Detectron2's, in every process with the model that a checkpoint holds.

        Every query is run, as box AP counts up to 100 boxes of an image, unless MODEL.QUERYPOSE.TEST.TOPK_POSES is a
        number. In bfloat16 where TEST.AMP.ENABLED asks for it.
        """
        share_buffers(model)
        plain = model.module if isinstance(model, DistributedDataParallel) else model
        queries = contextlib.nullcontext()
        if hasattr(plain, "every_query"):
            if cfg.MODEL.QUERYPOSE.TEST.TOPK_POSES is None:
                queries = plain.every_query()
            elif plain.leaves_out_queries:
                logging.getLogger(__name__).warning(
                    "MODEL.QUERYPOSE.TEST.TOPK_POSES: box AP below counts the %d best boxes of an image only",
                    plain.topk_poses or plain.max_detections,
                )
        device_type = next(plain.parameters()).device.type
        with queries, torch.autocast(device_type, torch.bfloat16, enabled=cfg.TEST.AMP.ENABLED):
            return super().test(cfg, model, evaluators)


@contextlib.contextmanager
def without_traceback_of_user_errors():
    """Keep Detectron2's loop from logging the traceback of a UserError, which is told in one sentence elsewhere."""
    loop = logging.getLogger("detectron2.engine.train_loop")

    def is_news(record):
        return not (record.exc_info and isinstance(record.exc_info[1], UserError))

    loop.addFilter(is_news)
    try:
        yield
    finally:
        loop.removeFilter(is_news)


def use_bfloat16(cfg) -> bool:
    """Whether to train under autocast: where the config asks for it, but for CPUs that have no bfloat16 instructions.

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


class EvalAtTheEnd(hooks.EvalHook):
    """Detectron2's, but that it does not evaluate after a training that was ended in its last iteration."""

    def after_train(self):
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class PatientWriter(hooks.PeriodicWriter):
    """Detectron2's, but that training goes on where metrics cannot be written, because the disk is full for example."""

    def after_step(self):
        try:
            super().after_step()
        except OSError as error:
            logger.error("the metrics cannot be written (%s); training goes on", error.strerror or error)


class UnreadableImages(HookBase):
    """Counts the images that were skipped, in the metrics as `unreadable_images` and in the log at the end."""

    def __init__(self, list_file: str):
        self.list_file = list_file

    def after_step(self):
        if (self.trainer.iter + 1) % 20 == 0:
            self.trainer.storage.put_scalar("unreadable_images", count_unreadable(self.list_file), smoothing_hint=False)

    def after_train(self):
        number = count_unreadable(self.list_file)
        where = f"; see {self.list_file}" if number else ""
        logger.info("%d images could not be read and were skipped%s", number, where)


def unreadable_list(cfg) -> str:
    """Path of the file that names the skipped images."""
    return os.path.join(cfg.OUTPUT_DIR, "unreadable_images.txt")


def accumulation_steps(cfg) -> int:
    """SOLVER.ACCUMULATION_STEPS; a UserError unless it divides the images of a process."""
    steps, images = cfg.SOLVER.ACCUMULATION_STEPS, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    if images % steps:
        raise UserError(f"SOLVER.ACCUMULATION_STEPS is {steps}; it must divide the {images} images of each process")
    return steps


def wrap_for_distribution(model: torch.nn.Module, static_graph: bool = True) -> torch.nn.Module:
    """DistributedDataParallel where there are several processes; every parameter has a gradient in every step.

    static_graph: whether every step runs the same graph once, as all do that do not accumulate gradients.
    """
    if comm.get_world_size() == 1:
        return model
    devices = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
    return DistributedDataParallel(
        model,
        device_ids=devices,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        static_graph=static_graph,
    )


def share_buffers(model: torch.nn.Module) -> None:
    """Give every process the first one's buffers: each has gathered BatchNorm statistics from its own images."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
