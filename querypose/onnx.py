"""Poses from an exported model without PyTorch and Detectron2: NumPy, Pillow, and OpenVINO or ONNX Runtime."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from querypose.errors import UserError
from querypose.image_io import ChannelOrder, ImageLike, check_image_format, read_image_rgb, resize_image
from querypose.onnx_runtimes import OnnxRuntimeSession, OpenVinoSession, open_session
from querypose.skeleton import Skeleton

METADATA_KEY = "querypose"
FORMAT_VERSION = 1
_INPUT, _THRESHOLD, _OUTPUTS = "images", "score_threshold", ["boxes", "scores", "keypoints"]
_SIGMAS = "keypoint_sigmas"  # not in files of older versions and of models whose loss does not use sigma
_AGAIN = "; export the model again with tools/export_onnx.py."
_LONGEST_SIDE = 100_000  # pixels, the most that a file may scale images to


@dataclass
class OnnxPoses:
    """The n persons of an image, best first, in its pixels.

    boxes: (n, 4) corners x0, y0, x1, y1. scores: (n,) in [0, 1]. keypoints: (n, K, 3) x, y and a confidence in
    [0, 1]. image_size: height and width. keypoint_sigmas: (n, K, 2) of x and y in pixels; None if the file has none.
    """

    boxes: np.ndarray
    scores: np.ndarray
    keypoints: np.ndarray
    image_size: tuple[int, int]
    keypoint_sigmas: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def to_coco(self, image_id: int, *, category_id: int = 1) -> list[dict[str, Any]]:
        """COCO results: boxes (x, y, width, height), keypoints as 3K numbers, half a pixel up and left of ours."""
        boxes = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        keypoints = (self.keypoints - np.array([0.5, 0.5, 0.0], np.float32)).reshape(len(self), -1)
        columns = {"bbox": boxes, "score": self.scores, "keypoints": keypoints}
        if self.keypoint_sigmas is not None:
            columns["keypoint_sigmas"] = self.keypoint_sigmas.reshape(len(self), -1)
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [
            {"image_id": image_id, "category_id": category_id, **dict(zip(columns, row, strict=True))} for row in rows
        ]


class OnnxPosePredictor:
    """Finds persons and their keypoints with a file that `tools/export_onnx.py` wrote.

    Example:
        predictor = OnnxPosePredictor("model.onnx", score_threshold=0.3)
        persons = predictor("photograph.jpg")
        persons.keypoints   # (n, K, 3): x, y in pixels and a confidence
    """

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
        """Open the file.

        Args:
            score_threshold: persons below it are not returned.
            image_format: channel order of arrays, "RGB" or "BGR" (OpenCV's).
            runtime: "openvino" or "onnxruntime"; None: OpenVINO if it is installed, unless there are `providers`.
            precision: "float32"; "auto" lets OpenVINO compute in bfloat16 where the processor is faster in it.
            providers: ONNX Runtime's execution providers, best first.
            num_threads: 0 leaves it to the runtime.

        Raises:
            UserError: a file that is missing, damaged or no export of QueryPose; the runtime is missing.
        """
        check_image_format(image_format)
        if not 0 <= score_threshold <= 1:
            raise UserError(f"the score threshold must be from 0 to 1, not {score_threshold}.")
        self.score_threshold = score_threshold
        self.image_format = image_format
        self._file = os.fspath(file)
        try:
            self._session = open_session(self._file, runtime, precision, providers, num_threads)
        except UserError:
            raise
        except Exception as error:  # the runtimes' errors have no common class but this
            raise UserError(f"{self._file} is damaged or no ONNX file{_AGAIN}") from error
        self.metadata = _metadata(self._session, self._file)
        self.skeleton = Skeleton(**self.metadata["skeleton"])
        # files of older versions return every query
        self._prunes = _THRESHOLD in self._session.defaults
        self._outputs = [*_OUTPUTS, _SIGMAS] if _SIGMAS in self._session.outputs else _OUTPUTS

    @property
    def runtime(self) -> str:
        """The name of the runtime: OpenVINO or ONNX Runtime."""
        return self._session.name

    def __call__(self, image: ImageLike) -> OnnxPoses:
        """The persons of one image of any kind, see `read_image_rgb`."""
        pixels = read_image_rgb(image, self.image_format)
        height, width = pixels.shape[:2]
        preprocessing = self.metadata["preprocessing"]
        resized = resize_image(pixels, preprocessing["min_size"], preprocessing["max_size"])
        if preprocessing["channel_order"] == "BGR":
            resized = resized[:, :, ::-1]
        tensor = np.ascontiguousarray(resized.transpose(2, 0, 1)[None], dtype=np.float32)
        inputs = {_INPUT: tensor}
        if self._prunes:
            inputs[_THRESHOLD] = np.array([self.score_threshold], np.float32)
        try:
            boxes, scores, keypoints, *others = (output[0] for output in self._session.run(self._outputs, inputs))
            # a score of 0 is a box without area
            keep = (scores > 0) & (scores >= self.score_threshold)
            scale = np.array([width / resized.shape[1], height / resized.shape[0]], np.float32)
            keypoints = keypoints[keep].reshape(-1, self.skeleton.num_keypoints, 3) * np.append(scale, np.float32(1))
            sigmas = others[0][keep].reshape(-1, self.skeleton.num_keypoints, 2) * scale if others else None
            return OnnxPoses(boxes[keep] * np.tile(scale, 2), scores[keep], keypoints, (height, width), sigmas)
        except Exception as error:
            raise UserError(
                f"{self._file} gives no boxes, scores and keypoints of an image ({error}){_AGAIN}"
            ) from error


def _metadata(session: OnnxRuntimeSession | OpenVinoSession, file: str) -> dict[str, Any]:
    """The file's description of itself, checked."""
    try:
        found: dict[str, Any] = json.loads(session.metadata[METADATA_KEY])
        if found["format"] != FORMAT_VERSION:
            raise ValueError(f"its format is {found['format']}, not {FORMAT_VERSION}")
        Skeleton(**found["skeleton"])
        preprocessing = found["preprocessing"]
        for name, least in (("min_size", 0), ("max_size", 1)):
            if not isinstance(preprocessing[name], int) or not least <= preprocessing[name] <= _LONGEST_SIDE:
                raise ValueError(f"its {name} is {preprocessing[name]!r}")
        check_image_format(preprocessing["channel_order"])
        if not session.inputs | session.outputs >= {_INPUT, *_OUTPUTS}:
            raise ValueError(f"its inputs and outputs are {', '.join(sorted(session.inputs | session.outputs))}")
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is not an export of this version of QueryPose ({error}){_AGAIN}") from error
    return found
