"""QueryPose: from images to persons with boxes, keypoints and a confidence per keypoint."""

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from querypose.modeling.criterion import SetCriterion
from querypose.modeling.decoder import DecoderOutput, QueryPoseDecoder
from querypose.modeling.matcher import Match
from querypose.modeling.part_division import build_part_division
from querypose.modeling.rle import keypoints_in_pixels
from querypose.modeling.targets import Targets


@META_ARCH_REGISTRY.register()
class QueryPose(nn.Module):
    """Sparse end-to-end multi-person pose regression (Figure 2); the shape letters stand in `querypose.modeling`."""

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        decoder: QueryPoseDecoder,
        criterion: SetCriterion,
        in_features: list[str],
        num_keypoints: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        train_matched_only: bool = False,
        topk_poses: int = 0,
        max_detections: int = 100,
        channels_last: bool = False,
    ):
        """
        Args:
            backbone: a Detectron2 backbone whose maps all have d channels.
            decoder, criterion: as their classes state.
            in_features: the backbone's maps for the decoder, finest first (p2 .. p5).
            num_keypoints: K.
            pixel_mean, pixel_std: per channel, in the order of the input's channels.
            train_matched_only: light variant: train the keypoint stages on queries matched at any stage.
            topk_poses: light variant: run the keypoint stages, in inference, for this many queries of an image with
                the highest last class score, and return only them; 0 runs all.
            max_detections: most persons returned for an image.
            channels_last: memory layout of images and convolution weights.
        """
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.criterion = criterion
        self.in_features = list(in_features)
        self.num_keypoints = num_keypoints
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.train_matched_only = train_matched_only
        self.topk_poses = topk_poses
        self.max_detections = max_detections
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    @classmethod
    def from_config(cls, cfg):
        from querypose.data import skeleton_of

        config = cfg.MODEL.QUERYPOSE
        skeleton = skeleton_of(cfg)
        part_of_keypoint = build_part_division(skeleton, config.PART_DIVISION, config.PART_GROUPS)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        light = config.VARIANT == "light"
        return {
            "backbone": backbone,
            "decoder": QueryPoseDecoder(cfg, part_of_keypoint, [shapes[name].stride for name in config.IN_FEATURES]),
            "criterion": SetCriterion(cfg, skeleton.num_keypoints, shapes[config.IN_FEATURES[0]].stride),
            "in_features": config.IN_FEATURES,
            "num_keypoints": skeleton.num_keypoints,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "train_matched_only": light and config.TRAIN_QUERIES == "matched",
            "topk_poses": config.TEST.TOPK_POSES if light else 0,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "channels_last": cfg.MODEL.CHANNELS_LAST,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict], do_postprocess: bool = True):
        """
        Args:
            batched_inputs: Detectron2's format: each a dict with `image` (3, H, W) of 0 .. 255, in training
                `instances` with `gt_boxes` and `gt_keypoints`, in inference optionally `height` and `width`, the
                size in pixels that the output is wanted in.
            do_postprocess: inference: scale to that size and wrap as below; else plain `Instances`, in pixels of the
                network's input.

        Returns:
            In training the weighted losses by name. In inference a list of {"instances": Instances} with
            `pred_boxes`, `scores`, `pred_classes` and `pred_keypoints` (n, K, 3): x, y in pixels and confidence,
            best score first.
        """
        images = self.preprocess(batched_inputs)
        features = self.backbone(images.tensor.to(memory_format=self.memory_format))
        # RoIAlign reads float32 in the plain layout: convert once instead of in every stage
        features = [features[name].float().contiguous() for name in self.in_features]
        sizes = torch.tensor([(width, height) for height, width in images.image_sizes], dtype=torch.float32)
        sizes = sizes.to(self.device)
        if self.training:
            instances = [inputs["instances"] for inputs in batched_inputs]
            targets = Targets.from_instances(instances, self.num_keypoints, self.device)
            return self.losses(features, sizes, targets)
        select = self._select_best if self.topk_poses else None
        results = self.inference(self.decoder(features, sizes, select), images.image_sizes)
        return self.postprocess(results, batched_inputs) if do_postprocess else results

    def losses(self, features: list[Tensor], sizes: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Losses of a batch from its feature maps, the images' (width, height) (B, 2) in pixels and ground truth."""
        if not self.train_matched_only:
            output = self.decoder(features, sizes)
            matches = self.criterion.matcher(output.logits, output.boxes, targets)
            return self.criterion(output, targets, matches, features[0])

        matches: list[Match] = []

        def select_matched(logits: list[Tensor], boxes: list[Tensor]) -> Tensor:
            matches.extend(self.criterion.matcher(logits, boxes, targets))
            rows = torch.cat([match.rows for match in matches])
            # an empty batch still runs one query, so that every parameter takes part in the step
            return torch.unique(rows) if len(rows) else rows.new_zeros(1)

        output = self.decoder(features, sizes, select_matched)
        return self.criterion(output, targets, matches, features[0])

    def inference(self, output: DecoderOutput, image_sizes: list[tuple[int, int]]) -> list[Instances]:
        """`Instances` of every image in pixels of the network's input, from the last stage (Section 3.4, Testing).

        A keypoint's confidence is the mean over x and y of 1 - sigma, a person's score its class probability times
        the mean confidence of its keypoints.
        """
        num_queries = output.logits[-1].shape[1]
        boxes = output.boxes[-1].flatten(0, 1)[output.rows]
        confidence = (1 - output.sigmas[-1]).mean(dim=-1)  # (R, K)
        scores = output.logits[-1].float().flatten()[output.rows].sigmoid() * confidence.mean(dim=-1)
        keypoints = torch.cat([keypoints_in_pixels(output.coordinates[-1], boxes), confidence[..., None]], dim=-1)
        image_of_row = output.rows // num_queries

        results = []
        for index, image_size in enumerate(image_sizes):
            mine = torch.where(image_of_row == index)[0]
            order = scores[mine].argsort(descending=True)[: self.max_detections]
            mine = mine[order]
            results.append(
                Instances(
                    image_size,
                    pred_boxes=Boxes(boxes[mine]),
                    scores=scores[mine],
                    pred_classes=torch.zeros_like(mine),
                    pred_keypoints=keypoints[mine],
                )
            )
        return results

    def _select_best(self, logits: list[Tensor], boxes: list[Tensor]) -> Tensor:
        scores = logits[-1].flatten(1)  # (B, N)
        best = scores.topk(min(self.topk_poses, scores.shape[1]), dim=1).indices
        first = torch.arange(len(best), device=best.device)[:, None] * scores.shape[1]
        return (best + first).flatten()

    def preprocess(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise, then pad right and bottom to one size that the backbone's strides divide."""
        images = [(inputs["image"].to(self.device) - self.pixel_mean) / self.pixel_std for inputs in batched_inputs]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    @staticmethod
    def postprocess(results: list[Instances], batched_inputs: list[dict]) -> list[dict[str, Instances]]:
        """Scale boxes and keypoints to the size that each input asks for."""
        processed = []
        for image_results, inputs in zip(results, batched_inputs, strict=True):
            height, width = image_results.image_size
            wanted = inputs.get("height", height), inputs.get("width", width)
            processed.append({"instances": detector_postprocess(image_results, *wanted)})
        return processed
