"""The model as one function of tensors: what an ONNX file holds."""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from querypose.export.pyramid_pooler import DensePyramidPooler
from querypose.modeling.inference import poses
from querypose.modeling.meta_arch import QueryPose


class OnnxGraph(nn.Module):
    """A `QueryPose` from images to persons, with every shape a function of the input's, none of the values.

    It computes what the model's inference does up to the scaling to another size: normalisation, padding, network,
    scores, keypoints in pixels, the best persons first.
    """

    def __init__(self, model: QueryPose):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            images: (B, 3, H, W) of 0 .. 255, channels as the model was trained; images smaller than the batch's
                (H, W) stand in its upper left corner.
            image_sizes: (B, 2) or (1, 2), width and height of the images in pixels; 0 stands for W and H.

        Returns:
            For each image the n best of its persons, best first: boxes (B, n, 4), corners in pixels, inside of the
            image; scores (B, n) in [0, 1], 0 for a box without area; keypoints (B, n, K, 3): x, y in pixels and a
            confidence in [0, 1].
        """
        model = self.model
        batch, _, height, width = images.shape
        sizes = torch.where(image_sizes > 0, image_sizes, torch.stack([_float(width), _float(height)]).to(images))
        sizes = sizes + images.new_zeros(batch, 2)

        features, maps = model.feature_maps(model.backbone(self.preprocess(images, sizes)))
        # the rows of an image are as many as those of every other, and follow each other
        boxes, scores, keypoints = poses(*model.decode(features, sizes, maps))

        number = model.topk_poses or model.decoder.instance_queries.num_embeddings
        number = min(number, model.decoder.instance_queries.num_embeddings)
        boxes = boxes.view(-1, number, 4)
        boxes = torch.minimum(boxes.clamp(min=0), sizes.repeat(1, 2)[:, None])
        has_area = ((boxes[..., 2:] - boxes[..., :2]) > 0).all(dim=-1)
        scores = torch.where(has_area, scores.view(-1, number), 0.0)
        scores, order = scores.topk(min(model.max_detections, number), dim=1)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        keypoints = keypoints.view(-1, number, model.num_keypoints * 3)
        keypoints = keypoints.gather(1, order[..., None].expand(-1, -1, model.num_keypoints * 3))
        return boxes, scores, keypoints.unflatten(2, (model.num_keypoints, 3))

    def preprocess(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Normalise, zero what lies outside of an image, pad right and bottom to what the strides divide."""
        model = self.model
        height, width = images.shape[-2:]
        normalised = (images - model.pixel_mean) / model.pixel_std
        columns = torch.arange(width, device=images.device)[None, None, None] < sizes[:, 0, None, None, None]
        rows = torch.arange(height, device=images.device)[None, None, :, None] < sizes[:, 1, None, None, None]
        normalised = torch.where(columns & rows, normalised, 0.0)
        divisor = max(model.backbone.size_divisibility, 1)
        right, bottom = (divisor - width % divisor) % divisor, (divisor - height % divisor) % divisor
        return F.pad(normalised, (0, right, 0, bottom))


@contextlib.contextmanager
def traceable(model: QueryPose):
    """Inside, the model's box stages pool without steps that depend on the data, and attention without fused kernels.

    PyTorch's fused multi-head attention has no ONNX counterpart.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    training = model.training
    stages = list(model.decoder.box_stages)
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        model.eval()
        for stage in stages:
            stage.pool = DensePyramidPooler(stage.pooler)
        with torch.no_grad():
            yield
    finally:
        for stage in stages:
            stage.__dict__.pop("pool", None)
        model.train(training)
        torch.backends.mha.set_fastpath_enabled(fused)


def _float(size) -> Tensor:
    """A side as a tensor; while a graph is traced it is one already, and must stay it."""
    return size.float() if isinstance(size, Tensor) else torch.tensor(float(size))
