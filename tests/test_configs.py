"""Every config that is shipped loads, says what its name says and makes a model; each backbone trains and predicts."""

from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from tiny_model import tiny_batch

from querypose.config import add_querypose_config
from querypose.setup_config import setup_config

FOLDER = Path(__file__).resolve().parents[1] / "configs"
CONFIGS = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yaml") if "Base" not in path.name)


def load(name):
    """The config; COCO for one without data sets."""
    raw = get_cfg()
    add_querypose_config(raw)
    raw.merge_from_file(str(FOLDER / name))
    return setup_config(
        str(FOLDER / name), [] if raw.DATASETS.TRAIN else ["DATASETS.TRAIN", "('keypoints_coco_2017_train',)"]
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_loads(name):
    cfg = load(name)
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        assert cfg.SOLVER.MAX_ITER > max(cfg.SOLVER.STEPS) > min(cfg.SOLVER.STEPS) > cfg.SOLVER.WARMUP_ITERS
    assert "/" not in cfg.OUTPUT_DIR[:1], "an absolute path"
    if Path(name).name.startswith("querypose_"):
        light = "querypose_light" in name or name == "querypose_small.yaml"
        assert cfg.MODEL.QUERYPOSE.VARIANT == ("light" if light else "full")


PAPER_CONFIGS = [name for name in CONFIGS if name.startswith("querypose_") and name != "querypose_small.yaml"]


@pytest.mark.parametrize("name", PAPER_CONFIGS)
def test_the_paper_s_numbers(name):
    cfg = load(name)
    config, solver = cfg.MODEL.QUERYPOSE, cfg.SOLVER
    assert (config.NUM_QUERIES, config.NUM_STAGES, config.HIDDEN_DIM, config.PART_DIM) == (100, 6, 256, 128)
    assert len(config.PART_GROUPS) == 7
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.WEIGHT_DECAY, solver.IMS_PER_BATCH) == ("ADAMW", 2.5e-5, 1e-4, 16)
    assert (solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.GAMMA) == (1000, 0.01, 0.1)
    assert solver.CLIP_GRADIENTS.ENABLED and solver.CLIP_GRADIENTS.CLIP_VALUE == 1.0
    schedule = (140000, (110000, 130000)) if name.endswith("_1x.yaml") else (280000, (220000, 260000))
    assert (solver.MAX_ITER, tuple(solver.STEPS)) == schedule
    assert tuple(cfg.INPUT.MIN_SIZE_TRAIN) == tuple(range(480, 801, 32)) and cfg.INPUT.MAX_SIZE_TRAIN == 1333
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)
    assert cfg.INPUT.FORMAT == "RGB" and cfg.INPUT.CROP.SIZE == [384, 600]


@pytest.mark.parametrize("backbone", ["R50", "HRNet-W48", "Swin-L"])
def test_crowdpose(backbone):
    cfg = load(f"crowdpose/querypose_{backbone}.yaml")
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("crowdpose_trainval",), ("crowdpose_test",))
    assert len(cfg.MODEL.QUERYPOSE.SKELETON.KEYPOINT_NAMES) == 14 and len(cfg.MODEL.QUERYPOSE.PART_GROUPS) == 7
    # all but data, parts and schedule is as in COCO's config
    coco = load(f"querypose_{backbone}.yaml")
    for node in (cfg, coco):
        node.DATASETS, node.SOLVER.STEPS, node.SOLVER.MAX_ITER, node.TEST.EVAL_PERIOD = None, None, None, None
        node.MODEL.QUERYPOSE.SKELETON, node.MODEL.QUERYPOSE.PART_GROUPS, node.OUTPUT_DIR = None, None, None
    assert cfg == coco


# Keypoint R-CNN is another model (tests/test_minicoco.py); ablations are built in test_ablation_configs.py
ELSEWHERE = ("ablations", "eval", "50_queries", "querypose_", "minicoco/key", "synthetic_people/key")
BUILT = [name for name in CONFIGS if not name.startswith(ELSEWHERE)] + ["querypose_small.yaml"]


@pytest.mark.parametrize("name", BUILT)
def test_makes_a_model(name):
    cfg = load(name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    names = dict(model.named_parameters())
    assert len(names["decoder.instance_queries.weight"]) == cfg.MODEL.QUERYPOSE.NUM_QUERIES
    full = cfg.MODEL.QUERYPOSE.VARIANT == "full"
    assert any("instance_interaction" in name for name in names) is full


@pytest.mark.parametrize(
    "name", ["R50", "HRNet-W32", "Swin-T", pytest.param("light_HRNet-W48", marks=pytest.mark.slow)]
)
def test_one_training_step_and_one_inference(name):
    cfg = setup_config(str(FOLDER / f"querypose_{name}.yaml"), ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    cfg.MODEL.QUERYPOSE.update(NUM_STAGES=1, TOWER_DIM=32, NUM_QUERIES=4)
    model = build_model(cfg).train()
    inputs = tiny_batch(sizes=((64, 64), (48, 64)))
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}

    losses = model(inputs)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [key for key, parameter in trained.items() if parameter.grad is None] == []
    for part in ("backbone.bottom_up.", "decoder.keypoint_stages.0.tower"):
        assert any(parameter.grad.any() for key, parameter in trained.items() if key.startswith(part))
    with torch.no_grad():
        results = model.eval()([{"image": entry["image"]} for entry in inputs], do_postprocess=False)
    for instances in results:
        assert instances.pred_keypoints.shape == (4, 17, 3) and instances.pred_keypoints.isfinite().all()
        assert instances.scores.isfinite().all() and instances.pred_boxes.tensor.isfinite().all()
