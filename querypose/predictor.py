"""From images of any kind to the persons in them, with a model that is ready to run."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard, cast, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn

from querypose.errors import UserError
from querypose.images import ChannelOrder, ImageLike, check_image_format, read_image_rgb
from querypose.rounded_weights import rounding_weights
from querypose.safe_loading import SafeCheckpointer
from querypose.setup_config import setup_config
from querypose.skeleton import Skeleton
from querypose.structures import Persons, to_coco

__all__ = ["PRECISIONS", "PosePredictor", "load_weights", "read_image_rgb", "to_coco"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What matrix products and convolutions may be computed in; boxes, confidences and keypoints stay in float32."""


class PosePredictor:
    """Finds persons and their keypoints in images.

    Several threads may call one predictor at the same time: nothing that a call depends on changes after it was made.

    Examples:
        >>> from querypose import PosePredictor
        >>> predictor = PosePredictor(
        ...     "configs/quickstart.yaml", "weights/quickstart.pth", device="cpu", score_threshold=0.3
        ... )
        >>> persons = predictor("docs/images/synthetic_people.jpg")
        >>> persons.pred_keypoints.shape       # persons, keypoints, (x, y in pixels, confidence)
        torch.Size([3, 17, 3])
        >>> persons.image_size                 # height, width
        (192, 224)
        >>> predictor.skeleton.keypoint_names[:3]
        ('nose', 'left_eye', 'right_eye')

        A list of images gives a list of results; arrays are RGB unless `image_format` says BGR:

        >>> import cv2
        >>> from_opencv = PosePredictor(
        ...     "configs/quickstart.yaml", "weights/quickstart.pth", device="cpu", image_format="BGR", top_k=1
        ... )
        >>> bgr = cv2.imread("docs/images/synthetic_people.jpg")
        >>> [len(found) for found in from_opencv([bgr, bgr[:, 112:]])]
        [1, 1]

        For other programs:

        >>> persons.to_coco(image_id=42)[0].keys()
        dict_keys(['image_id', 'category_id', 'bbox', 'score', 'keypoints'])
        >>> record = persons.to_records(image="synthetic_people.jpg")[0]
        >>> record["image"], record["person"], round(record["nose_x"]) in range(224)
        ('synthetic_people.jpg', 0, True)
    """

    def __init__(
        self,
        config_file: str | os.PathLike,
        weights: str | os.PathLike | None = None,
        *,
        device: str | torch.device | None = None,
        score_threshold: float = 0.0,
        top_k: int | None = None,
        image_format: ChannelOrder = "RGB",
        precision: str = "float32",
        opts: Sequence[Any] = (),
    ):
        """Build the model that `config_file` describes and load its weights.

        weights: file or address, else the config's MODEL.WEIGHTS. device: "cpu", "cuda", "cuda:1", ..., else
        the config's MODEL.DEVICE, or the CPU where that is "cuda" and there is none. score_threshold: persons
        below it are left out; top_k: so are all but that many best of an image. image_format: order of the channels
        of *arrays and tensors*, "RGB" or "BGR" (OpenCV's); files and PIL images need no telling. precision: a name
        of `PRECISIONS`. opts: `KEY, VALUE, ...` overrides of the config.
        Raises `UserError` if weights are missing, unreadable or made for another model.
        """
        _check_options(image_format, precision, top_k)
        if device is not None:
            _usable_device(str(device), required=True)
        opts = [str(item) for item in opts]
        if weights is not None:
            opts += ["MODEL.WEIGHTS", str(weights)]
        if device is not None:
            opts += ["MODEL.DEVICE", str(device)]
        cfg = setup_config(str(config_file), opts).clone()
        cfg.defrost()
        cfg.MODEL.DEVICE = _usable_device(cfg.MODEL.DEVICE, required=False)
        cfg.freeze()
        _check_weights_exist(cfg.MODEL.WEIGHTS)

        from querypose.data import skeleton_of

        skeleton = skeleton_of(cfg)
        model = build_model(cfg)
        load_weights(model, cfg.MODEL.WEIGHTS)
        self._take(model, cfg, skeleton, score_threshold, top_k, image_format, precision)
        # only of a model that nobody else trains; a compiled one would have to be compiled again
        self._rounds_weights = precision != "float32" and cfg.MODEL.COMPILE == "none"

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        cfg: CfgNode,
        skeleton: Skeleton,
        *,
        score_threshold: float = 0.0,
        top_k: int | None = None,
        image_format: ChannelOrder = "RGB",
        precision: str = "float32",
    ) -> PosePredictor:
        """Make a predictor of a model that already has its weights; it is put into evaluation mode."""
        _check_options(image_format, precision, top_k)
        predictor = cls.__new__(cls)
        predictor._take(model, cfg, skeleton, score_threshold, top_k, image_format, precision)
        return predictor

    def _take(
        self,
        model: nn.Module,
        cfg: CfgNode,
        skeleton: Skeleton,
        score_threshold: float,
        top_k: int | None,
        image_format: ChannelOrder,
        precision: str,
    ) -> None:
        self.cfg = cfg
        self.model = model.eval()
        self.score_threshold = score_threshold
        self.top_k = top_k
        self.image_format = image_format
        self.precision = precision
        self._skeleton = skeleton
        self._rounds_weights = False
        self._first_call = threading.Lock()

    @property
    def skeleton(self) -> Skeleton:
        """The `Skeleton` of the predicted keypoints."""
        return self._skeleton

    @overload
    def __call__(self, image: ImageLike) -> Persons: ...

    @overload
    def __call__(self, image: Iterable[ImageLike], *, batch_size: int = ...) -> list[Persons]: ...

    def __call__(self, image: ImageLike | Iterable[ImageLike], *, batch_size: int = 8) -> Persons | list[Persons]:
        """Predict the persons of one image, or of each of several.

        image: path, PIL image, uint8 array (H, W, C) or (H, W), or tensor (C, H, W) or (H, W), see `read_image_rgb`;
        or several: a list or another iterable of them, an array (B, H, W, C) or a tensor (B, C, H, W).
        batch_size: how many of several images are held in memory and, as far as the network pads them to the same
        size, run together; an image's persons are the same, but for rounding, as alone.

        Returns `Persons`, Detectron2 `Instances` with `pred_boxes`, `scores`, `pred_classes` and `pred_keypoints`
        (n, K, 3) on the CPU, in pixels of the given image, best score first; of several images, a list of them.
        Raises `UserError` for an image that cannot be used.
        """
        if not _is_several(image):
            return self._predict([read_image_rgb(cast(ImageLike, image), self.image_format)])[0]
        if batch_size < 1:
            raise UserError(f"the batch size must be at least 1, not {batch_size}.")
        results: list[Persons] = []
        batch: list[np.ndarray] = []
        for one in image:
            batch.append(read_image_rgb(one, self.image_format))
            if len(batch) == batch_size:
                results += self._predict(batch)
                batch = []
        return results + self._predict(batch)

    def with_attention(self, image: ImageLike, stage: int = -1) -> Persons:
        """Predict as a call does, with the parts' attention of a stage (its index).

        Returns the same persons with `part_attention` (n, M, h, w), every map summing to one, and
        `attention_boxes`, `Boxes` in pixels of the given image over which the maps lie. Raises `UserError` if
        the model has no such stage or makes no attention maps.
        """
        inputs = [self.network_input(read_image_rgb(image, self.image_format))]
        with self._precision():
            return self._chosen(cast(Any, self.model).with_attention(inputs, stage)[0]["instances"])

    def _predict(self, images: list[np.ndarray]) -> list[Persons]:
        """images: (H, W, 3) uint8 RGB. Images that are padded to one size share a pass through the network."""
        inputs = [self.network_input(image) for image in images]
        groups: dict[tuple[int, ...], list[int]] = {}
        divisor = max(1, getattr(getattr(self.model, "backbone", None), "size_divisibility", 1))
        for index, item in enumerate(inputs):
            padded = tuple(-(-side // divisor) for side in item["image"].shape[1:])
            groups.setdefault(padded, []).append(index)
        results: list[Any] = [None] * len(images)
        for indices in groups.values():
            for index, output in zip(indices, self._run([inputs[i] for i in indices]), strict=True):
                results[index] = self._chosen(output["instances"])
        return results

    def network_input(self, image: np.ndarray) -> dict[str, Any]:
        """Detectron2's input of a model for an (H, W, 3) uint8 RGB image: resized, in the model's channel order."""
        height, width = image.shape[:2]
        sizes = self.cfg.INPUT
        resize = ResizeShortestEdge([sizes.MIN_SIZE_TEST] * 2, sizes.MAX_SIZE_TEST)
        resized = resize.get_transform(image).apply_image(image)
        if sizes.FORMAT == "BGR":
            resized = resized[:, :, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).float()
        return {"image": tensor, "height": height, "width": width}

    def _run(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with contextlib.ExitStack() as stack:
            # at the first call of all; other threads need not wait for it
            if self._rounds_weights and self._first_call.acquire(blocking=False):
                stack.enter_context(rounding_weights(self.model, PRECISIONS[self.precision]))
            with self._precision():
                return self.model(inputs)

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        dtype = PRECISIONS[self.precision]
        device = next(self.model.parameters()).device.type
        with torch.inference_mode(), torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            yield

    def _chosen(self, instances: Instances) -> Persons:
        # Selecting outside of inference mode copies into ordinary tensors, free to be changed in place.
        instances = instances.to("cpu")
        instances = instances[instances.scores >= self.score_threshold]
        order = instances.scores.argsort(descending=True, stable=True)
        return Persons.from_instances(instances[order[: self.top_k]], self._skeleton)


def _is_several(image: ImageLike | Iterable[ImageLike]) -> TypeGuard[Iterable[ImageLike]]:
    if isinstance(image, np.ndarray | torch.Tensor):
        return image.ndim == 4
    return isinstance(image, Iterable) and not isinstance(image, str | os.PathLike)


def load_weights(model: nn.Module, weights: str) -> None:
    """Load a checkpoint for inference; raise `UserError` unless it fits the model."""
    checkpointer = SafeCheckpointer(model)
    checkpointer.must_fit = True
    checkpointer.load(weights)


def _check_weights_exist(weights: str) -> None:
    if not weights:
        raise UserError("MODEL.WEIGHTS is empty; give the file of trained weights.")
    if "://" not in weights and not Path(weights).is_file():
        raise UserError(f"there is no weights file {weights}; set MODEL.WEIGHTS to trained weights.")


def _usable_device(device: str, *, required: bool) -> str:
    """Return `device`, or "cpu" for a CUDA device that is not there unless it is `required`."""
    if not device.startswith("cuda") or torch.cuda.is_available():
        return device
    if required:
        raise UserError(f"the device {device} was asked for but PyTorch finds no CUDA device; use cpu.")
    return "cpu"


def _check_options(image_format: str, precision: str, top_k: int | None) -> None:
    check_image_format(image_format)
    if precision not in PRECISIONS:
        raise UserError(f"the precision must be one of {', '.join(PRECISIONS)}, not {precision}.")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k must be at least 1, or None for all persons, not {top_k}.")
