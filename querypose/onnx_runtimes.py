"""ONNX Runtime and OpenVINO behind one interface."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from querypose.errors import UserError

RUNTIMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
"""Packages that run ONNX files, the faster one first, and their names."""


class OnnxRuntimeSession:
    """A file in ONNX Runtime, in float32.

    name: of the runtime. defaults: names of the inputs that may be left out. metadata: texts of the file by their key.
    """

    name = RUNTIMES["onnxruntime"]

    def __init__(self, file: str, providers: Sequence[str], num_threads: int):
        import onnxruntime

        available = onnxruntime.get_available_providers()
        for name in providers:
            if name not in available:
                raise UserError(f"this ONNX Runtime has no execution provider {name}; it has {', '.join(available)}.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3  # its warnings are about optimizations that it did not make
        self._session = onnxruntime.InferenceSession(file, options, providers=list(providers))
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.inputs = {value.name for value in self._session.get_inputs()}
        self.outputs = {value.name for value in self._session.get_outputs()}
        self.defaults = {value.name for value in self._session.get_overridable_initializers()}

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of one pass, by their names."""
        return self._session.run(outputs, inputs)


@cache
def openvino_core() -> Any:
    """The process's `openvino.Core`: its CPU plugin replaces the thread's alternate signal stack and frees it when
    it ends, so that the process dies at its next signal where a second one had been made (seen with 2026.4)."""
    import openvino

    return openvino.Core()


class OpenVinoSession:
    """A file in OpenVINO on the CPU; attributes as of `OnnxRuntimeSession`."""

    name = RUNTIMES["openvino"]

    def __init__(self, file: str, precision: str, num_threads: int):
        from openvino import opset13

        model = openvino_core().read_model(file)
        self.inputs = {value.get_any_name() for value in model.inputs}
        self.outputs = {value.get_any_name() for value in model.outputs}
        self._values: dict[str, np.ndarray] = {}
        for constant in model.get_ops():
            name = constant.get_friendly_name()
            # OpenVINO makes constants of the inputs that have defaults
            if constant.get_type_name() == "Constant" and name in ("image_sizes", "score_threshold"):
                self._values[name] = constant.get_data()
                parameter = opset13.parameter(self._values[name].shape, np.float32, name=name)
                parameter.output(0).set_names({name})
                for target in constant.output(0).get_target_inputs():
                    target.replace_source_output(parameter.output(0))
                model.add_parameters([parameter])
        model.validate_nodes_and_infer_types()
        info = model.rt_info["framework"] if model.has_rt_info("framework") else {}
        self.metadata = {key: value.astype(str) for key, value in info.items()}
        self.defaults = set(self._values)
        properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if num_threads:
            properties["INFERENCE_NUM_THREADS"] = num_threads
        if precision == "float32":
            properties["INFERENCE_PRECISION_HINT"] = "f32"
        self._model = openvino_core().compile_model(model, "CPU", properties)

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of one pass, by their names."""
        # a request for each pass: several threads may run the model
        found = self._model.create_infer_request().infer({**self._values, **inputs})
        return [found[name] for name in outputs]


def open_session(
    file: str, runtime: str | None, precision: str, providers: Sequence[str], num_threads: int
) -> OnnxRuntimeSession | OpenVinoSession:
    """Open an ONNX file; arguments as of `OnnxPosePredictor`, errors of the runtime itself are not caught."""
    if runtime is not None and runtime not in RUNTIMES:
        raise UserError(f"the runtime must be one of {', '.join(RUNTIMES)}, not {runtime}.")
    if precision not in ("auto", "float32"):
        raise UserError(f"the precision must be float32 or auto, not {precision}.")
    installed = [name for name in RUNTIMES if find_spec(name)]
    if runtime is None and list(providers) != ["CPUExecutionProvider"]:
        runtime = "onnxruntime"
    if not installed or runtime not in (None, *installed):
        name = runtime or "onnxruntime"
        raise UserError(f"OnnxPosePredictor needs {RUNTIMES[name]}: pip install {name}")
    if not os.path.isfile(file):
        raise UserError(f"there is no ONNX file {file}; make one with tools/export_onnx.py.")
    if (runtime or installed[0]) == "openvino":
        return OpenVinoSession(file, precision, num_threads)
    return OnnxRuntimeSession(file, providers, num_threads)
