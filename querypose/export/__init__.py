"""Models for other runtimes than PyTorch."""

from querypose.export.onnx_export import export_onnx
from querypose.export.onnx_graph import OnnxGraph

__all__ = ["OnnxGraph", "export_onnx"]
