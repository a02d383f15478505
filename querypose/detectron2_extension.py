"""What importing QueryPose does to Detectron2: its registries and its catalogue of data sets know QueryPose's.

Every package that uses Detectron2 imports this module, whichever of them is imported first.
"""

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "QueryPose needs Detectron2, which is on no package registry under its own name: run "
        "'python tools/install_detectron2.py' in the QueryPose folder, or install it from its repository"
    ) from error

from querypose import modeling  # noqa: F401  (fills the registries)
from querypose.data.builtin import register_all

register_all()
