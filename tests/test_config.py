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
from querypose.modeling.meta_arch import topk_poses
from querypose.setup_config import setup_config

R50 = "configs/querypose_R50.yaml"
PARTS = "MODEL.QUERYPOSE.PART_DIVISION"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_defaults_are_valid():
    cfg = get_cfg()
    add_querypose_config(cfg)
    check_config(cfg)


def test_number_of_keys():
    """Keys are what a user has to read: a new one takes the place of another."""
    plain, cfg = get_cfg(), get_cfg()
    add_querypose_config(cfg)
    assert len(dict(leaves(cfg)).keys() - dict(leaves(plain)).keys()) <= 65


@pytest.mark.parametrize(("variant", "default"), [("light", 30), ("full", 0)])
def test_poses_are_selected_by_default_where_that_is_exact(variant, default):
    opts = ["MODEL.QUERYPOSE.VARIANT", variant]
    assert topk_poses(setup_config(R50, opts)) == default
    for given in (0, 20):
        assert topk_poses(setup_config(R50, [*opts, "MODEL.QUERYPOSE.TEST.TOPK_POSES", str(given)])) == given


COCO_VAL = ("keypoints_coco_2017_val",)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("SOLVER.MAX_ITER", "12", 12),
        ("SOLVER.MAX_ITER", "4e3", 4000),
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
        ("DATASETS.TEST", "(keypoints_coco_2017_val,)", COCO_VAL),
        ("DATASETS.TEST", "keypoints_coco_2017_val", COCO_VAL),
    ],
)
def test_values_take_the_kind_of_their_default(key, text, value):
    names = ["MODEL.QUERYPOSE.SKELETON.KEYPOINT_NAMES", "['a']"] if "SIGMAS" in key else []
    found = dict(leaves(setup_config(R50, [key, text, *names])))[key]
    assert found == value and type(found) is type(value)


def test_values_of_a_file_take_the_kind_of_their_default(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "SOLVER: {BASE_LR: 1, WEIGHT_DECAY: 1e-3}\nDATASETS: {TRAIN: keypoints_coco_2017_val}\nOUTPUT_DIR: 2024\n"
        "MODEL: {TIMM: {OPTIONS: {channels: [8, 8, 16, 16]}}}"
    )
    cfg = setup_config(str(file))
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.OUTPUT_DIR) == (1.0, 0.001, "2024")
    assert cfg.DATASETS.TRAIN == COCO_VAL and cfg.MODEL.TIMM.OPTIONS.channels == [8, 8, 16, 16]


def test_extensions_add_keys():
    def add_keys(cfg):
        cfg.MODEL.QUERYPOSE.MINE = 1.0

    with pytest.raises(UserError, match="unknown key MODEL.QUERYPOSE.MINE"):
        setup_config(R50, ["MODEL.QUERYPOSE.MINE", "2"])
    assert setup_config(R50, ["MODEL.QUERYPOSE.MINE", "2"], add_keys).MODEL.QUERYPOSE.MINE == 2.0


def test_skeleton_and_parts_are_stored(tmp_path):
    cfg = setup_config(R50)
    skeleton, groups = cfg.MODEL.QUERYPOSE.SKELETON, cfg.MODEL.QUERYPOSE.PART_GROUPS
    assert len(skeleton.KEYPOINT_NAMES) == len(skeleton.SIGMAS) == 17
    assert skeleton.KEYPOINT_NAMES[0] == "nose" and ["left_eye", "right_eye"] in skeleton.FLIP_PAIRS
    assert skeleton.SIGMAS[0] == 0.026 and [5, 7] in skeleton.LIMBS
    assert len(groups) == 7 and groups[1] == ["left_shoulder", "right_shoulder"]
    # what is stored can be read where the data set is unknown
    file = tmp_path / "config.yaml"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    file.write_text(cfg.dump())
    again = setup_config(str(file)).MODEL.QUERYPOSE
    assert again.SKELETON == skeleton and again.PART_GROUPS == groups


@pytest.mark.parametrize("division", ["per_keypoint", "rigid"])
def test_another_division_on_a_stored_one(tmp_path, division):
    """Other parts are refused, by the model as well."""
    cfg = setup_config(R50)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    opts = [str(tmp_path / "config.yaml"), [PARTS, division]]
    plain = tiny_config("light", "MODEL.QUERYPOSE.PART_GROUPS", cfg.MODEL.QUERYPOSE.PART_GROUPS, PARTS, division)
    if division == "per_keypoint":
        with pytest.raises(UserError, match="other parts than PART_DIVISION 'per_keypoint' makes; set PART_GROUPS"):
            setup_config(*opts)
        with pytest.raises(UserError, match="other parts than PART_DIVISION 'per_keypoint' makes"):
            build_model(plain)
        opts[1] += ["MODEL.QUERYPOSE.PART_GROUPS", "[]"]
        assert len(setup_config(*opts).MODEL.QUERYPOSE.PART_GROUPS) == 17
    else:
        assert setup_config(*opts).MODEL.QUERYPOSE.PART_GROUPS == cfg.MODEL.QUERYPOSE.PART_GROUPS
        assert build_model(plain).decoder.part_queries.num_embeddings == 7


@pytest.mark.parametrize(("available", "device"), [(False, "cpu"), (True, "cuda")])
def test_device_falls_back_to_the_cpu(monkeypatch, available, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert setup_config(R50).MODEL.DEVICE == device
    for given in ("cpu", "meta"):
        assert setup_config(R50, ["MODEL.DEVICE", given]).MODEL.DEVICE == given


def test_files_of_values_round_trip(tmp_path):
    """What a run writes into its folder gives the same config."""
    cfg = setup_config("configs/quickstart.yaml")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = setup_config(str(tmp_path / "config.yaml"))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
