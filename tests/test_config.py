"""What `setup_config` makes of files and overrides; the invalid ones are in bad_inputs.py."""

import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from tiny_model import tiny_config

from querypose.config import add_querypose_config
from querypose.config_checks import check_config, leaves
from querypose.errors import UserError
from querypose.setup_config import setup_config

R50 = "configs/querypose_R50.yaml"
PARTS = "MODEL.QUERYPOSE.PART_DIVISION"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_defaults_are_valid_and_few():
    """Keys are what a user has to read: a new one takes the place of another."""
    plain, cfg = get_cfg(), get_cfg()
    add_querypose_config(cfg)
    check_config(cfg)
    assert len(dict(leaves(cfg)).keys() - dict(leaves(plain)).keys()) <= 65


COCO_VAL = ("keypoints_coco_2017_val",)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("SOLVER.MAX_ITER", "12", 12),
        ("SOLVER.BASE_LR", "1", 1.0),
        ("SOLVER.WEIGHT_DECAY_NORM", "0.0", 0.0),
        ("SOLVER.STEPS", "()", ()),
        ("INPUT.MIN_SIZE_TRAIN", "640", (640,)),
        ("OUTPUT_DIR", "2024", "2024"),
        ("MODEL.QUERYPOSE.SKELETON.SIGMAS", "(0.1,)", [0.1]),
        ("MODEL.QUERYPOSE.TEST.TOPK_POSES", "None", None),
        ("MODEL.CHANNELS_LAST", "True", True),
        ("DATASETS.TEST", "['keypoints_coco_2017_val']", COCO_VAL),
        ("DATASETS.TEST", "('keypoints_coco_2017_val')", COCO_VAL),
        ("DATASETS.TEST", "keypoints_coco_2017_val", COCO_VAL),
    ],
)
def test_values_take_the_kind_of_their_default(key, text, value):
    names = ["MODEL.QUERYPOSE.SKELETON.KEYPOINT_NAMES", "['a']"] if "SIGMAS" in key else []
    found = dict(leaves(setup_config(R50, [key, text, *names])))[key]
    assert found == value and type(found) is type(value)


def test_values_of_a_file_take_the_kind_of_their_default(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("SOLVER: {BASE_LR: 1, WEIGHT_DECAY: 1e-3}\nMODEL: {TIMM: {OPTIONS: {channels: [8, 8, 16, 16]}}}")
    cfg = setup_config(str(file), ["DATASETS.TRAIN", COCO_VAL[0]])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == (1.0, 0.001) and type(cfg.SOLVER.BASE_LR) is float
    assert cfg.MODEL.TIMM.OPTIONS.channels == [8, 8, 16, 16]


def test_skeleton_and_parts_are_stored(tmp_path):
    cfg = setup_config(R50)
    skeleton, groups = cfg.MODEL.QUERYPOSE.SKELETON, cfg.MODEL.QUERYPOSE.PART_GROUPS
    assert len(skeleton.KEYPOINT_NAMES) == len(skeleton.SIGMAS) == 17
    assert skeleton.KEYPOINT_NAMES[0] == "nose" and ["left_eye", "right_eye"] in skeleton.FLIP_PAIRS
    assert skeleton.SIGMAS[0] == 0.026 and [5, 7] in skeleton.LIMBS
    assert len(groups) == 7 and groups[1] == ["left_shoulder", "right_shoulder"]
    # what a run writes into its folder gives the same config, where the data set is unknown, too
    file = tmp_path / "config.yaml"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    file.write_text(cfg.dump())
    assert yaml.safe_load(setup_config(str(file)).dump()) == yaml.safe_load(cfg.dump())
    # another division of the same parts is fine, other parts are refused
    assert setup_config(str(file), [PARTS, "rigid"]).MODEL.QUERYPOSE.PART_GROUPS == groups
    with pytest.raises(UserError, match="other parts than PART_DIVISION 'per_keypoint' makes; set PART_GROUPS"):
        setup_config(str(file), [PARTS, "per_keypoint"])
    emptied = setup_config(str(file), [PARTS, "per_keypoint", "MODEL.QUERYPOSE.PART_GROUPS", "[]"])
    assert len(emptied.MODEL.QUERYPOSE.PART_GROUPS) == 17
    with pytest.raises(UserError, match="other parts than PART_DIVISION 'per_keypoint' makes"):
        build_model(tiny_config("light", "MODEL.QUERYPOSE.PART_GROUPS", groups, PARTS, "per_keypoint"))


@pytest.mark.parametrize(("available", "device"), [(False, "cpu"), (True, "cuda")])
def test_device_falls_back_to_the_cpu(monkeypatch, available, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert setup_config(R50).MODEL.DEVICE == device
    for given in ("cpu", "meta"):
        assert setup_config(R50, ["MODEL.DEVICE", given]).MODEL.DEVICE == given
