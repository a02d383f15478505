"""From an image of any kind to the persons in it, with a model that is ready to run."""

import os
from pathlib import Path

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from PIL import Image, ImageOps

from querypose.config import setup_config
from querypose.errors import UserError

# The losses, with their flow, have no part in inference: weights may come without them.
_TRAINING_ONLY = "criterion."


class PosePredictor:
    """Finds persons and their keypoints in single images.

    Example:
        predictor = PosePredictor("configs/querypose_R50.yaml", "model.pth", score_threshold=0.3)
        persons = predictor("photograph.jpg")
        persons.pred_keypoints   # (n, K, 3): x, y in pixels and a confidence
    """

    def __init__(
        self, config_file, weights=None, *, device=None, score_threshold=0.0, image_format="RGB", opts=()
    ):
        """Build the model that `config_file` describes and load its weights.

        weights: file or address, else the config's MODEL.WEIGHTS. device: "cpu", "cuda", "cuda:1", ..., else
        the config's MODEL.DEVICE, or the CPU where that is "cuda" and there is none. score_threshold: persons
        below it are left out. image_format: order of the channels of *arrays*, "RGB" or "BGR" (OpenCV's);
        files and PIL images need no telling. opts: `KEY, VALUE, ...` overrides of the config.
        Raises `UserError` if weights are missing, unreadable or made for another model.
        """
        _check_image_format(image_format)
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
        self._take(model, cfg, skeleton, score_threshold, image_format)

    @classmethod
    def from_model(cls, model, cfg, skeleton, *, score_threshold=0.0, image_format="RGB"):
        """Make a predictor of a model that already has its weights; it is put into evaluation mode."""
        _check_image_format(image_format)
        predictor = cls.__new__(cls)
        predictor._take(model, cfg, skeleton, score_threshold, image_format)
        return predictor

    def _take(self, model, cfg, skeleton, score_threshold, image_format):
        self.cfg = cfg
        self.model = model.eval()
        self.score_threshold = score_threshold
        self.image_format = image_format
        self._skeleton = skeleton
        self._model_format = cfg.INPUT.FORMAT
        self._resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)

    @property
    def skeleton(self):
        """The `Skeleton` of the predicted keypoints."""
        return self._skeleton

    def __call__(self, image):
        """Predict the persons of one image.

        image: path, PIL image, or uint8 array (H, W, 3), (H, W, 4), (H, W, 1) or (H, W); see
        `read_image_rgb`.

        Returns Detectron2 `Instances` on the CPU, in pixels of the given image, best score first: pred_boxes
        (n, 4) XYXY, scores (n,), pred_classes (n,), pred_keypoints (n, K, 3) with a confidence in [0, 1].
        """
        image = read_image_rgb(image, self.image_format)
        height, width = image.shape[:2]
        resized = self._resize.get_transform(image).apply_image(image)
        if self._model_format == "BGR":
            resized = resized[:, :, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).float()
        with torch.inference_mode():
            outputs = self.model([{"image": tensor, "height": height, "width": width}])
        # Selecting outside of inference mode copies into ordinary tensors, free to be changed in place.
        instances = outputs[0]["instances"].to("cpu")
        instances = instances[instances.scores >= self.score_threshold]
        return instances[instances.scores.argsort(descending=True, stable=True)]


def read_image_rgb(image, image_format="RGB"):
    """Turn an image of any kind into an array (H, W, 3) uint8 RGB.

    image: a path, read with its EXIF orientation; a PIL image; or a uint8 array (H, W, 3) or (H, W, 4) whose
    first three channels are in the order `image_format` ("RGB" or "BGR"), or of grey values (H, W) or (H, W,
    1). Raises `UserError` if it is none of these or cannot be read.
    """
    _check_image_format(image_format)
    if isinstance(image, str | os.PathLike):
        try:
            with Image.open(image) as opened:
                return _pil_to_rgb(opened)
        except FileNotFoundError:
            raise UserError(f"there is no image {os.fspath(image)}; check the path.") from None
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ) as error:  # as PIL's readers do
            reason = getattr(error, "strerror", None) or "it is damaged or no image"
            raise UserError(
                f"cannot read the image {os.fspath(image)}: {reason}; leave it out or mend it."
            ) from error
    if isinstance(image, Image.Image):
        return _pil_to_rgb(image)
    if not isinstance(image, np.ndarray):
        raise UserError(f"an image must be a path, a PIL image or a uint8 array, not {type(image).__name__}.")
    if image.dtype != np.uint8:
        raise UserError(
            f"an image array must be uint8 with values 0 to 255, not {image.dtype}; convert it first."
        )
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.size == 0:
        raise UserError(
            f"an image array must have shape (H, W), or (H, W, C) with C 1, 3 or 4, not {image.shape}."
        )
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[:, :, 2::-1] if image_format == "BGR" else image[:, :, :3])


