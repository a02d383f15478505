"""Configs that cannot be are refused in one sentence that says what to do."""

import pytest
import torch
from detectron2.config import get_cfg

from querypose.config import add_querypose_config, check_config, setup_config, topk_poses
from querypose.errors import UserError

R50 = "configs/querypose_R50.yaml"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def defaults():
    cfg = get_cfg()
    add_querypose_config(cfg)
    return cfg


def test_defaults_are_valid():
    check_config(defaults())


@pytest.mark.parametrize(
    ("opts", "reason"),
    [
        (["MODEL.QUERYPOSE.VARIANT", "lite"], "MODEL.QUERYPOSE.VARIANT is 'lite'; valid are branched, full, light"),
        (["MODEL.QUERYPOSE.INITIALIZATION", "theirs"], "INITIALIZATION is 'theirs'; valid are authors, deliberate"),
        (["MODEL.QUERYPOSE.TRAIN_QUERIES", "some"], "TRAIN_QUERIES is 'some'; valid are all, matched"),
        (["TEST.EVALUATOR_BACKEND", "coco"], "EVALUATOR_BACKEND is 'coco'; valid are crowdposetools, faster-coco-eval"),
        (["MODEL.QUERYPOSE.QUERY_INTERACTION", "None"], "QUERY_INTERACTION is 'None'; valid are .*DynamicChannelMLP"),
        (["MODEL.QUERYPOSE.KEYPOINT_INTERACTION", "MLP"], "KEYPOINT_INTERACTION is 'MLP'; valid are .*Spatial"),
        (["MODEL.QUERYPOSE.KEYPOINT_STAGE", "IQ"], "KEYPOINT_STAGE is 'IQ'; valid are InstanceKeypointStage, Keyp"),
        (["MODEL.QUERYPOSE.KEYPOINT_LOSS", "rle"], "KEYPOINT_LOSS is 'rle'; valid are L1, RLE, "),
        (["MODEL.QUERYPOSE.PART_EMBEDDING", "spegm"], "PART_EMBEDDING is 'spegm'; valid are .*SPEGM"),
        (["MODEL.QUERYPOSE.PART_UPDATE", "SIM"], "PART_UPDATE is 'SIM'; valid are .*SelectiveIteration"),
        (["MODEL.QUERYPOSE.PART_DIVISION", "seven"], "PART_DIVISION is 'seven'; valid are .*per_keypoint, rigid"),
        (["MODEL.QUERYPOSE.NUM_QUERIES", "0"], "NUM_QUERIES is 0; it must be at least 1"),
        (["MODEL.QUERYPOSE.NUM_STAGES", "0"], "NUM_STAGES is 0; it must be at least 1"),
        (["MODEL.QUERYPOSE.HIDDEN_DIM", "-8"], "HIDDEN_DIM is -8; it must be at least 1"),
        (["MODEL.QUERYPOSE.PART_DIM", "0"], "PART_DIM is 0; it must be at least 1"),
        (["MODEL.QUERYPOSE.NUM_TOWER_LAYERS", "0"], "NUM_TOWER_LAYERS is 0; it must be at least 1"),
        (["MODEL.QUERYPOSE.TOWER_DIM", "0"], "TOWER_DIM is 0; it must be at least 1"),
        (["MODEL.QUERYPOSE.DYNAMIC_DIM", "0"], "DYNAMIC_DIM is 0; it must be at least 1"),
        (["MODEL.QUERYPOSE.NUM_HEADS", "7"], "HIDDEN_DIM 256 must be a multiple of NUM_HEADS 7"),
        (["MODEL.QUERYPOSE.PART_DIM", "100"], "PART_DIM 100 must be a multiple of NUM_HEADS 8"),
        (["MODEL.QUERYPOSE.PART_DIM", "6", "MODEL.QUERYPOSE.NUM_HEADS", "2"], "PART_DIM 6 must be a multiple of 4"),
        (["MODEL.FPN.OUT_CHANNELS", "128"], "OUT_CHANNELS 128 must equal MODEL.QUERYPOSE.HIDDEN_DIM 256"),
        (["MODEL.CHANNELS_LAST", "auto"], "MODEL.CHANNELS_LAST is 'auto'; valid are None"),
        (["MODEL.COMPILE", "fast"], "MODEL.COMPILE is 'fast'; valid are default, none, reduce-overhead"),
        (["SOLVER.ACCUMULATION_STEPS", "0"], "ACCUMULATION_STEPS is 0; it must be at least 1"),
        (["SOLVER.ACCUMULATION_STEPS", "3"], "ACCUMULATION_STEPS is 3; .*divide SOLVER.IMS_PER_BATCH 16"),
        (["MODEL.QUERYPOSE.NUM_HEADS", "0"], "NUM_HEADS is 0; it must be at least 1"),
        (["MODEL.QUERYPOSE.FEEDFORWARD_DIM", "0"], "FEEDFORWARD_DIM is 0; it must be at least 1"),
        (["MODEL.QUERYPOSE.BOX_POOLER_RESOLUTION", "0"], "BOX_POOLER_RESOLUTION is 0; it must be at least 1"),
        (["MODEL.QUERYPOSE.KEYPOINT_POOLER_RESOLUTION", "0"], "KEYPOINT_POOLER_RESOLUTION is 0; it must be"),
        (["MODEL.QUERYPOSE.TEST.TOPK_POSES", "-1"], "TOPK_POSES is -1; it must be 0"),
        (
            ["MODEL.QUERYPOSE.KEYPOINT_STAGE", "PooledKeypointStage"],
            "'PooledKeypointStage' has no use for .* VARIANT 'full' .*; set VARIANT to light",
        ),
        (
            ["MODEL.QUERYPOSE.KEYPOINT_STAGE", "InstanceKeypointStage", "MODEL.QUERYPOSE.VARIANT", "light"],
            "'InstanceKeypointStage' has no use for .* VARIANT 'light' .*; set VARIANT to full or branched",
        ),
        (
            ["MODEL.QUERYPOSE.AUX_ATTENTION", "True", "MODEL.QUERYPOSE.PART_EMBEDDING", "PartSelfAttention"],
            "AUX_ATTENTION needs attention maps, and PART_EMBEDDING 'PartSelfAttention' makes none; set it to",
        ),
        (
            ["MODEL.QUERYPOSE.AUX_ATTENTION", "True", "MODEL.QUERYPOSE.KEYPOINT_STAGE", "InstanceKeypointStage"],
            "AUX_ATTENTION needs attention maps, and KEYPOINT_STAGE 'InstanceKeypointStage' makes none",
        ),
        (["MODEL.QUERYPOSE.LOSS.SMOOTH_L1_BETA", "-1.0"], "SMOOTH_L1_BETA is -1.0; it must be 0 or more"),
        (["MODEL.QUERYPOSE.TEST.POSE_SCORE_FLOOR", "1.0"], "POSE_SCORE_FLOOR is 1.0; it must be 0"),
        (["MODEL.QUERYPOSE.TEST.POSE_SCORE_FLOOR", "-0.1"], "POSE_SCORE_FLOOR is -0.1; it must be 0"),
    ],
)
def test_values_that_cannot_be(opts, reason):
    cfg = defaults()
    cfg.merge_from_list(opts)
    with pytest.raises(UserError, match=reason):
        check_config(cfg)
    with pytest.raises(UserError, match=reason):
        setup_config(R50, opts)


