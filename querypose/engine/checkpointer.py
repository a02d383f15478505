"""Checkpoints, written atomically: which are loaded, when training writes them, and which it keeps."""

import logging
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from querypose.atomic_io import whole_file, writing
from querypose.errors import UserError
from querypose.modeling.backbones.timm_weights import load_timm_weights
from querypose.safe_loading import SafeCheckpointer

logger = logging.getLogger(__name__)

KEPT = 5  # of `model_<iteration>.pth`, the newest


class PoseCheckpointer(SafeCheckpointer):
    """Detectron2's, with atomic writes; it also loads `timm://name`, timm's weights for the backbone alone."""

    saved_model: nn.Module | None = None  # whose weights `save` writes, where not those of the model it loads into

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load `path` into the model, an empty one not at all; returns what else the file holds."""
        if path.startswith("timm://"):
            load_timm_weights(self.model.backbone, path.removeprefix("timm://"))
            self.logger.info(f"Loaded the backbone's weights from {path}")
            return {}
        if path and "://" not in path and not os.path.isfile(path):
            raise UserError(f"there is no weights file {path}; set MODEL.WEIGHTS to one, or to '' for random weights")
        return super().load(path, *args, **kwargs)

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Write `name`.pth with `kwargs` in it, on the main process; a UserError, of a full disk, leaves the old files.

        tag: whether a resumed run continues from this one.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": (self.saved_model or self.model).state_dict()}
        data.update({key: checkpointable.state_dict() for key, checkpointable in self.checkpointables.items()})
        data.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {path}")
        with writing(path, "older checkpoints are kept; free disk space and continue with --resume"):
            with whole_file(path) as file:
                torch.save(data, file)
            if tag:
                self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with whole_file(os.path.join(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename.encode())

    def get_checkpoint_file(self) -> str:
        """Path of the intact checkpoint that the first process finds; "" without any, a UserError if all are broken."""
        candidates = self._candidates() if comm.is_main_process() else []
        found = next((str(path) for path in candidates if _is_intact(path)), "")
        if candidates and not found:
            raise UserError(f"all checkpoints in {self.save_dir} are damaged; move them away to start a new run")
        return comm.all_gather(found)[0]

    def _candidates(self) -> list[Path]:
        """The checkpoint that `last_checkpoint` names, then the others of the run, newest first."""
        files = Path(self.save_dir).glob("model_*.pth")
        found = [path for path in files if re.fullmatch(r"model_(\d+|final|best)", path.stem)]
        last = Path(self.save_dir, "last_checkpoint")
        named = os.path.basename(last.read_text(errors="replace").strip()) if last.is_file() else ""
        return sorted(found, key=lambda path: (path.name == named, path.stat().st_mtime_ns), reverse=True)


def _is_intact(path: Path) -> bool:
    """Whether a checkpoint's checksums are right; a warning says why not."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is None:
            return True
        reason = f"{broken} in it has another checksum"
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        reason = str(error) or type(error).__name__
    logger.warning("%s is damaged (%s); looking for the one before it", path, reason)
    return False


class PeriodicCheckpoints(HookBase):
    """`model_<iteration>.pth` every `period` iterations, of which the newest are kept; at the end `model_final.pth`.

    Only the last one must be written: training continues without another.
    """

    def __init__(self, checkpointer: PoseCheckpointer, period: int):
        self.checkpointer = checkpointer
        self.period = period
        self.saved = -1  # the iteration of the last checkpoint

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if iteration >= self.trainer.max_iter - 1:
            self.checkpointer.save("model_final", iteration=iteration)
            self.saved = iteration
        elif (iteration + 1) % self.period == 0:
            try:
                self.save(iteration)
            except UserError as error:
                logger.error("%s (training continues without it)", error)

    def save(self, iteration: int) -> Path:
        """Write the state after an iteration, on the main process, and remove older ones; returns the path."""
        path = Path(self.checkpointer.save_dir) / f"model_{iteration:07d}.pth"
        self.checkpointer.save(path.stem, iteration=iteration)
        self.saved = iteration
        for old in sorted(path.parent.glob("model_[0-9]*.pth"))[:-KEPT]:
            if old != path:
                old.unlink(missing_ok=True)
        return path