def to_coco(instances, image_id, *, category_id=1):
    """Turn predicted `Instances` into a list of COCO results, which any COCO evaluator reads.

    Boxes become (x, y, width, height). Keypoints become 3K numbers x, y, confidence and lose the half pixel
    that Detectron2 adds to COCO's keypoints when it loads them. `instances` are left as they are.
    """
    instances = instances.to("cpu")
    if instances.has("pred_keypoints"):
        # Detectron2 subtracts the half pixel in place.
        instances.pred_keypoints = instances.pred_keypoints.clone()
    results = instances_to_coco_json(instances, image_id)
    for result in results:
        result["category_id"] = category_id
    return results


def load_weights(model, weights):
    """Load a checkpoint for inference; raise `UserError` unless it fits the model."""
    try:
        _FittingCheckpointer(model).load(weights)
    except UserError:
        raise
    except Exception as error:  # torch, pickle, zip, download: each its own; a user needs the file's name
        raise UserError(
            f"cannot load the weights {weights} ({type(error).__name__}: {_first_line(error)}); "
            "give a checkpoint in MODEL.WEIGHTS."
        ) from error


class _FittingCheckpointer(DetectionCheckpointer):
    """Refuses what Detectron2 only logs: tensors of another shape, weights without some of the parameters."""

    def _load_model(self, checkpoint):
        incompatible = super()._load_model(checkpoint)
        if incompatible.incorrect_shapes:
            name, found, wanted = incompatible.incorrect_shapes[0]
            raise UserError(
                f"{len(incompatible.incorrect_shapes)} of the weights have not the model's shape, first "
                f"{name}, {tuple(found)} instead of {tuple(wanted)}; "
                "give the config that they were trained with."
            )
        needed = {name for name, _ in self.model.named_parameters() if not name.startswith(_TRAINING_ONLY)}
        missing = [name for name in incompatible.missing_keys if name in needed]
        if missing:
            raise UserError(
                f"the weights lack {len(missing)} of the model's {len(needed)} parameters, first "
                f"{missing[0]}; give the weights of a whole trained model, and the config "
                "that they were trained with."
            )
        # what is left is the losses', of no use here: nothing to report
        return incompatible._replace(missing_keys=[name for name in incompatible.missing_keys if name in needed])


def _check_weights_exist(weights):
    if not weights:
        raise UserError("MODEL.WEIGHTS is empty; give the file of trained weights.")
    if "://" not in weights and not Path(weights).is_file():
        raise UserError(f"there is no weights file {weights}; set MODEL.WEIGHTS to trained weights.")


def _usable_device(device, *, required):
    """Return `device`, or "cpu" for a CUDA device that is not there unless it is `required`."""
    if not device.startswith("cuda") or torch.cuda.is_available():
        return device
    if required:
        raise UserError(f"the device {device} was asked for but PyTorch finds no CUDA device; use cpu.")
    return "cpu"


def _check_image_format(image_format):
    if image_format not in ("RGB", "BGR"):
        raise UserError(f"the image format must be RGB or BGR, not {image_format}.")


def _pil_to_rgb(image):
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        # 16-bit grey: PIL's own conversion would clip all above 255 to white.
        return np.repeat((np.asarray(image) / 257).clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _first_line(error):
    return (str(error).splitlines() or [""])[0][:200]
