"""Detectron2's trainer with QueryPose's data, optimiser and evaluation; also on CPU processes."""

import logging
import os
import weakref

import torch
from detectron2.data import (
    DatasetFromList,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.nn.parallel import DistributedDataParallel

from querypose.data import PoseDatasetMapper, SkipUnreadable, count_unreadable
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.engine.optimizer import build_optimizer
from querypose.engine.progress import ProgressBar
from querypose.engine.step import BFloat16Trainer, StepTrainer
from querypose.errors import UserError
from querypose.evaluation import PoseEvaluator

logger = logging.getLogger(__name__)


class PoseTrainer(DefaultTrainer):
    """`PoseTrainer(cfg).train()`; hooks, checkpoints, metrics and `resume_or_load` are Detectron2's."""

    def __init__(self, cfg):
        # not DefaultTrainer.__init__: it knows data-parallel training on GPUs only
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        if cfg.MODEL.DEVICE == "cpu":
            # gradients smaller than float32's normal range cost a CPU a hundred times a zero's time
            torch.set_flush_denormal(True)
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

    def train(self):
        """Train to the end; returns the metrics of the evaluation there."""
        super().train()
        return getattr(self, "_last_eval_results", None)

    def build_hooks(self):
        hooks = super().build_hooks()
        if comm.is_main_process():
            hooks.append(ProgressBar())
            if self.cfg.DATALOADER.SKIP_UNREADABLE_IMAGES:
                hooks.append(UnreadableImages(unreadable_list(self.cfg)))
        return hooks

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg):
        mapper = PoseDatasetMapper(cfg, is_train=True)
        if not cfg.DATALOADER.SKIP_UNREADABLE_IMAGES:
            return build_detection_train_loader(cfg, mapper=mapper)
        records = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE,
        )
        # serialised once, for the loader and for the substitutes of images that cannot be read
        records = DatasetFromList(records, copy=False)
        mapper = SkipUnreadable(mapper, unreadable_list(cfg), records)
        return build_detection_train_loader(cfg, mapper=mapper, dataset=records)

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

        Every query is run, whatever MODEL.QUERYPOSE.TEST.TOPK_POSES says, unless EVALUATE_TOPK is set there: box AP
        counts up to 100 boxes of an image.
        """
        share_buffers(model)
        plain = model.module if isinstance(model, DistributedDataParallel) else model
        if not hasattr(plain, "every_query"):
            return super().test(cfg, model, evaluators)
        if cfg.MODEL.QUERYPOSE.TEST.EVALUATE_TOPK:
            if plain.leaves_out_queries:
                logging.getLogger(__name__).warning(
                    "MODEL.QUERYPOSE.TEST.EVALUATE_TOPK: box AP below counts the %d best boxes of an image only",
                    plain.topk_poses or plain.max_detections,
                )
            return super().test(cfg, model, evaluators)
        with plain.every_query():
            return super().test(cfg, model, evaluators)


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
