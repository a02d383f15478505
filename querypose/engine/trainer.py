"""Detectron2's trainer with QueryPose's data, optimiser and evaluation; also on CPU processes."""

import logging
import os
import time
import weakref

import torch
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, SimpleTrainer, TrainerBase
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.nn.parallel import DistributedDataParallel

from querypose.data import PoseDatasetMapper
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.engine.optimizer import build_optimizer
from querypose.engine.progress import ProgressBar
from querypose.evaluation import PoseEvaluator


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
        model = wrap_for_distribution(model)
        trainer_class = BFloat16Trainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = trainer_class(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = PoseCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def build_hooks(self):
        hooks = super().build_hooks()
        if comm.is_main_process():
            hooks.append(ProgressBar())
        return hooks

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=PoseDatasetMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return build_detection_test_loader(cfg, dataset_name, mapper=PoseDatasetMapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return PoseEvaluator(cfg, dataset_name, output_dir=folder)

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """Detectron2's, in every process with the model that a checkpoint holds."""
        share_buffers(model)
        return super().test(cfg, model, evaluators)


class BFloat16Trainer(SimpleTrainer):
    """A training step under bfloat16 autocast, on GPU or CPU.

    bfloat16 has float32's range, so that no gradient scaler is needed; flow, sigmas, box deltas and losses stay in
    float32.
    """

    def run_step(self):
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        device_type = next(self.model.parameters()).device.type
        with torch.autocast(device_type, dtype=torch.bfloat16):
            loss_dict = self.model(data)
        losses = sum(loss_dict.values())
        self.optimizer.zero_grad()
        losses.backward()
        self._write_metrics(loss_dict, data_time)
        self.optimizer.step()


def wrap_for_distribution(model: torch.nn.Module) -> torch.nn.Module:
    """DistributedDataParallel where there are several processes; every parameter has a gradient in every step."""
    if comm.get_world_size() == 1:
        return model
    devices = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True)


def share_buffers(model: torch.nn.Module) -> None:
    """Give every process the first one's buffers: each has gathered BatchNorm statistics from its own images."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
