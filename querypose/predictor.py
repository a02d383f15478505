"""From images of any kind to the persons in them, with a model that is ready to run."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.logger import log_first_n
from torch import nn

from querypose.data import skeleton_of
from querypose.errors import UserError, check_fraction
from querypose.hub import pretrained_files, save_pretrained
from querypose.image_io import ChannelOrder, ImageLike, check_image_format, image_files, read_image_rgb, resize_image
from querypose.modeling import KEYPOINT_STAGE_REGISTRY, PART_EMBEDDING_REGISTRY
from querypose.precision import fastest_precision, rounding_weights
from querypose.safe_loading import SafeCheckpointer
from querypose.setup_config import setup_config
from querypose.skeleton import Skeleton
from querypose.structures import SCORE_THRESHOLD, Persons

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types of matrix products and convolutions; boxes, confidences and keypoints are always float32."""

_REPOSITORY = Path(__file__).resolve().parents[1]
_SMALL_MODEL = _REPOSITORY / "configs/querypose_small.yaml", _REPOSITORY / "weights/querypose_small.safetensors"
_NUM_READERS = 4  # threads that read and resize images ahead of the network


class PosePredictor:
    """Finds persons and their keypoints in images; several threads may call one predictor at the same time.

    Examples:
        >>> from querypose import PosePredictor
        >>> predictor = PosePredictor("configs/quickstart.yaml", "weights/quickstart.pth", device="cpu")
        >>> persons = predictor("docs/images/synthetic_people.jpg")
        >>> persons.pred_keypoints.shape       # persons, keypoints, (x, y in pixels, confidence)
        torch.Size([3, 17, 3])
        >>> [len(found) for found in predictor(["docs/images/synthetic_people.jpg"])]
        [3]
    """

    _owns_model = False  # the score threshold may reach into it

    def __init__(
        self,
        config_file: str | os.PathLike[str] | None = None,
        weights: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        score_threshold: float = SCORE_THRESHOLD,
        top_k: int | None = None,
        image_format: ChannelOrder = "RGB",
        precision: str = "auto",
        add_config: Callable[[CfgNode], None] | None = None,
        opts: Sequence[Any] = (),
    ):
        """Build a model and load its weights; raise `UserError` for weights that do not fit and absent devices.

        Args:
            config_file: a YAML file; None: the small model for photographs, with its weights.
            weights: file or address; None: the config's MODEL.WEIGHTS.
            device: None: the config's MODEL.DEVICE, or the CPU if that is "cuda" and there is none.
            score_threshold: persons below it are dropped, and keypoint stages run only for queries that can reach it.
            top_k: most persons of an image, the best ones. image_format: channel order of arrays and tensors.
            precision: a name of `PRECISIONS`, or "auto": see `fastest_precision`. All but "float32" round the
                weights of `model`, which only the predictor can use then.
            add_config: adds an extension's own config keys to the defaults, in place.
            opts: `KEY, VALUE, ..` overrides of the config, which take precedence over other arguments.
        """
        overrides = ["MODEL.TIMM.PRETRAINED", "False"]  # the weights come from MODEL.WEIGHTS
        if config_file is None:
            config_file, small = _SMALL_MODEL
            weights = weights or small
        if weights is not None:
            overrides += ["MODEL.WEIGHTS", str(weights)]
        if device is not None:
            if str(device) == "meta" or (str(device).startswith("cuda") and not torch.cuda.is_available()):
                raise UserError(f"PyTorch computes nothing on the device {device} here; use cpu.")
            overrides += ["MODEL.DEVICE", str(device)]
        cfg = setup_config(str(config_file), [*overrides, *map(str, opts)], add_config)
        if "://" not in cfg.MODEL.WEIGHTS:
            if not Path(cfg.MODEL.WEIGHTS).is_file():
                raise UserError(
                    f"there is no weights file '{cfg.MODEL.WEIGHTS}'; set MODEL.WEIGHTS to trained weights."
                )
            cfg.MODEL.WEIGHTS = os.path.abspath(cfg.MODEL.WEIGHTS)  # `save_pretrained` reads them again
        model = build_model(cfg)
        load_weights(model, cfg.MODEL.WEIGHTS)
        self._owns_model = True
        self._set_up(model, cfg, skeleton_of(cfg), score_threshold, top_k, image_format, precision)
        # a compiled model would have to be compiled again
        if self.precision != "float32" and cfg.MODEL.COMPILE == "none":
            with rounding_weights(model, PRECISIONS[self.precision]):
                self._run(model, [{"image": torch.zeros(3, 64, 64), "height": 64, "width": 64}])

    @classmethod
    def from_model(cls, model: nn.Module, cfg: CfgNode, skeleton: Skeleton, **options: Any) -> PosePredictor:
        """A predictor of a model with weights, which is put into evaluation mode and keeps its POSE_SCORE_FLOOR.

        options: `score_threshold`, `top_k`, `image_format` and `precision` of the constructor.
        """
        predictor = cls.__new__(cls)
        predictor._set_up(model, cfg, skeleton, **options)
        return predictor

    @classmethod
    def from_pretrained(
        cls, name: str | Path, revision: str | None = None, cache_dir: str | Path | None = None, **options: Any
    ) -> PosePredictor:
        """A predictor of `pretrained_files(name, revision, cache_dir)`; options: of the constructor."""
        return cls(*pretrained_files(name, revision, cache_dir), **options)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.yaml`, `model.safetensors` and a model card, as the Hugging Face Hub has them."""
        model = self.model
        if any(parameter.dtype != torch.float32 for parameter in model.parameters()):  # rounded for speed
            model = build_model(self.cfg)
            load_weights(model, self.cfg.MODEL.WEIGHTS)
        save_pretrained(folder, model, self.cfg)

    def _set_up(
        self,
        model: nn.Module,
        cfg: CfgNode,
        skeleton: Skeleton,
        score_threshold: float = SCORE_THRESHOLD,
        top_k: int | None = None,
        image_format: ChannelOrder = "RGB",
        precision: str = "float32",
    ) -> None:
        check_image_format(image_format)
        if precision == "auto":
            precision = fastest_precision(torch.device(cfg.MODEL.DEVICE))
        if precision not in PRECISIONS:
            raise UserError(f"the precision must be auto or one of {', '.join(PRECISIONS)}, not {precision}.")
        if top_k is not None and not (isinstance(top_k, int | np.integer) and top_k >= 1):
            raise UserError(f"top_k must be a whole number of at least 1, or None for all persons, not {top_k}.")
        self.model: Any = model.eval()
        self.cfg, self.skeleton, self.score_threshold = cfg, skeleton, score_threshold
        self.top_k, self.image_format, self.precision = top_k, image_format, precision

    @property
    def score_threshold(self) -> float:
        """Persons below it are not returned."""
        return self._score_threshold

    @score_threshold.setter
    def score_threshold(self, threshold: float) -> None:
        check_fraction("score threshold", threshold)
        self._score_threshold = threshold
        if self._owns_model and not self.cfg.TEST.FLIP:  # a score is at most its class probability
            self.model.pose_score_floor = max(threshold, self.cfg.MODEL.QUERYPOSE.TEST.POSE_SCORE_FLOOR)

    @overload
    def __call__(self, image: ImageLike) -> Persons: ...

    @overload
    def __call__(self, image: Iterable[ImageLike], *, batch_size: int = ...) -> list[Persons]: ...

    def __call__(self, image: Any, *, batch_size: int = 8) -> Persons | list[Persons]:
        """Predict the persons of one image, best first, or of each of several, as `stream` does.

        image: see `read_image_rgb`; several: an iterable of such, an array (B, H, W, C), a tensor (B, C, H, W), or a
        folder, in the order of `image_files`. Raises `UserError` for an image that cannot be used.
        """
        if isinstance(image, np.ndarray | torch.Tensor):
            several = image.ndim == 4
        else:
            is_path = isinstance(image, str | bytes | os.PathLike)
            several = os.path.isdir(image) if is_path else isinstance(image, Iterable) and not hasattr(image, "read")
        return list(self.stream(image, batch_size)) if several else self._predict([self.network_input(image)])[0]

    def stream(
        self,
        images: Iterable[ImageLike],
        batch_size: int = 8,
        on_error: Callable[[ImageLike, UserError], Any] | None = None,
    ) -> Iterator[Persons]:
        """Predict images of any number, in order; on a GPU later ones are read and resized while the network runs.

        Args:
            images: as of a call; at most two batches of them are held in memory.
            batch_size: most images in a pass of the network, which are those of a batch that are padded to one size.
            on_error: called with an image that cannot be used and the error, else raised; what it returns takes the
                place of the image's persons. On a GPU another thread calls it.
        """
        if batch_size < 1:
            raise UserError(f"the batch size must be at least 1, not {batch_size}.")
        if isinstance(images, str | os.PathLike):
            images = image_files(images) if os.path.isdir(images) else [images]
        images = iter(images)
        # on a CPU, other threads take the cores that the network's threads wait for
        overlaps = next(self.model.parameters()).device.type != "cpu"

        def prepare(image: ImageLike) -> tuple[dict[str, Any] | None, Any]:
            """The network's input, or None and what takes the place of the persons."""
            try:
                return self.network_input(image), None
            except UserError as error:
                if on_error is None:
                    raise
                return None, on_error(image, error)

        def next_batch() -> list[Any]:
            return list((readers.map if overlaps else map)(prepare, itertools.islice(images, batch_size)))

        with ThreadPoolExecutor(1) as feeder, ThreadPoolExecutor(_NUM_READERS) as readers:
            batch = next_batch()
            while batch:
                ahead = feeder.submit(next_batch) if overlaps else None
                found = iter(self._predict([item for item, _ in batch if item is not None]))
                for item, instead in batch:
                    yield instead if item is None else next(found)
                batch = ahead.result() if ahead else next_batch()

    def with_attention(self, image: ImageLike, stage: int = -1) -> Persons:
        """The persons of a call with the parts' attention of a stage: `part_attention` (n, M, h, w), every map summing
        to one, over `attention_boxes` (`Boxes` in pixels of the image). Raises `UserError` where there is none.
        """
        check_attention(self.cfg)
        output = self._run(self.model.with_attention, [self.network_input(image)], stage)
        return self._chosen(output[0]["instances"])

    def network_input(self, image: ImageLike) -> dict[str, Any]:
        """Detectron2's input of a model for an image: resized, in the model's channel order."""
        rgb = read_image_rgb(image, self.image_format)
        height, width = rgb.shape[:2]
        resized = resize_image(rgb, self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST)
        if self.cfg.INPUT.FORMAT == "BGR":
            resized = resized[:, :, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).float()
        return {"image": tensor, "height": height, "width": width}

    def _predict(self, inputs: list[dict[str, Any]]) -> list[Persons]:
        """Images that are padded to one size share a pass through the network."""
        groups, results = defaultdict(list), dict[int, Persons]()
        divisor = max(1, getattr(getattr(self.model, "backbone", None), "size_divisibility", 1))
        for index, item in enumerate(inputs):
            groups[tuple(-(-side // divisor) for side in item["image"].shape[1:])].append(index)
        for indices in groups.values():
            outputs = self._run(self.model, [inputs[index] for index in indices])
            results.update(zip(indices, (self._chosen(output["instances"]) for output in outputs), strict=True))
        return [results[index] for index in range(len(inputs))]

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        dtype = PRECISIONS[self.precision]
        device = next(self.model.parameters()).device.type
        with torch.inference_mode(), torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            return function(*arguments)

    def _chosen(self, instances: Instances) -> Persons:
        # selecting outside of inference mode copies into ordinary tensors, which may be changed in place
        instances = instances.to("cpu")
        instances = instances[instances.scores >= self.score_threshold]
        limit = getattr(self.model, "topk_poses", 0)
        if 0 < limit <= min(len(instances), self.top_k or sys.maxsize):
            advice = "set MODEL.QUERYPOSE.TEST.TOPK_POSES, 0 for all"
            log_first_n(logging.WARNING, f"only the {limit} best persons are returned; {advice}", name=__name__)
        order = instances.scores.argsort(descending=True, stable=True)
        return Persons.from_instances(instances[order[: self.top_k]], self.skeleton)


def check_attention(cfg: CfgNode) -> None:
    """Raise `UserError` unless `with_attention` works with models of this config."""
    config = cfg.MODEL.QUERYPOSE
    has_parts = KEYPOINT_STAGE_REGISTRY.get(config.KEYPOINT_STAGE).has_parts
    if not (has_parts and PART_EMBEDDING_REGISTRY.get(config.PART_EMBEDDING).makes_attention):
        name = f"KEYPOINT_STAGE '{config.KEYPOINT_STAGE}' and PART_EMBEDDING '{config.PART_EMBEDDING}'"
        raise UserError(f"a model with {name} makes no attention maps; use one with an SPEGM.")
    if cfg.TEST.FLIP:
        raise UserError("attention maps of an image and of its mirror image cannot be averaged; set TEST.FLIP False.")


def load_weights(model: nn.Module, weights: str) -> None:
    """Load a checkpoint for inference; raise `UserError` unless it fits the model."""
    checkpointer = SafeCheckpointer(model)
    checkpointer.must_fit = True
    checkpointer.load(weights)
