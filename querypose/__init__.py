"""QueryPose: sparse end-to-end multi-person pose estimation as a Detectron2 extension."""

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "QueryPose needs Detectron2, which is on no package registry under its own name: run "
        "'python tools/install_detectron2.py' in the QueryPose folder, or install it from its repository"
    ) from error

from querypose import modeling  # noqa: F401  (fills the registries)
from querypose.config import add_querypose_config
from querypose.data import register_all
from querypose.predictor import PosePredictor

__version__ = "0.1.0"
__all__ = ["PosePredictor", "add_querypose_config"]

register_all()
