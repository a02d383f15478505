"""Poses from an exported model without PyTorch and Detectron2: NumPy, Pillow, and OpenVINO or ONNX Runtime."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from querypose.errors import UserError, check_fraction
from querypose.image_io import ChannelOrder, ImageLike, check_image_format, read_image_rgb, resize_image
from querypose.skeleton import Skeleton

RUNTIMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}  # package -> its name
METADATA_KEY = "querypose"
FORMAT_VERSION = 1
_AGAIN = "; export the model again with tools/export_onnx.py."


@dataclass
class OnnxPoses:
    """The n persons of an image, best first, in its pixels."""

    boxes: np.ndarray  # (n, 4) corners x0, y0, x1, y1
    scores: np.ndarray  # (n,) in [0, 1]
    keypoints: np.ndarray  # (n, K, 3) x, y and a confidence in [0, 1]
    image_size: tuple[int, int]  # height, width
    keypoint_sigmas: np.ndarray | None = None  # (n, K, 2) of x and y; None if the file has none

    def __len__(self) -> int:
        return len(self.scores)

    def to_coco(self, image_id: int, *, category_id: int = 1) -> list[dict[str, Any]]:
        """COCO results: boxes (x, y, width, height), keypoints as 3K numbers, half a pixel up and left of ours."""
        boxes = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        keypoints = self.keypoints - np.array([0.5, 0.5, 0.0], np.float32)
        columns = {"bbox": boxes, "keypoints": keypoints}
        if self.keypoint_sigmas is not None:
            columns["keypoint_sigmas"] = self.keypoint_sigmas
        results: list[dict[str, Any]] = []
        for person, score in enumerate(self.scores.tolist()):
            numbers = {name: column[person].flatten().tolist() for name, column in columns.items()}
            results.append({"image_id": image_id, "category_id": category_id, "score": score, **numbers})
        return results


class OnnxPosePredictor:
    """Finds persons and their keypoints with a file that `tools/export_onnx.py` wrote (example: docs/EXPORT.md)."""

    def __init__(
        self,
        file: str | os.PathLike[str],
        *,
        score_threshold: float = 0.0,
        image_format: ChannelOrder = "RGB",
        runtime: str | None = None,
        precision: str = "float32",
        providers: Sequence[str] = ("CPUExecutionProvider",),
        num_threads: int = 0,
    ):
        """Open the file; raise `UserError` if it is missing, damaged or no export of QueryPose, or without a runtime.

        Args:
            image_format: channel order of arrays.
            runtime: "openvino" or "onnxruntime"; None: OpenVINO if it is installed, unless there are `providers`.
            precision: "float32"; "auto" lets OpenVINO compute in bfloat16 where the processor is faster in it.
            providers: ONNX Runtime's execution providers, best first.
            num_threads: 0 leaves it to the runtime.
        """
        check_image_format(image_format)
        check_fraction("score threshold", score_threshold)
        if precision not in ("auto", "float32"):
            raise UserError(f"the precision must be float32 or auto, not {precision}.")
        if runtime is None:
            on_cpu = list(providers) == ["CPUExecutionProvider"]
            runtime = "openvino" if on_cpu and find_spec("openvino") else "onnxruntime"
        if runtime not in RUNTIMES:
            raise UserError(f"the runtime must be one of {', '.join(RUNTIMES)}, not {runtime}.")
        if not find_spec(runtime):
            raise UserError(f"OnnxPosePredictor needs {RUNTIMES[runtime]}: pip install {runtime}")
        if not os.path.isfile(file):
            raise UserError(f"there is no ONNX file {file}; make one with tools/export_onnx.py.")
        self.runtime = RUNTIMES[runtime]
        self.score_threshold, self.image_format, self._file = score_threshold, image_format, os.fspath(file)
        self._session: _OpenVino | _OnnxRuntime
        try:
            if runtime == "openvino":
                self._session = _OpenVino(self._file, precision, num_threads)
            else:
                self._session = _OnnxRuntime(self._file, providers, num_threads)
        except UserError:
            raise
        except Exception as error:  # the runtimes' errors have no common class but this
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]  # OpenVINO's first are its sources
            raise UserError(f"{self._file} cannot be opened: damaged or no ONNX file ({reason}){_AGAIN}") from error
        try:
            self.metadata: dict[str, Any] = json.loads(self._session.metadata[METADATA_KEY])
            if self.metadata["format"] != FORMAT_VERSION:
                raise ValueError(f"its format is {self.metadata['format']}, not {FORMAT_VERSION}")
            self.skeleton = Skeleton(**self.metadata["skeleton"])
            preprocessing = self.metadata["preprocessing"]
            sizes = preprocessing["min_size"], preprocessing["max_size"]
            if not all(size in range(100_001) for size in sizes):  # pixels, more would fill the memory
                raise ValueError(f"its min_size and max_size are {sizes}")
            check_image_format(preprocessing["channel_order"])
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{self._file} is not an export of this version of QueryPose ({error}){_AGAIN}") from error

    def __call__(self, image: ImageLike) -> OnnxPoses:
        """The persons of one image of any kind, see `read_image_rgb`."""
        pixels = read_image_rgb(image, self.image_format)
        height, width = pixels.shape[:2]
        preprocessing = self.metadata["preprocessing"]
        resized = resize_image(pixels, preprocessing["min_size"], preprocessing["max_size"])
        if preprocessing["channel_order"] == "BGR":
            resized = resized[:, :, ::-1]
        inputs = {"images": np.ascontiguousarray(resized.transpose(2, 0, 1)[None], dtype=np.float32)}
        inputs["score_threshold"] = np.array([self.score_threshold], np.float32)
        try:
            boxes, scores, keypoints, *others = (output[0] for output in self._session.run(inputs))
            scale = np.array([width / resized.shape[1], height / resized.shape[0]], np.float32)
            keypoints = keypoints.reshape(-1, self.skeleton.num_keypoints, 3) * np.append(scale, np.float32(1))
            sigmas = others[0].reshape(-1, self.skeleton.num_keypoints, 2) * scale if others else None
            return OnnxPoses(boxes * np.tile(scale, 2), scores, keypoints, (height, width), sigmas)
        except Exception as error:
            raise UserError(f"{self._file} gives no boxes, scores and keypoints ({error}){_AGAIN}") from error


class _OnnxRuntime:
    """A file in ONNX Runtime, and its texts by their keys."""

    def __init__(self, file: str, providers: Sequence[str], num_threads: int):
        import onnxruntime

        names = {provider if isinstance(provider, str) else provider[0] for provider in providers}  # or (name, options)
        if missing := names - set(onnxruntime.get_available_providers()):
            raise UserError(f"this ONNX Runtime has no execution provider {' and '.join(missing)}.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3  # its warnings are about optimizations that it did not make
        self._session = onnxruntime.InferenceSession(file, options, providers=list(providers))
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs, in the file's order."""
        return self._session.run(None, inputs)


