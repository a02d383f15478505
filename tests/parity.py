"""The small models whose outputs the authors' code computed, rebuilt here (shared/parity)."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, Keypoints
from load_tool import load_file

from querypose import add_querypose_config
from querypose.conversion.authors import convert_authors_weights
from querypose.data import skeleton_of
from querypose.modeling import QueryPose, build_part_division
from querypose.skeleton import Skeleton

# recorded names of the authors' tensors (keys_NAME.json) -> the config that they belong to
LAYOUTS = {
    "R50_full": "R50",
    "R50_light": "light_R50",
    "W32_light": "light_HRNet-W32",
    "W48_full": "HRNet-W48",
    "swinL_full": "Swin-L",
}


@dataclass
class Parity:
    """A model of ours with the authors' (made-up) weights, and what their code computes with them."""

    model: QueryPose
    skeleton: Skeleton
    part_of_keypoint: list[int]
    figures: dict[str, np.ndarray]
    matches: list
    losses: dict[str, float]
    grad_norms: dict[str, float]

    def inputs(self, training: bool) -> list[dict]:
        inputs = []
        for index in (1, 2):
            image = torch.from_numpy(self.figures[f"image{index}"])
            height, width = image.shape[1:]
            entry = {"image": image, "height": height, "width": width}
            if training:
                instances = Instances((height, width))
                instances.gt_boxes = Boxes(torch.from_numpy(self.figures[f"gt{index}_boxes"]))
                instances.gt_keypoints = Keypoints(self.figures[f"gt{index}_keypoints"])
                entry["instances"] = instances
            elif index == 1:
                entry |= {"height": 2 * height, "width": 2 * width}
            inputs.append(entry)
        return inputs


def tiny_config(variant: str) -> CfgNode:
    cfg = get_cfg()
    add_querypose_config(cfg)
    cfg.DATASETS.TRAIN = ("keypoints_coco_2017_train",)
    cfg.MODEL.DEVICE = "cpu"
    # another layout adds up in another order, by enough to switch a ReLU near its kink
    cfg.MODEL.CHANNELS_LAST = False
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = True
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 64
    sizes = {"HIDDEN_DIM": 64, "FEEDFORWARD_DIM": 128, "DYNAMIC_DIM": 16, "PART_DIM": 32}
    sizes |= {"NUM_STAGES": 3, "NUM_QUERIES": 12, "NUM_TOWER_LAYERS": 3, "TOWER_DIM": 128}
    cfg.MODEL.QUERYPOSE.update({"VARIANT": variant, **sizes})
    return cfg


def load_parity(folder: Path, variant: str) -> Parity:
    weights = load_file(folder / "parity/deterministic_weights.py")
    record = json.loads((folder / f"parity/tiny_{variant}.json").read_text())
    figures = dict(np.load(folder / f"parity/tiny_{variant}.npz"))
    authors_state = weights.make_state_dict(record["state_dict"], box_gain=record["config"]["box_gain"])

    cfg = tiny_config(variant)
    model = build_model(cfg)
    skeleton = skeleton_of(cfg)
    part_of_keypoint = build_part_division(skeleton, "rigid")
    state, _ = convert_authors_weights(authors_state)
    model.load_state_dict(state, strict=True)
    matches, losses, grad_norms = (record[key] for key in ("matches", "losses", "grad_norms"))
    return Parity(model, skeleton, part_of_keypoint, figures, matches, losses, grad_norms)
