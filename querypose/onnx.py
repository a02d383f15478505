"""Poses from an exported model with numpy, PIL and ONNX Runtime alone; PyTorch and Detectron2 are not imported."""

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from querypose.errors import UserError
from querypose.image_files import ImageFileError, array_to_rgb, open_image, to_rgb
from querypose.skeleton import Skeleton

METADATA_KEY = "querypose"
FORMAT_VERSION = 1
_INPUT, _OUTPUTS = "images", ("boxes", "scores", "keypoints")
_LONGEST_SIDE = 100_000  # pixels that a file may ask for an image to be scaled to

ImageLike = str | os.PathLike | Image.Image | np.ndarray


@dataclass
class OnnxPoses:
    """The n persons of an image, best first, in its pixels.

    boxes: (n, 4) corners x0, y0, x1, y1. scores: (n,) in [0, 1]. keypoints: (n, K, 3) x, y and a confidence in
    [0, 1]. image_size: height and width.
    """

    boxes: np.ndarray
    scores: np.ndarray
    keypoints: np.ndarray
    image_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.scores)

    def to_coco(self, image_id: int, *, category_id: int = 1) -> list[dict]:
        """COCO results: boxes (x, y, width, height), keypoints as 3K numbers, half a pixel up and left of ours."""
        results = []
        for box, score, keypoints in zip(self.boxes, self.scores, self.keypoints, strict=True):
            shifted = keypoints - np.array([0.5, 0.5, 0.0], np.float32)
            x0, y0, x1, y1 = box.tolist()
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": float(score),
                    "keypoints": shifted.flatten().tolist(),
                }
            )
        return results


class OnnxPosePredictor:
    """Finds persons and their keypoints with a file that `tools/export_onnx.py` wrote.

    Example:
        predictor = OnnxPosePredictor("model.onnx", score_threshold=0.3)
        persons = predictor("photograph.jpg")
        persons.keypoints   # (n, K, 3): x, y in pixels and a confidence
    """

    def __init__(
        self,
        file: str | os.PathLike,
        *,
        score_threshold: float = 0.0,
        image_format: str = "RGB",
        providers: list[str] | None = None,
        num_threads: int = 0,
    ):
        """Open the file.

        score_threshold: persons below it are left out. image_format: order of the channels of *arrays*, "RGB" or
        "BGR". providers: ONNX Runtime's execution providers, best first; default the CPU. num_threads: 0 leaves it to
        ONNX Runtime.
        Raises `UserError` if the file is missing, damaged or no export of QueryPose, or ONNX Runtime is missing.
        """
        if image_format not in ("RGB", "BGR"):
            raise UserError(f"the image format must be RGB or BGR, not {image_format}.")
        self.score_threshold = score_threshold
        self.image_format = image_format
        self._session = _open(file, providers or ["CPUExecutionProvider"], num_threads)
        self._file = os.fspath(file)
        self.metadata = _metadata(self._session, file)
        self.skeleton = Skeleton(**self.metadata["skeleton"])
        preprocessing = self.metadata["preprocessing"]
        self._min_size, self._max_size = preprocessing["min_size"], preprocessing["max_size"]
        self._channel_order = preprocessing["channel_order"]

    def __call__(self, image: ImageLike) -> OnnxPoses:
        """The persons of one image: a path, a PIL image, or a uint8 array (H, W, 3), (H, W, 4), (H, W, 1) or (H, W)."""
        image = read_rgb(image, self.image_format)
        height, width = image.shape[:2]
        resized = np.asarray(resize(image, self._min_size, self._max_size))
        if self._channel_order == "BGR":
            resized = resized[:, :, ::-1]
        tensor = np.ascontiguousarray(resized.transpose(2, 0, 1)[None], dtype=np.float32)
        try:
            boxes, scores, keypoints = self._session.run(list(_OUTPUTS), {_INPUT: tensor})
        except Exception as error:  # ONNX Runtime's errors have no common class but this
            raise UserError(f"{self._file} does not run on an image ({error}); export the model anew.") from error
        number = self.skeleton.num_keypoints
        n = scores.shape[-1] if scores.ndim else 0
        if boxes.shape != (1, n, 4) or scores.shape != (1, n) or keypoints.shape != (1, n, number, 3):
            raise UserError(
                f"{self._file} makes boxes, scores and keypoints of other shapes than an export of QueryPose with "
                f"{number} keypoints; export the model anew."
            )

        # a score of 0 is a box without area in the image
        keep = (scores[0] > 0) & (scores[0] >= self.score_threshold)
        scale = np.array([width / resized.shape[1], height / resized.shape[0]], np.float32)
        keypoints = keypoints[0][keep] * np.append(scale, np.float32(1))
        return OnnxPoses(boxes[0][keep] * np.tile(scale, 2), scores[0][keep], keypoints, (height, width))