@cache
def _openvino_core() -> Any:
    """The process's `openvino.Core`: its CPU plugin replaces the thread's alternate signal stack and frees it when
    it ends, so that the process dies at its next signal where a second one had been made (seen with 2026.4)."""
    import openvino

    return openvino.Core()


class _OpenVino:
    """As `_OnnxRuntime`, in OpenVINO on the CPU."""

    def __init__(self, file: str, precision: str, num_threads: int):
        from openvino import opset13

        model = _openvino_core().read_model(file)
        for constant in model.get_ops():
            # OpenVINO makes constants of the inputs that have defaults
            if constant.get_friendly_name() == "score_threshold":
                parameter = opset13.parameter([1], np.float32)
                parameter.output(0).set_names({"score_threshold"})
                for target in constant.output(0).get_target_inputs():
                    target.replace_source_output(parameter.output(0))
                model.add_parameters([parameter])
        model.validate_nodes_and_infer_types()
        info = model.rt_info["framework"] if model.has_rt_info("framework") else {}
        self.metadata = {key: value.astype(str) for key, value in info.items()}
        properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if num_threads:
            properties["INFERENCE_NUM_THREADS"] = num_threads
        if precision == "float32":
            properties["INFERENCE_PRECISION_HINT"] = "f32"
        self._model = _openvino_core().compile_model(model, "CPU", properties)

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        # a request for each pass: several threads may run the model
        return list(self._model.create_infer_request().infer(inputs).values())
