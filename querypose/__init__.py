"""QueryPose: sparse end-to-end multi-person pose estimation as a Detectron2 extension."""

import warnings

# fvcore, which Detectron2 imports, scripts its focal loss: nothing that a user could mend
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "QueryPose needs Detectron2, which is on no package registry under its own name: run "
        "'python tools/install_detectron2.py' in the QueryPose folder, or install it from its repository"
    ) from error

from querypose import modeling  # noqa: E402, F401  (fills the registries)
from querypose.config import add_querypose_config  # noqa: E402
from querypose.data import register_all  # noqa: E402
from querypose.predictor import PosePredictor  # noqa: E402

__version__ = "0.1.0"
__all__ = ["PosePredictor", "add_querypose_config"]

register_all()
