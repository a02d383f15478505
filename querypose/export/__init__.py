"""Models for other runtimes than PyTorch."""

from querypose.export.onnx_export import export_onnx
from querypose.export.onnx_graph import OnnxGraph
from querypose.export.pyramid_pooler import DensePyramidPooler

__all__ = ["DensePyramidPooler", "OnnxGraph", "export_onnx"]