@pytest.mark.parametrize(("variant", "default"), [("light", 30), ("full", 0)])
def test_poses_are_selected_by_default_where_that_is_exact(variant, default):
    opts = ["MODEL.QUERYPOSE.VARIANT", variant]
    assert topk_poses(setup_config(R50, opts)) == default
    for given in (0, 20):
        assert topk_poses(setup_config(R50, [*opts, "MODEL.QUERYPOSE.TEST.TOPK_POSES", str(given)])) == given


@pytest.mark.parametrize(
    ("opts", "reason"),
    [
        (["MODEL.QUERYPOSE.NUM_QUERYS", "50"], "unknown key MODEL.QUERYPOSE.NUM_QUERYS; valid there are .*NUM_QUERIES"),
        (["SOLVER.LR", "1"], "unknown key SOLVER.LR; valid there are .*BASE_LR"),
        (["MODLE.X", "1"], "unknown key MODLE.X"),
        (["SOLVER.MAX_ITER"], "odd length"),
        (["SOLVER.MAX_ITER", "many"], "Type mismatch.*MAX_ITER"),
    ],
)
def test_overrides_that_fit_no_key(opts, reason):
    with pytest.raises(UserError, match=reason) as caught:
        setup_config(R50, opts)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml' does not exist; give a file such as"):
        setup_config("nowhere.yaml")
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text("MODEL:\n  QUERYPOSE:\n    STAGES: 3\n")
    with pytest.raises(UserError, match="unknown key MODEL.QUERYPOSE.STAGES; valid there are .*NUM_STAGES"):
        setup_config(str(unknown))
    for text in ("MODEL: [", "- a\n- b\n", "just words"):
        broken = tmp_path / "broken.yaml"
        broken.write_text(text)
        with pytest.raises(UserError, match="broken.yaml"):
            setup_config(str(broken))
    base = tmp_path / "base.yaml"
    base.write_text('_BASE_: "missing.yaml"\n')
    with pytest.raises(UserError, match="base.yaml.*missing.yaml"):
        setup_config(str(base))


def test_the_skeleton_is_written_into_the_config(tmp_path):
    cfg = setup_config(R50)
    skeleton = cfg.MODEL.QUERYPOSE.SKELETON
    assert len(skeleton.KEYPOINT_NAMES) == len(skeleton.SIGMAS) == 17
    assert skeleton.KEYPOINT_NAMES[0] == "nose" and ["left_eye", "right_eye"] in skeleton.FLIP_PAIRS
    assert skeleton.SIGMAS[0] == 0.026 and [5, 7] in skeleton.LIMBS
    # what is written can be read where the data set is unknown
    file = tmp_path / "config.yaml"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    file.write_text(cfg.dump())
    assert setup_config(str(file)).MODEL.QUERYPOSE.SKELETON == skeleton


def test_a_data_set_that_is_not_known():
    with pytest.raises(UserError, match="'keypoints_coco_2016_train' is not known"):
        setup_config(R50, ["DATASETS.TRAIN", "('keypoints_coco_2016_train',)"])


@pytest.mark.parametrize(("available", "device"), [(False, "cpu"), (True, "cuda")])
def test_device_falls_to_the_cpu(monkeypatch, available, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert setup_config(R50).MODEL.DEVICE == device
    for given in ("cpu", "meta"):
        assert setup_config(R50, ["MODEL.DEVICE", given]).MODEL.DEVICE == given


def test_overrides_come_last():
    assert setup_config(R50, ["SOLVER.MAX_ITER", "12"]).SOLVER.MAX_ITER == 12


def test_norms_decay_as_the_rest_unless_told():
    assert setup_config(R50).SOLVER.WEIGHT_DECAY_NORM is None
    assert setup_config(R50, ["SOLVER.WEIGHT_DECAY_NORM", "0.0"]).SOLVER.WEIGHT_DECAY_NORM == 0.0


def test_detectron2_s_own_defaults_stay():
    assert get_cfg().INPUT.FORMAT == "BGR" and "QUERYPOSE" not in get_cfg().MODEL
