"""QueryPose: from images to persons with boxes, keypoints and a confidence per keypoint."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from querypose.data import skeleton_of
from querypose.errors import UserError
from querypose.modeling.backbones.checkpointing import checkpoint_blocks
from querypose.modeling.beyond_the_paper import CenterMaps, ImageQueries, OneToManyProposals, ground_truth_regions
from querypose.modeling.decoder import BoxOutput, KeypointOutput, QueryPoseDecoder
from querypose.modeling.flip_testing import FlipTesting
from querypose.modeling.losses.criterion import SetCriterion, averaged_over_processes
from querypose.modeling.losses.keypoint_loss import keypoints_in_pixels
from querypose.modeling.losses.matcher import Targets, matched_rows, matches_on
from querypose.modeling.ops.memory_layout import use_channels_last
from querypose.modeling.part_division import build_part_division

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class QueryPose(nn.Module):
    """Sparse end-to-end multi-person pose regression (Figure 2); the shape letters stand in `querypose.modeling`."""

    pixel_mean: Tensor
    pixel_std: Tensor
    region_jitter = 0.1  # of `ground_truth_regions`

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        decoder: QueryPoseDecoder,
        criterion: SetCriterion,
        in_features: list[str],
        pixel_mean: list[float],
        pixel_std: list[float],
        train_matched_only: bool = False,
        image_queries: ImageQueries | None = None,
        one_to_many: OneToManyProposals | None = None,
        region_copies: int = 0,
        topk_poses: int = 0,
        pose_score_floor: float = 0.0,
        max_detections: int = 100,
        flip_testing: FlipTesting | None = None,
        channels_last: bool = False,
    ):
        """
        Args:
            backbone: its maps all have d channels; in_features: those for the decoder, finest first (p2 .. p5).
            train_matched_only: train the keypoint stages on matched queries only, see `losses`; not full variant.
            image_queries: gives the first boxes and adds to the instance queries; None: they are learnable alone.
            one_to_many: a second set of queries that trains the box stages.
            region_copies: of `ground_truth_regions`; 0 for none.
            topk_poses: run the keypoint stages, in inference, for this many queries of an image with the highest class
                score, and return only them; 0 runs all. Exact but in the full variant, see `decode_jointly`.
            pose_score_floor: of these, leave out queries with a class probability below it.
        """
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.criterion = criterion
        self.in_features = in_features
        self.num_keypoints = len(criterion.part_of_keypoint)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.train_matched_only = train_matched_only
        self.image_queries = image_queries
        self.one_to_many = one_to_many
        self.region_copies = region_copies
        self.topk_poses = topk_poses
        self.pose_score_floor = pose_score_floor
        self.max_detections = max_detections
        self.flip_testing = flip_testing
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        config = cfg.MODEL.QUERYPOSE
        if config.VARIANT == "full" and config.TRAIN_QUERIES == "matched":
            raise UserError("MODEL.QUERYPOSE.TRAIN_QUERIES 'matched' needs VARIANT 'light' or 'branched'; or set 'all'")
        skeleton = skeleton_of(cfg)
        part_of_keypoint = build_part_division(skeleton, config.PART_DIVISION, config.PART_GROUPS)
        try:
            backbone = build_backbone(cfg)
        except (AssertionError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            place = f"MODEL.BACKBONE.NAME '{cfg.MODEL.BACKBONE.NAME}'"
            raise UserError(f"{place} cannot be built with its keys of MODEL ({error!r}); correct them") from error
        if cfg.MODEL.BACKBONE.ACTIVATION_CHECKPOINTING:
            checkpoint_blocks(backbone)
        shapes = backbone.output_shape()
        in_features = [name for name in ("p2", "p3", "p4", "p5") if name in shapes]
        if not in_features:
            raise UserError(f"MODEL.BACKBONE.NAME '{cfg.MODEL.BACKBONE.NAME}' makes none of the feature maps p2 .. p5")
        strides = [shapes[name].stride for name in in_features]
        many, topk = config.ONE_TO_MANY.NUM_QUERIES, config.TEST.TOPK_POSES
        default_topk = 0 if config.VARIANT == "full" else 30
        return {
            "backbone": backbone,
            "decoder": QueryPoseDecoder(cfg, part_of_keypoint, strides),
            "criterion": SetCriterion(cfg, part_of_keypoint, strides[0]),
            "in_features": in_features,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "train_matched_only": config.TRAIN_QUERIES == "matched",
            "image_queries": ImageQueries(cfg, backbone, strides[0]) if config.IMAGE_QUERIES.ENABLED else None,
            "one_to_many": OneToManyProposals(many, config.HIDDEN_DIM) if many else None,
            "region_copies": config.GROUND_TRUTH_REGIONS.COPIES,
            "topk_poses": default_topk if topk is None else topk,
            "pose_score_floor": config.TEST.POSE_SCORE_FLOOR,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "flip_testing": FlipTesting(skeleton, cfg.TEST.DETECTIONS_PER_IMAGE) if cfg.TEST.FLIP else None,
            "channels_last": use_channels_last(cfg.MODEL.CHANNELS_LAST, cfg.MODEL.DEVICE, backbone),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self,
        batched_inputs: list[dict[str, Any]],
        do_postprocess: bool = True,
        num_persons: int | None = None,
        num_keypoints: int | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Any]] | list[Instances]:
        """
        Args:
            batched_inputs: Detectron2's format: each a dict with `image` (3, H, W) of 0 .. 255, in training
                `instances` with `gt_boxes` and `gt_keypoints`, in inference optionally `height` and `width`, the
                size in pixels that the output is wanted in.
            do_postprocess: inference: scale to that size and wrap as below; else `Instances`, in the input's pixels.
            num_persons, num_keypoints: training: of the larger batch that this is a part of.

        Returns:
            In training the weighted losses by name. In inference a list of {"instances": Instances} with
            `pred_boxes`, `scores`, `pred_classes`, `pred_keypoints` (n, K, 3): x, y in pixels and confidence, and, if
            the keypoint loss uses sigma, `pred_keypoint_sigmas` (n, K, 2) of x and y in pixels; best score first.
        """
        if self.training:
            return self.losses(batched_inputs, num_persons, num_keypoints)
        flip = self.flip_testing
        results = flip(self.detect, batched_inputs) if flip else self.detect(batched_inputs)
        return self.postprocess(results, batched_inputs) if do_postprocess else results

    def detect(self, batched_inputs: list[dict[str, Any]]) -> list[Instances]:
        """Inference of the images as they are."""
        images = self.preprocess(batched_inputs)
        return self.inference(*self.decode(*self.extract(images)), images.image_sizes)

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalize, then pad right and bottom to one size that the backbone's strides divide."""
        images = [inputs["image"].to(self.device, non_blocking=True) for inputs in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def extract(self, images: ImageList) -> tuple[list[Tensor], Tensor, CenterMaps | None]:
        """Feature maps, finest first; the images' (width, height) (B, 2) without padding; maps of `image_queries`."""
        features = self.backbone(images.tensor.to(memory_format=self.memory_format))
        sizes = torch.tensor([(width, height) for height, width in images.image_sizes], dtype=torch.float32)
        features, maps = self.feature_maps(features)
        return features, sizes.to(self.device, non_blocking=True), maps

    def feature_maps(self, features: dict[str, Tensor]) -> tuple[list[Tensor], CenterMaps | None]:
        """The backbone's output as `extract` returns it."""
        maps = None if self.image_queries is None else self.image_queries.maps(features, self.in_features[0])
        # RoIAlign reads float32, torchvision's in the plain layout: convert once instead of in every stage
        layout = self.memory_format if self.pixel_mean.is_cpu else torch.contiguous_format
        return [features[name].float().contiguous(memory_format=layout) for name in self.in_features], maps

    def proposals(self, sizes: Tensor, maps: CenterMaps | None) -> tuple[Tensor, Tensor]:
        """The first boxes (B, N, 4), corners in pixels, and instance queries (B, N, d)."""
        if self.image_queries is None:
            return self.decoder.proposals(sizes)
        return self.image_queries(maps, self.decoder.instance_queries.weight, sizes)

    def decode(
        self, features: list[Tensor], sizes: Tensor, maps: CenterMaps | None, every_query: bool = False
    ) -> tuple[BoxOutput, KeypointOutput]:
        """Inference from what `extract` returns."""
        limits = (0, 0.0) if every_query else (self.topk_poses, self.pose_score_floor)
        return self.decoder(features, *self.proposals(sizes, maps), *limits)

    def losses(
        self, batched_inputs: list[dict[str, Any]], num_persons: int | None, num_keypoints: int | None
    ) -> dict[str, Tensor]:
        """The weighted losses by name; arguments as of `forward`.

        With `train_matched_only` one matching for all stages follows the box stages, and each keypoint stage runs only
        for the queries matched at it or later: the losses and gradients of all queries, but for BatchNorm's statistics.
        """
        features, sizes, maps = self.extract(self.preprocess(batched_inputs))
        instances = [inputs["instances"] for inputs in batched_inputs]
        targets = Targets.from_instances(instances, self.num_keypoints, self.device)
        decoder, criterion = self.decoder, self.criterion
        persons = averaged_over_processes(sum(targets.counts) if num_persons is None else num_persons, self.device)
        first = self.proposals(sizes, maps)
        if self.train_matched_only:
            boxes = decoder.decode_boxes(features, *first)
            matches = criterion.matcher.assign(boxes.logits, boxes.boxes, targets)
            rows, numbers = matched_rows(matches)
            rows = rows.to(self.device, non_blocking=True)
            keypoints = decoder.decode_keypoints(features[0], boxes, rows, numbers)
        else:
            boxes, keypoints = decoder(features, *first)
            matches = criterion.matcher.assign(boxes.logits, boxes.boxes, targets)
        matches = matches_on(matches, self.device)
        losses = criterion.box_losses(boxes, matches, targets, persons)
        losses.update(criterion.keypoint_losses(keypoints, boxes, matches, targets, persons))
        if criterion.auxiliary_heatmap is not None:
            losses["loss_heatmap"] = criterion.heatmap_loss(features[0], targets, num_keypoints)
        if self.image_queries is not None and maps is not None and maps.center.requires_grad:
            losses.update(self.image_queries.losses(maps, targets, persons))
        if self.region_copies:
            match, regions = ground_truth_regions(matches[-1], targets, self.region_copies, self.region_jitter)
            output = decoder.decode_keypoints(features[0], boxes, match.rows, regions=regions)
            losses.update(criterion.region_losses(output, match, regions, targets, persons, self.region_copies))
        if self.one_to_many is not None:
            boxes = decoder.decode_boxes(features, *self.one_to_many(sizes))
            targets = self.one_to_many.targets(targets)
            matches = matches_on(criterion.matcher.assign(boxes.logits, boxes.boxes, targets), self.device)
            losses.update(criterion.box_losses(boxes, matches, targets, persons * self.one_to_many.repeats, "_many"))
        return losses

    def inference(
        self, boxes: BoxOutput, keypoints: KeypointOutput, image_sizes: list[tuple[int, int]], stage: int | None = None
    ) -> list[Instances]:
        """The persons of each image in pixels of the network's input, best score first; `stage` is for attention."""
        corners, scores, points, sigmas = poses(boxes, keypoints)
        fields: dict[str, Any] = {"pred_boxes": Boxes(corners), "scores": scores, "pred_keypoints": points}
        fields["pred_classes"] = torch.zeros_like(keypoints.rows)
        if self.criterion.keypoint_loss.uses_sigma:
            fields["pred_keypoint_sigmas"] = sigmas
        if stage is not None:
            fields["part_attention"] = keypoints.attention[stage]
            fields["attention_boxes"] = Boxes(boxes.boxes[stage].flatten(0, 1)[keypoints.rows])
        image_of_row = keypoints.rows // boxes.logits[-1].shape[1]
        results = []
        for index, image_size in enumerate(image_sizes):
            mine = torch.where(image_of_row == index)[0]
            best = scores[mine].argsort(descending=True)[: self.max_detections]
            results.append(Instances(image_size, **fields)[mine[best]])
        return results

    def postprocess(self, results: list[Instances], batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """The persons with finite coordinates, scaled to the size that each input asks for."""
        processed = []
        for persons, inputs in zip(results, batched_inputs, strict=True):
            numbers = torch.cat([persons.pred_boxes.tensor, persons.pred_keypoints.flatten(1)], dim=1)
            finite = numbers.isfinite().all(dim=1)
            if not finite.all():
                if not all(tensor.isfinite().all() for tensor in self.state_dict().values()):
                    raise UserError("MODEL.WEIGHTS holds numbers that are not finite; give other weights")
                name, number = inputs.get("file_name", "an image"), int((~finite).sum())
                logger.warning("%s: left out %d persons with coordinates that are not finite", name, number)
                persons = persons[finite]
            height, width = persons.image_size
            persons = rescaled(persons, inputs.get("height", height), inputs.get("width", width))
            processed.append({"instances": persons})
        return processed

    def with_attention(self, batched_inputs: list[dict[str, Any]], stage: int = -1) -> list[dict[str, Instances]]:
        """Inference that also shows where the parts' embeddings come from (Figure 5).

        What `forward` returns, the instances with two more fields: `part_attention` (n, M, h, w) of the stage with that
        index, every map summing to one, and `attention_boxes`, the stage's boxes, over which the maps lie. The persons
        are those of the last stage; for any other the full variant computes every query.
        """
        number = len(self.decoder.box_stages)
        if not -number <= stage < number:
            raise UserError(f"the model has {number} stages, so there is none with index {stage}")
        images = self.preprocess(batched_inputs)
        last = stage in (-1, number - 1)
        boxes, keypoints = self.decode(*self.extract(images), every_query=not (self.decoder.light or last))
        stage = -1 if last else stage
        if keypoints.attention[stage] is None:
            raise UserError("this model makes no attention maps: its part embedding is not an SPEGM")
        results = self.inference(boxes, keypoints, images.image_sizes, stage)
        return self.postprocess(results, batched_inputs)

    @contextlib.contextmanager
    def every_query(self) -> Iterator[None]:
        """Inference inside the block runs and returns all queries, whatever `topk_poses` and `pose_score_floor` say."""
        before = self.topk_poses, self.pose_score_floor
        self.topk_poses, self.pose_score_floor = 0, 0.0
        try:
            yield
        finally:
            self.topk_poses, self.pose_score_floor = before


def poses(boxes: BoxOutput, keypoints: KeypointOutput) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The persons of the R rows of the last stage, in pixels of the network's input (Section 3.4, Testing).

    A keypoint's confidence is the mean over x and y of 1 - sigma; a person's score is its class probability times the
    mean confidence of its keypoints.

    Returns:
        boxes (R, 4), corners; scores (R,); keypoints (R, K, 3): x, y and confidence; sigmas (R, K, 2) of x and y.
    """
    corners = boxes.boxes[-1].flatten(0, 1)[keypoints.rows]
    probability = boxes.logits[-1].float().flatten()[keypoints.rows].sigmoid()
    confidence = (1 - keypoints.sigmas[-1]).mean(dim=-1)
    points = torch.cat([keypoints_in_pixels(keypoints.coordinates[-1], corners), confidence[..., None]], dim=-1)
    sigmas = keypoints.sigmas[-1] * (corners[:, 2:] - corners[:, :2])[:, None]
    return corners, probability * confidence.mean(dim=-1), points, sigmas


def rescaled(persons: Instances, height: int, width: int) -> Instances:
    """Detectron2's `detector_postprocess` to an image of that size, for the fields that it does not know, too."""
    scale_x, scale_y = width / persons.image_size[1], height / persons.image_size[0]
    if persons.has("pred_keypoint_sigmas"):
        persons.pred_keypoint_sigmas = persons.pred_keypoint_sigmas * persons.scores.new_tensor([scale_x, scale_y])
    if persons.has("attention_boxes"):
        persons.attention_boxes.scale(scale_x, scale_y)
    return detector_postprocess(persons, height, width)
