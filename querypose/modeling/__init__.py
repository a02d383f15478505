"""The model: `meta_arch -> decoder -> box stage / keypoint stage -> parts`.

Shape letters, used in every docstring of this package:

    B images in a batch            N queries per image (persons that can be found)
    S stages of the decoder        M parts of a person      K keypoints of a person
    R person regions (rows): the queries of all images in one flat list, or those of them that a step keeps
    P persons in the ground truth of an image (padded to the most of the batch)
    d width of an instance query   dp width of a part query
"""

from querypose.modeling.ablations.direct_keypoint_stage import InstanceKeypointStage, PooledKeypointStage
from querypose.modeling.ablations.interaction_variants import (
    DynamicSpatialMLP,
    MultiHeadSelfAttention,
    SpatialAttention,
)
from querypose.modeling.ablations.iteration_variants import Concatenation, NoIteration, Summation
from querypose.modeling.ablations.part_interaction import (
    PartDynamicChannelMLP,
    PartDynamicSpatialMLP,
    PartSelfAttention,
)
from querypose.modeling.backbones import build_hrnet_backbone, build_swin_fpn_backbone, build_timm_fpn_backbone
from querypose.modeling.box_stage import BoxStage
from querypose.modeling.decoder import QueryPoseDecoder
from querypose.modeling.keypoint_stage import KEYPOINT_STAGE_REGISTRY, KeypointStage
from querypose.modeling.losses.keypoint_loss import KEYPOINT_LOSS_REGISTRY
from querypose.modeling.meta_arch import QueryPose
from querypose.modeling.part_division import PART_DIVISION_REGISTRY, build_part_division
from querypose.modeling.query_interaction import QUERY_INTERACTION_REGISTRY
from querypose.modeling.selective_iteration import PART_UPDATE_REGISTRY
from querypose.modeling.spegm import PART_EMBEDDING_REGISTRY

__all__ = [
    "KEYPOINT_LOSS_REGISTRY",
    "KEYPOINT_STAGE_REGISTRY",
    "PART_DIVISION_REGISTRY",
    "PART_EMBEDDING_REGISTRY",
    "PART_UPDATE_REGISTRY",
    "QUERY_INTERACTION_REGISTRY",
    "BoxStage",
    "Concatenation",
    "DynamicSpatialMLP",
    "InstanceKeypointStage",
    "KeypointStage",
    "MultiHeadSelfAttention",
    "NoIteration",
    "PartDynamicChannelMLP",
    "PartDynamicSpatialMLP",
    "PartSelfAttention",
    "PooledKeypointStage",
    "QueryPose",
    "QueryPoseDecoder",
    "SpatialAttention",
    "Summation",
    "build_hrnet_backbone",
    "build_part_division",
    "build_swin_fpn_backbone",
    "build_timm_fpn_backbone",
]
