"""The model: `meta_arch -> decoder -> box stage / keypoint stage -> parts`.

Shape letters, used in every docstring of this package:

    B images in a batch            N queries per image (persons that can be found)
    S stages of the decoder        M parts of a person      K keypoints of a person
    R person regions (rows): the queries of all images in one flat list, or those of them that a step keeps
    P persons in the ground truth of an image (padded to the most of the batch)
    d width of an instance query   dp width of a part query
"""

from querypose.modeling import ablations as ablations  # registers its classes
from querypose.modeling import backbones as backbones
from querypose.modeling.decoder import QueryPoseDecoder as QueryPoseDecoder
from querypose.modeling.keypoint_stage import KEYPOINT_STAGE_REGISTRY as KEYPOINT_STAGE_REGISTRY
from querypose.modeling.losses.keypoint_loss import KEYPOINT_LOSS_REGISTRY as KEYPOINT_LOSS_REGISTRY
from querypose.modeling.meta_arch import QueryPose as QueryPose
from querypose.modeling.part_division import PART_DIVISION_REGISTRY as PART_DIVISION_REGISTRY
from querypose.modeling.part_division import build_part_division as build_part_division
from querypose.modeling.query_interaction import QUERY_INTERACTION_REGISTRY as QUERY_INTERACTION_REGISTRY
from querypose.modeling.selective_iteration import PART_UPDATE_REGISTRY as PART_UPDATE_REGISTRY
from querypose.modeling.spegm import PART_EMBEDDING_REGISTRY as PART_EMBEDDING_REGISTRY
