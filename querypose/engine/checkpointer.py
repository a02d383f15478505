"""Detectron2's checkpointer with atomic writes; it also loads timm's pretrained backbones."""

import logging
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from querypose.atomic_io import remove_partial_files, whole_file
from querypose.errors import UserError
from querypose.modeling.backbones.timm_weights import load_timm_weights
from querypose.safe_loading import SafeCheckpointer

logger = logging.getLogger(__name__)

TIMM_PREFIX = "timm://"
LAST_CHECKPOINT = "last_checkpoint"  # the file that names the newest one


class PoseCheckpointer(SafeCheckpointer):
    """Loads files and addresses as Detectron2 does, and `timm://name`: timm's weights `name` for the backbone alone.

    saved_model: whose weights `save` writes, where they are not those of the model that it loads into.
    """

    saved_model: nn.Module | None = None

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load `path` into the model; an empty one loads nothing.

        Returns:
            what else the checkpoint holds; nothing for `timm://`.

        Raises:
            UserError: a file that does not exist; weights that timm does not have or that do not fit the backbone.
        """
        if path and path.startswith(TIMM_PREFIX):
            model = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
            load_timm_weights(model.backbone, path.removeprefix(TIMM_PREFIX))
            self.logger.info(f"Loaded the backbone's weights from {path}")
            return {}
        if path and "://" not in path and not os.path.isfile(path):
            raise UserError(
                f"there is no weights file {path}; set MODEL.WEIGHTS to a file (docs/MODEL_ZOO.md), or to '' to "
                "start from random weights"
            )
        return super().load(path, *args, **kwargs)

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Write `name`.pth atomically into the folder, on the main process.

        Args:
            tag: whether a resumed run continues from this one.
            kwargs: what else to put into it.

        Raises:
            UserError: a file that cannot be written, of a full disk for example; what was there before still is.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": (self.saved_model or self.model).state_dict()}
        data.update({key: checkpointable.state_dict() for key, checkpointable in self.checkpointables.items()})
        data.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {path}")
        try:
            with whole_file(path) as file:
                torch.save(data, file)
            if tag:
                self.tag_last_checkpoint(path.name)
        except (OSError, RuntimeError) as error:
            # PyTorch raises an error of its own from one inside the file's write()
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            before = os.path.basename(super().get_checkpoint_file()) or "none"
            raise UserError(
                f"the checkpoint {path} cannot be written ({cause.strerror}); {before} from before is kept; "
                "free disk space and continue with --resume"
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with whole_file(os.path.join(self.save_dir, LAST_CHECKPOINT)) as file:
            file.write(last_filename_basename.encode())

    def has_checkpoint(self) -> bool:
        """Whether the folder holds a checkpoint, intact or not."""
        return bool(self._candidates())

    def get_checkpoint_file(self) -> str:
        """Path of the checkpoint that `last_checkpoint` names, or else of the newest intact one; "" without any.

        Logs which ones it skips, and why. All processes get what the first one finds.
        """
        found = ""
        for path in self._candidates() if comm.is_main_process() else ():
            reason = why_damaged(path)
            if reason is None:
                found = str(path)
                break
            logger.warning("%s is damaged (%s); looking for the one before it", path, reason)
        return comm.all_gather(found)[0]

    def resume_or_load(
        self, path: str, *, resume: bool = True, check: Callable[[str, dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Detectron2's; a damaged checkpoint is skipped for the newest intact one.

        Args:
            check: called with the path and the content of a checkpoint that is resumed, before it is loaded.

        Raises:
            UserError: all checkpoints are damaged.
        """
        if comm.is_main_process() and self.save_to_disk and self.save_dir:
            remove_partial_files(self.save_dir)
        if not resume or not any(comm.all_gather(self.has_checkpoint())):
            return self.load(path, checkpointables=[])
        newest = self.get_checkpoint_file()
        if not newest:
            raise UserError(f"all checkpoints in {self.save_dir} are damaged; move them away to start a new run")
        if check is not None:
            check(newest, self._load_file(newest))
        return self.load(newest)

    def _candidates(self) -> list[Path]:
        """The checkpoint that `last_checkpoint` names, then the others of the run, newest first."""
        folder = Path(self.save_dir)
        if not self.save_dir or not folder.is_dir():
            return []
        found = [path for path in folder.glob("model_*.pth") if re.fullmatch(r"model_(\d+|final|best)", path.stem)]
        named = folder / os.path.basename(super().get_checkpoint_file())
        return sorted(found, key=lambda path: (path == named, path.stat().st_mtime_ns), reverse=True)


def why_damaged(path: Path) -> str | None:
    """What is wrong with a checkpoint file, by its checksums; None for an intact one."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        return None if broken is None else f"{broken} in it has another checksum"
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        return str(error) or type(error).__name__
