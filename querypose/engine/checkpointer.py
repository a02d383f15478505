"""Detectron2's checkpointer, which also takes timm's pretrained backbones and says what it cannot find."""

import os

from torch.nn.parallel import DistributedDataParallel

from querypose.errors import UserError
from querypose.modeling.backbones.timm_weights import load_timm_weights
from querypose.safe_loading import SafeCheckpointer

TIMM_PREFIX = "timm://"


class PoseCheckpointer(SafeCheckpointer):
    """Loads files and addresses as Detectron2 does, and `timm://name`: timm's weights `name` for the backbone alone."""

    def load(self, path, *args, **kwargs):
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
                f"there is no weights file {path}; set MODEL.WEIGHTS to a file, or to '' to start from random weights "
                "(docs/MODEL_ZOO.md says how to make the file of each config from public weights)"
            )
        return super().load(path, *args, **kwargs)
