"""The model as one function of tensors: what an ONNX file holds."""

import contextlib
import functools
from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from querypose.modeling.decoder import BoxOutput, KeypointOutput
from querypose.modeling.meta_arch import QueryPose, poses
from querypose.modeling.ops import pyramid_pooling


class OnnxGraph(nn.Module):
    """A `QueryPose` from images to persons, with every shape a function of the input's, none of the values.

    It computes the model's inference up to the scaling to another size: normalization, padding, network,
    scores, keypoints in pixels, the best persons first.
    """

    def __init__(self, model: QueryPose):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, images: Tensor, image_sizes: Tensor, score_threshold: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            images: (B, 3, H, W) of 0 .. 255, channels as the model was trained; images smaller than the batch's
                (H, W) fill its upper left corner.
            image_sizes: (B, 2) or (1, 2), width and height of the images in pixels; 0 stands for W and H.
            score_threshold: (1,); the keypoint stages run only for queries that can reach this score.

        Returns:
            The persons of each image with at least this score and a box with an area, best first, padded with scores
            of 0 to the most of any image of the batch, n (0 is possible): boxes (B, n, 4), corners in pixels, inside
            of the image; scores (B, n) in [0, 1]; keypoints (B, n, K, 3): x, y in pixels and a confidence in [0, 1];
            if the keypoint loss uses sigma, keypoint_sigmas (B, n, K, 2) of x and y in pixels.
        """
        model = self.model
        batch, _, height, width = images.shape
        # while a graph is traced, sides are tensors already, and must stay it
        whole = torch.stack([torch.as_tensor(side).float() for side in (width, height)]).to(images)
        sizes = torch.where(image_sizes > 0, image_sizes, whole) + images.new_zeros(batch, 2)

        features, maps = model.feature_maps(model.backbone(self.preprocess(images, sizes)))
        box_output, keypoint_output = self.decode(features, model.proposals(sizes, maps), score_threshold)
        boxes, scores, keypoints, sigmas = poses(box_output, keypoint_output)

        # every image has as many rows as any other, and they follow each other
        scores = scores.view(batch, -1)
        boxes = boxes.view(batch, -1, 4)
        boxes = torch.minimum(boxes.clamp(min=0), sizes.repeat(1, 2)[:, None])
        has_area = ((boxes[..., 2:] - boxes[..., :2]) > 0).all(dim=-1)
        scores, order = torch.where(has_area & (scores >= score_threshold), scores, 0.0).sort(dim=1, descending=True)
        most = (scores > 0).sum(dim=1).amax().clamp(max=model.max_detections)
        scores, order = scores[:, :most], order[:, :most, None]
        number = model.num_keypoints

        def best(values: Tensor, length: int) -> Tensor:
            flat = values.reshape(batch, -1, number * length).gather(1, order.expand(-1, -1, number * length))
            return flat.unflatten(2, (number, length))

        outputs = boxes.gather(1, order.expand(-1, -1, 4)), scores, best(keypoints, 3)
        return (*outputs, best(sigmas, 2)) if model.criterion.keypoint_loss.uses_sigma else outputs

    def decode(
        self, features: list[Tensor], first: tuple[Tensor, Tensor], score_threshold: Tensor
    ) -> tuple[BoxOutput, KeypointOutput]:
        """As the model's, the rows of light and branched models as many from each image."""
        model, decoder = self.model, self.model.decoder
        if not decoder.light:
            return decoder.decode_jointly(features, *first)
        boxes = decoder.decode_boxes(features, *first)
        logits, best = boxes.logits[-1].float().flatten(1).sort(dim=1, descending=True)
        batch, queries = logits.shape
        # a person's score is at most its class probability
        number = (logits.sigmoid() >= score_threshold).sum(dim=1).amax().clamp(min=1)  # runtimes fail on no rows
        if 0 < model.topk_poses < decoder.instance_queries.num_embeddings:
            number = number.clamp(max=model.topk_poses)
        rows = best[:, :number] + torch.arange(batch, device=logits.device)[:, None] * queries
        return boxes, decoder.decode_keypoints(features[0], boxes, rows.flatten())

    def preprocess(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Normalize, zero the pixels outside of an image, pad right and bottom to a multiple of the strides."""
        model = self.model
        height, width = images.shape[-2:]
        normalized = (images - model.pixel_mean) / model.pixel_std
        columns = torch.arange(width, device=images.device)[None, None, None] < sizes[:, 0, None, None, None]
        rows = torch.arange(height, device=images.device)[None, None, :, None] < sizes[:, 1, None, None, None]
        normalized = torch.where(columns & rows, normalized, 0.0)
        divisor = max(model.backbone.size_divisibility, 1)
        return F.pad(normalized, (0, -width % divisor, 0, -height % divisor))


@contextlib.contextmanager
def traceable(model: QueryPose) -> Iterator[None]:
    """Inside, RoIAlign is torchvision's, on every level for every box, and attention runs without fused kernels.

    The model's own RoIAlign depends on the data, and neither it nor fused attention has an ONNX operator.
    """
    fused, own, training = torch.backends.mha.get_fastpath_enabled(), pyramid_pooling.roi_align, model.training
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        pyramid_pooling.roi_align = functools.partial(torchvision.ops.roi_align, aligned=True)
        model.eval()
        for stage in model.decoder.box_stages:
            stage.__dict__["pool"] = functools.partial(pyramid_pooling.pool_every_level, stage.pooler)
        with torch.no_grad():
            yield
    finally:
        for stage in model.decoder.box_stages:
            stage.__dict__.pop("pool", None)
        model.train(training)
        pyramid_pooling.roi_align = own
        torch.backends.mha.set_fastpath_enabled(fused)
