"""Which QueryPose an authors' checkpoint holds, by the shapes of its tensors."""

from collections.abc import Mapping

from detectron2.data import MetadataCatalog
from torch import Tensor

from querypose.conversion.backbones import hrnet_settings, swin_settings
from querypose.conversion.layout import BOTTOM_UP, number_of, shape_of
from querypose.errors import UserError
from querypose.modeling.part_division import PART_DIVISION_REGISTRY, build_part_division
from querypose.skeleton import Skeleton

# patterns of how the names of a stage's tensors begin
BOX = r"head\.head_series\.\d+"
POSE = r"head\.pose_head_series\.\d+"


def find_division(state_dict: Mapping[str, Tensor], path: str) -> tuple[str, list[int]]:
    """The part division, by name and as the part of each keypoint, that the sizes of the part heads belong to."""
    head = rf"{POSE}\.fc_(?:coord|sigma)\.{{}}\.linear\.weight"
    number = number_of(state_dict, head.format(r"(\d+)"))
    sizes = [shape_of(state_dict, head.format(part), 2)[0] // 2 for part in range(number)]
    skeleton = Skeleton.from_metadata(MetadataCatalog.get("keypoints_coco_2017_train"))
    for division, _ in PART_DIVISION_REGISTRY:
        part_of_keypoint = build_part_division(skeleton, division)
        if [part_of_keypoint.count(part) for part in range(max(part_of_keypoint) + 1)] == sizes:
            return division, part_of_keypoint
    raise UserError(f"the checkpoint {path} has parts of {sizes} keypoints, which is not a part division of Figure 4")


def head_settings(state_dict: Mapping[str, Tensor]) -> dict[str, object]:
    """Config values of the decoder, but for what shapes do not tell: attention heads, the light variant's regions."""
    num_queries, dim = shape_of(state_dict, r"init_proposal_features\.weight", 2)
    tokens = shape_of(state_dict, rf"{BOX}\.inst_interact\.out_layer\.weight", 2)[1] // dim
    full = any(".pose_decoder_inst_interact." in name for name in state_dict)
    settings: dict[str, object] = {
        "MODEL.FPN.OUT_CHANNELS": dim,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": round(tokens**0.5),
        "MODEL.QUERYPOSE.VARIANT": "full" if full else "light",
        "MODEL.QUERYPOSE.NUM_QUERIES": num_queries,
        "MODEL.QUERYPOSE.NUM_STAGES": number_of(state_dict, r"head\.(?:pose_)?head_series\.(\d+)\..+"),
        "MODEL.QUERYPOSE.HIDDEN_DIM": dim,
        "MODEL.QUERYPOSE.PART_DIM": shape_of(state_dict, r"part_query\.weight", 2)[1],
        "MODEL.QUERYPOSE.FEEDFORWARD_DIM": shape_of(state_dict, rf"{BOX}\.linear1\.weight", 2)[0],
        "MODEL.QUERYPOSE.DYNAMIC_DIM": shape_of(state_dict, rf"{BOX}\.inst_interact\.norm1\.weight", 1)[0],
        "MODEL.QUERYPOSE.NUM_TOWER_LAYERS": (number_of(state_dict, rf"{POSE}\.inst_convs\.(\d+)\..+") + 1) // 2,
        "MODEL.QUERYPOSE.TOWER_DIM": shape_of(state_dict, rf"{POSE}\.inst_convs\.0\.weight", 4)[0],
    }
    if full:
        tokens = shape_of(state_dict, rf"{POSE}\.pose_decoder_inst_interact\.out_layer\.weight", 2)[1] // dim
        settings["MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION"] = round(tokens**0.5)
    return settings


def backbone_settings(state_dict: Mapping[str, Tensor], path: str) -> dict[str, object]:
    """Config values of the backbone and its neck."""
    bottom_up = {name.removeprefix(BOTTOM_UP): t for name, t in state_dict.items() if name.startswith(BOTTOM_UP)}
    if "transition1.0.0.weight" in bottom_up:
        neck = "lateral" if any(name.startswith("backbone.lateral_conv.") for name in state_dict) else "pooled"
        return {**hrnet_settings(bottom_up), "MODEL.HRNET.NECK": neck}
    if "patch_embed.proj.weight" in bottom_up:
        return swin_settings(bottom_up)
    if "stem.conv1.weight" in bottom_up:
        return _resnet_settings(bottom_up)
    raise UserError(f"the checkpoint {path} has a backbone that is neither Detectron2's ResNet nor HRNet nor Swin")


def _resnet_settings(bottom_up: Mapping[str, Tensor]) -> dict[str, object]:
    blocks = tuple(number_of(bottom_up, rf"res{stage}\.(\d+)\..+") for stage in (2, 3, 4, 5))
    bottleneck = "res2.0.conv3.weight" in bottom_up
    depths = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 50, (3, 4, 23, 3): 101}
    if blocks not in depths:
        raise UserError(f"the ResNet has {blocks} blocks in its stages, not those of ResNet-18, -50 or -101")
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.DEPTH": depths[blocks],
        "MODEL.RESNETS.RES2_OUT_CHANNELS": shape_of(bottom_up, rf"res2\.0\.conv{3 if bottleneck else 2}\.weight", 4)[0],
        "MODEL.RESNETS.NORM": "BN" if any(name.endswith("num_batches_tracked") for name in bottom_up) else "FrozenBN",
    }