def resize(image: np.ndarray, min_size: int, max_size: int) -> Image.Image:
    """Scale (H, W, 3) as Detectron2's ResizeShortestEdge: short side min_size, unless the long one passed max_size."""
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    if min_size == 0:
        return picture
    # Detectron2's order of operations, as a product's last bit decides how it is rounded
    if height < width:
        new_height, new_width = min_size, min_size * 1.0 / height * width
    else:
        new_height, new_width = min_size * 1.0 / width * height, min_size
    if max(new_height, new_width) > max_size:
        shrink = max_size * 1.0 / max(new_height, new_width)
        new_height, new_width = new_height * shrink, new_width * shrink
    size = max(1, int(new_width + 0.5)), max(1, int(new_height + 0.5))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BILINEAR)


def read_rgb(image: ImageLike, image_format: str = "RGB") -> np.ndarray:
    """Turn a path (read with its EXIF orientation), a PIL image or a uint8 array into an array (H, W, 3) uint8 RGB.

    Raises `UserError` if it is none of these or cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        try:
            with open_image(image) as opened:
                return to_rgb(opened)
        except FileNotFoundError:
            raise UserError(f"there is no image {os.fspath(image)}; check the path.") from None
        except ImageFileError as error:
            raise UserError(f"cannot read the image {os.fspath(image)}: {error}; leave it out or mend it.") from error
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(f"an image must be a path, a PIL image or a uint8 array, not {kind}.")
    return array_to_rgb(image, image_format)


def _open(file: str | os.PathLike, providers: list[str], num_threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("OnnxPosePredictor needs ONNX Runtime: pip install onnxruntime") from error
    if not os.path.isfile(file):
        raise UserError(f"there is no ONNX file {os.fspath(file)}; make one with tools/export_onnx.py.")
    unknown = [name for name in providers if name not in onnxruntime.get_available_providers()]
    if unknown:
        available = ", ".join(onnxruntime.get_available_providers())
        raise UserError(f"this ONNX Runtime has no execution provider {unknown[0]}; it has {available}.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3  # its warnings are on optimisations that it did not make
    try:
        return onnxruntime.InferenceSession(os.fspath(file), options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no common class but this
        raise UserError(
            f"{os.fspath(file)} is no ONNX file that ONNX Runtime can read, or is damaged; write it anew with "
            "tools/export_onnx.py."
        ) from error


def _metadata(session: Any, file: str | os.PathLike) -> dict[str, Any]:
    """The file's description of itself; a `UserError` where it has none that this version can use."""
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise UserError(
            f"{os.fspath(file)} says nothing about its skeleton: it is no export of QueryPose; write one with "
            "tools/export_onnx.py."
        )
    try:
        found = json.loads(text)
        version = found["format"]
        if version == FORMAT_VERSION:
            Skeleton(**found["skeleton"])
            preprocessing = found["preprocessing"]
            for name, least in (("min_size", 0), ("max_size", 1)):
                if not isinstance(preprocessing[name], int) or not least <= preprocessing[name] <= _LONGEST_SIDE:
                    raise ValueError(f"{name} {preprocessing[name]!r}")
            if preprocessing["channel_order"] not in ("RGB", "BGR"):
                raise ValueError(f"channel_order {preprocessing['channel_order']!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"the metadata of {os.fspath(file)} are damaged ({error}); export the model anew.") from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{os.fspath(file)} has format {version}, this QueryPose reads {FORMAT_VERSION}; export the model anew."
        )
    inputs = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]
    if inputs != [_INPUT] or not set(_OUTPUTS) <= set(outputs):
        raise UserError(
            f"{os.fspath(file)} has the inputs {', '.join(inputs)} and the outputs {', '.join(outputs)} instead of "
            f"{_INPUT} and {', '.join(_OUTPUTS)}; export the model anew."
        )
    return found
