"""QueryPose: from images to persons with boxes, keypoints and a confidence per keypoint."""

import contextlib

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from querypose.data import skeleton_of
from querypose.errors import UserError
from querypose.modeling.backbones.checkpointing import checkpoint_resnet
from querypose.modeling.decoder import DecoderOutput, QueryPoseDecoder
from querypose.modeling.losses.criterion import SetCriterion
from querypose.modeling.losses.matcher import Match, matched_rows, matches_on
from querypose.modeling.losses.rle import keypoints_in_pixels
from querypose.modeling.losses.targets import Targets
from querypose.modeling.ops.compilation import compile_fixed_shapes
from querypose.modeling.ops.memory_layout import use_channels_last
from querypose.modeling.part_division import build_part_division


def topk_poses(cfg: CfgNode) -> int:
    """MODEL.QUERYPOSE.TEST.TOPK_POSES; of None the variant's default."""
    config = cfg.MODEL.QUERYPOSE
    if config.TEST.TOPK_POSES is not None:
        return config.TEST.TOPK_POSES
    return 0 if config.VARIANT == "full" else 30


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
        pose_score_floor: float = 0.0,
        max_detections: int = 100,
        channels_last: bool = False,
        compile_mode: str = "none",
    ):
        """
        Args:
            backbone: a Detectron2 backbone whose maps all have d channels.
            decoder, criterion: as their classes state.
            in_features: the backbone's maps for the decoder, finest first (p2 .. p5).
            num_keypoints: K.
            pixel_mean, pixel_std: per channel, in the order of the input's channels.
            train_matched_only: train the keypoint stages on matched queries only, see `losses`.
            topk_poses: run the keypoint stages, in inference, for this many queries of an image with the highest class
                score, and return only them; 0 runs all. Exact but in the full variant, where
                every stage selects by its own score instead of the last one's.
            pose_score_floor: of these, leave out queries with a class score below it; 0 leaves out none.
            max_detections: most persons returned for an image.
            channels_last: memory layout of images and convolution weights.
            compile_mode: "none", or a mode of torch.compile for the parts of fixed shapes.
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
        self.pose_score_floor = pose_score_floor
        self.max_detections = max_detections
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)
        if compile_mode != "none":
            compile_fixed_shapes(decoder, compile_mode)

    @classmethod
    def from_config(cls, cfg):
        config = cfg.MODEL.QUERYPOSE
        skeleton = skeleton_of(cfg)
        part_of_keypoint = build_part_division(skeleton, config.PART_DIVISION, config.PART_GROUPS)
        backbone = build_backbone(cfg)
        if cfg.MODEL.RESNETS.ACTIVATION_CHECKPOINTING:
            checkpoint_resnet(backbone)
        shapes = backbone.output_shape()
        in_features = [name for name in ("p2", "p3", "p4", "p5") if name in shapes]
        if not in_features:
            raise UserError(f"MODEL.BACKBONE.NAME '{cfg.MODEL.BACKBONE.NAME}' makes none of the feature maps p2 .. p5")
        return {
            "backbone": backbone,
            "decoder": QueryPoseDecoder(cfg, part_of_keypoint, [shapes[name].stride for name in in_features]),
            "criterion": SetCriterion(cfg, part_of_keypoint, shapes[in_features[0]].stride),
            "in_features": in_features,
            "num_keypoints": skeleton.num_keypoints,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "train_matched_only": config.TRAIN_QUERIES == "matched",
            "topk_poses": topk_poses(cfg),
            "pose_score_floor": config.TEST.POSE_SCORE_FLOOR,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "channels_last": use_channels_last(cfg.MODEL.CHANNELS_LAST, cfg.MODEL.DEVICE, backbone),
            "compile_mode": cfg.MODEL.COMPILE,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self,
        batched_inputs: list[dict],
        do_postprocess: bool = True,
        num_persons: int | None = None,
        num_keypoints: int | None = None,
    ):
        """
        Args:
            batched_inputs: Detectron2's format: each a dict with `image` (3, H, W) of 0 .. 255, in training
                `instances` with `gt_boxes` and `gt_keypoints`, in inference optionally `height` and `width`, the
                size in pixels that the output is wanted in.
            do_postprocess: inference: scale to that size and wrap as below; else plain `Instances`, in pixels of the
                network's input.
            num_persons, num_keypoints: training: persons, and keypoints with a label, of the larger batch that this
                one is a part of, see `SetCriterion`.

        Returns:
            In training the weighted losses by name. In inference a list of {"instances": Instances} with
            `pred_boxes`, `scores`, `pred_classes` and `pred_keypoints` (n, K, 3): x, y in pixels and confidence,
            best score first.
        """
        images = self.preprocess(batched_inputs)
        features, sizes = self.extract(images)
        if self.training:
            instances = [inputs["instances"] for inputs in batched_inputs]
            targets = Targets.from_instances(instances, self.num_keypoints, self.device)
            return self.losses(features, sizes, targets, num_persons, num_keypoints)
        select = self._select_best if self.leaves_out_queries else None
        results = self.inference(self.decoder(features, sizes, select), images.image_sizes)
        return self.postprocess(results, batched_inputs) if do_postprocess else results

    def extract(self, images: ImageList) -> tuple[list[Tensor], Tensor]:
        """The maps for the decoder, finest first, and the images' (width, height) (B, 2) in pixels without padding."""
        features = self.backbone(images.tensor.to(memory_format=self.memory_format))
        # RoIAlign reads float32, torchvision's in the plain layout: convert once instead of in every stage
        layout = self.memory_format if images.tensor.is_cpu else torch.contiguous_format
        features = [features[name].float().contiguous(memory_format=layout) for name in self.in_features]
        sizes = torch.tensor([(width, height) for height, width in images.image_sizes], dtype=torch.float32)
        return features, sizes.to(self.device, non_blocking=True)

    def with_attention(self, batched_inputs: list[dict], stage: int = -1) -> list[dict]:
        """Inference that also tells where the parts' embeddings came from (Figure 5).

        Args:
            batched_inputs: as of `forward`.
            stage: index of the stage whose attention is wanted; the persons are those of the last.

        Returns:
            what `forward` does, the instances with two more fields: `part_attention` (n, M, h, w), every map summing
            to one, and `attention_boxes`, the box of that stage, over which the maps lie.

        Raises:
            UserError: a model without such a stage or without attention maps.
        """
        number = len(self.decoder.box_stages)
        if not -number <= stage < number:
            raise UserError(f"the model has {number} stages, so that there is none with index {stage}")
        images = self.preprocess(batched_inputs)
        output = self.decoder(*self.extract(images), self._select_best if self.leaves_out_queries else None)
        if output.attention[stage] is None:
            raise UserError("this model makes no attention maps: its part embedding is not an SPEGM")
        results = self.inference(output, images.image_sizes, attention_stage=stage)
        return self.postprocess(results, batched_inputs)

    def losses(
        self,
        features: list[Tensor],
        sizes: Tensor,
        targets: Targets,
        num_persons: int | None = None,
        num_keypoints: int | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch from its feature maps, the images' (width, height) (B, 2) in pixels and ground truth.

        With `train_matched_only`, not full variant: all box stages run, then one matching for all stages, then each
        keypoint stage for the queries matched at it or later: the losses and gradients of all queries. Full variant:
        the next box stage needs every query's keypoint stage, in training as in inference, so that all are computed;
        queries that no stage so far has matched carry no gradient through theirs. The matching then takes one transfer
        a stage.
        """
        if not self.train_matched_only:
            output = self.decoder(features, sizes)
            matches = self.criterion.matcher(output.logits, output.boxes, targets)
            return self.criterion(output, targets, matches, features[0], num_persons, num_keypoints)

        matches: list[Match] = []

        def match_new_stages(logits: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, list[int]]:
            new = slice(len(matches), None)
            matches.extend(self.criterion.matcher.assign(logits[new], boxes[new], targets))
            rows, number = matched_rows(matches)
            return rows.to(self.device, non_blocking=True), number

        if self.decoder.light:
            output = self.decoder(features, sizes, select=match_new_stages)
        else:
            output = self.decoder(features, sizes, track=match_new_stages)
        matches = matches_on(matches, self.device)
        return self.criterion(output, targets, matches, features[0], num_persons, num_keypoints)

    def inference(
        self, output: DecoderOutput, image_sizes: list[tuple[int, int]], attention_stage: int | None = None
    ) -> list[Instances]:
        """`Instances` of every image in pixels of the network's input, from the last stage (Section 3.4, Testing).

        A keypoint's confidence is the mean over x and y of 1 - sigma, a person's score its class probability times
        the mean confidence of its keypoints. `attention_stage` adds the fields of `with_attention`.
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
            if attention_stage is not None:
                results[-1].part_attention = output.attention[attention_stage][mine]
                stage_boxes = output.boxes[attention_stage].flatten(0, 1)[output.rows]
                results[-1].attention_boxes = Boxes(stage_boxes[mine])
        return results

    @contextlib.contextmanager
    def every_query(self):
        """Inference inside the block runs and returns all queries, whatever `topk_poses` and `pose_score_floor` say."""
        before = self.topk_poses, self.pose_score_floor
        self.topk_poses, self.pose_score_floor = 0, 0.0
        try:
            yield
        finally:
            self.topk_poses, self.pose_score_floor = before

    @property
    def leaves_out_queries(self) -> bool:
        """Whether inference returns fewer than all queries."""
        # with at least as many poses as queries there is nothing to select
        return 0 < self.topk_poses < self.decoder.instance_queries.num_embeddings or self.pose_score_floor > 0

    def _select_best(self, logits: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, None]:
        scores = logits[-1].flatten(1)  # (B, N)
        batch, number = scores.shape
        best = scores.topk(min(self.topk_poses or number, number), dim=1)
        rows = best.indices + torch.arange(batch, device=scores.device)[:, None] * number
        if self.pose_score_floor > 0:
            return rows[best.values.float().sigmoid() >= self.pose_score_floor], None
        return rows.flatten(), None

    def preprocess(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise, then pad right and bottom to one size that the backbone's strides divide."""
        images = [inputs["image"].to(self.device, non_blocking=True) for inputs in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    @staticmethod
    def postprocess(results: list[Instances], batched_inputs: list[dict]) -> list[dict[str, Instances]]:
        """Scale boxes and keypoints to the size that each input asks for; UserError if they are not finite."""
        processed = []
        for image_results, inputs in zip(results, batched_inputs, strict=True):
            # of all that follows from the weights: a sum is finite if every number is
            if not (image_results.pred_boxes.tensor.sum() + image_results.pred_keypoints.sum()).isfinite():
                raise UserError(
                    "the model computes boxes or keypoints that are not finite: MODEL.WEIGHTS holds such numbers, "
                    "from a training that diverged perhaps; give other weights"
                )
            height, width = image_results.image_size
            wanted = inputs.get("height", height), inputs.get("width", width)
            if image_results.has("attention_boxes"):
                image_results.attention_boxes.scale(wanted[1] / width, wanted[0] / height)
            processed.append({"instances": detector_postprocess(image_results, *wanted)})
        return processed
