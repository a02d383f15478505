"""QueryPose: sparse end-to-end multi-person pose estimation as a Detectron2 extension."""

import importlib
import warnings
from typing import Any

# fvcore, which Detectron2 imports, scripts its focal loss: users can do nothing about it
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)

__version__ = "0.1.0"
__all__ = ["Persons", "PosePredictor", "add_querypose_config"]

# Loaded when first asked for, so that `querypose.onnx` works where neither PyTorch nor Detectron2 is installed.
_MODULE_OF = {"Persons": "structures", "PosePredictor": "predictor", "add_querypose_config": "config"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'querypose' has no attribute '{name}'")
    try:
        importlib.import_module("detectron2")
    except ModuleNotFoundError as error:
        advice = "run 'python tools/install_detectron2.py' in the QueryPose folder, or install it from its repository"
        raise ModuleNotFoundError(f"QueryPose needs Detectron2: {advice}") from error
    # Detectron2 then knows QueryPose's data sets, models and backbones
    importlib.import_module("querypose.data")
    importlib.import_module("querypose.modeling")
    return getattr(importlib.import_module(f"querypose.{_MODULE_OF[name]}"), name)
