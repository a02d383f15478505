"""Every row of the ablations: its difference in the model, a training step, an inference."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from tiny_model import person_boxes, tiny_batch

from querypose.config_checks import leaves
from querypose.setup_config import setup_config

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "configs/ablations"
ROWS = sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.glob("*/*.yaml"))
BASE = ROOT / "configs/querypose_R50_1x.yaml"

# The whole model with the paper's sizes; tests/test_backbone_configs.py has where these come from.
FULL, LIGHT = 322_541_640, 188_623_176
STAGES = 6
D, DP, M, K, HIDDEN = 256, 128, 7, 17, 2048
FLOW = 6 * 2 * (2 * 64 + 64 + 64 * 64 + 64 + 64 * 2 + 2)
# the parts of one keypoint stage
STEP_2 = (FULL - LIGHT) // STAGES
CHANNEL_MLP = 21_267_840
SPEGM = 1_098_119
INSTANCE_TO_PART = M * DP * (D + 1)


def sim(dp):
    return dp // 4 * dp + 2 * (dp // 4) + 2 * dp * (dp // 4 + 1)


def part_blocks(dp):
    return 4 * dp * (dp + 1) + 2 * dp + HIDDEN * (dp + 1) + dp * (HIDDEN + 1) + 2 * dp


def heads(width, sigma=True):
    return K * 2 * (width + 1) * (1 + sigma)


SIM = sim(DP)
PART_MACHINERY = SPEGM + SIM + INSTANCE_TO_PART + part_blocks(DP) + heads(DP)
DIRECT = FULL - STAGES * (PART_MACHINERY - heads(D)) - M * DP  # keypoints from an instance query
NO_SIM = FULL - STAGES * SIM


def part_dim(dp):
    """Parameters that depend on the width of part queries."""
    spegm = dp * (D + 1)
    return STAGES * (spegm + sim(dp) + M * dp * (D + 1) + part_blocks(dp) + heads(dp)) + M * dp


def parts(number):
    return FULL + (number - M) * (STAGES * (9 * D + 1 + DP * (D + 1)) + DP)


STAGE = 11_634_048 + 2 * D + 4 * D * (D + 1) + 2 * D + HIDDEN * (D + 1) + D * (HIDDEN + 1) + 2 * D  # box stage
STAGE += 4 * (D * D + 2 * D) + (D + 1) + 4 * (D + 1)
TOWER = (D * 512 + 4 * 512 * 512 + 512 * D) * 9 + 5 * 512 + D
STAGE += TOWER + STEP_2 + PART_MACHINERY

PARAMETERS = {
    "table1/instance_mhsa": DIRECT + STAGES * (4 * D * (D + 1) - CHANNEL_MLP),
    "table1/instance_dynamic_channel": DIRECT,
    "table1/instance_dynamic_spatial": DIRECT + STAGES * (2 * 64 * (196 - 256) * (D + 1) + 2 * (196 - 256)),
    "table1/instance_spatial_attention": DIRECT + STAGES * (1_117_185 - CHANNEL_MLP),
    "table1/part_mhsa": NO_SIM + STAGES * (DP * (D + 1) + 4 * DP * (DP + 1) - SPEGM),
    "table1/part_dynamic_channel": NO_SIM + STAGES * (10_650_624 - SPEGM),
    "table1/part_dynamic_spatial": NO_SIM + STAGES * (9_659_784 - SPEGM),
    "table1/part_spegm": NO_SIM,
    "table2a/none": NO_SIM,
    "table2a/summation": NO_SIM,
    "table2a/concatenation": NO_SIM + STAGES * (2 * DP + 1) * DP,
    "table2a/selective": FULL,
    "table2b/baseline": LIGHT - STAGES * (PART_MACHINERY - heads(D)) - M * DP,
    "table2b/spegm": NO_SIM,
    "table2b/sim": FULL,
    "table2b/spegm_light": LIGHT - STAGES * SIM,
    **{f"table2c/{dp}": FULL - part_dim(DP) + part_dim(dp) for dp in (32, 64, 128, 256)},
    "table2d/a_17_parts": parts(17),
    "table2d/b_13_parts": parts(13),
    "table2d/c_7_parts": FULL,
    "table2d/d_5_parts": parts(5),
    "table3/figure_3a": FULL,
    "table3/figure_3b": FULL,
    "table3/light": LIGHT,
    "regression_loss/rle": FULL,
    "regression_loss/rle_without_flow": FULL - FLOW,
    "regression_loss/l1": FULL - FLOW - STAGES * heads(DP, sigma=False),
    "regression_loss/smooth_l1": FULL - FLOW - STAGES * heads(DP, sigma=False),
    **{f"stages/{number}": FULL - (STAGES - number) * STAGE for number in range(1, 7)},
    **{f"queries/{number}": FULL + (number - 100) * (D + 4) for number in (25, 50, 100, 300)},
}

pytestmark = pytest.mark.slow


def load(row, *opts):
    return setup_config(str(FOLDER / f"{row}.yaml"), [str(value) for value in opts])


@pytest.mark.parametrize("row", ROWS)
def test_number_of_parameters_at_the_paper_s_size(row):
    """Counted by formula above from the parts that the row claims to have."""
    with torch.device("meta"):
        # equal stages: one of them tells the rest
        small = build_model(load(row, "MODEL.DEVICE", "meta", "MODEL.QUERYPOSE.NUM_STAGES", 1))
    count = sum(parameter.numel() for parameter in small.parameters())
    stage = sum(
        parameter.numel()
        for stages in (small.decoder.box_stages, small.decoder.keypoint_stages)
        for parameter in stages.parameters()
    )
    number = load(row).MODEL.QUERYPOSE.NUM_STAGES
    assert count + (number - 1) * stage == PARAMETERS[row]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_changes_the_model_alone(row):
    ours, base = dict(leaves(load(row))), dict(leaves(setup_config(str(BASE))))
    # parts by what they are, not by the name of their division
    changed = {key for key in base if ours[key] != base[key]} - {"MODEL.QUERYPOSE.PART_DIVISION"}
    allowed = {
        "VARIANT", "KEYPOINT_STAGE", "KEYPOINT_INTERACTION", "PART_EMBEDDING", "PART_UPDATE", "PART_DIM",
        "PART_GROUPS", "KEYPOINT_LOSS", "LOSS.KEYPOINT_WEIGHT", "NUM_STAGES", "NUM_QUERIES",
    }  # fmt: skip
    assert changed <= {f"MODEL.QUERYPOSE.{key}" for key in allowed}
    same_as_the_base = {"2a/selective", "2b/sim", "2c/128", "2d/c_7_parts", "3/figure_3b"}
    same_as_the_base = {f"table{name}" for name in same_as_the_base}
    same_as_the_base |= {"regression_loss/rle", "stages/6", "queries/100"}
    assert (not changed) == (row in same_as_the_base)


TINY = {
    "MODEL.WEIGHTS": "", "MODEL.DEVICE": "cpu", "MODEL.BACKBONE.NAME": "build_timm_fpn_backbone",
    "MODEL.TIMM.NAME": "resnet18", "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 5, "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": 6,
}  # fmt: skip
TINY_QUERYPOSE = {
    "HIDDEN_DIM": 16, "NUM_HEADS": 4, "FEEDFORWARD_DIM": 32, "DYNAMIC_DIM": 4,
    "NUM_TOWER_LAYERS": 2, "TOWER_DIM": 16,
}  # fmt: skip


def tiny_row(row):
    """The row's model, shrunk where the row does not say otherwise, with weights that any two rows share by name."""
    cfg = load(row)
    cfg.merge_from_list([item for pair in TINY.items() for item in pair])
    cfg.MODEL.TIMM.OPTIONS.channels = [8, 8, 16, 16]
    config = cfg.MODEL.QUERYPOSE
    for key, value in TINY_QUERYPOSE.items():
        config[key] = value
    if not row.startswith("table2c"):
        config.PART_DIM = 16
    if not row.startswith("stages"):
        config.NUM_STAGES = 2
    if not row.startswith("queries"):
        config.NUM_QUERIES = 6
    model = build_model(cfg)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            seed = sum(ord(letter) * (index + 1) for index, letter in enumerate(name))
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_(0.1 * noise + ("norm" in name and name.endswith("weight")))
        weight = model.decoder.proposal_boxes.weight
        corners = person_boxes(len(weight), 1, 1, torch.Generator().manual_seed(3))
        weight[:, :2], weight[:, 2:] = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return model


@pytest.fixture(scope="module")
def outputs():
    """Of each row what the losses and the persons of one batch are; made once."""
    made = {}

    def run(row):
        if row not in made:
            torch.manual_seed(0)
            model = tiny_row(row).train()
            losses = model(tiny_batch())
            sum(losses.values()).backward()
            lacking = [name for name, parameter in model.named_parameters() if parameter.grad is None]
            with torch.no_grad():
                persons = model.eval()(tiny_batch(), do_postprocess=False)
            made[row] = model, {name: value.item() for name, value in losses.items()}, lacking, persons
        return made[row]

    return run


@pytest.mark.parametrize("row", ROWS)
def test_a_training_step_and_an_inference(row, outputs):
    model, losses, lacking, persons = outputs(row)
    assert all(value == value and abs(value) < 1e5 for value in losses.values())
    assert lacking == [], "every parameter takes part, as distributed training expects"
    number = load(row).MODEL.QUERYPOSE.NUM_QUERIES if row.startswith("queries") else 6
    for instances in persons:
        assert len(instances) == min(number, 100)
        assert instances.pred_keypoints.shape[1:] == (17, 3) and instances.pred_keypoints.isfinite().all()
        assert ((instances.scores > 0) & (instances.scores < 1)).all()


NEIGHBORS = [
    ("table1/part_mhsa", "table1/part_spegm"),
    ("table1/part_dynamic_channel", "table1/part_dynamic_spatial"),
    ("table1/instance_mhsa", "table1/instance_dynamic_channel"),
    ("table1/instance_dynamic_spatial", "table1/instance_spatial_attention"),
    ("table1/instance_mhsa", "table1/part_mhsa"),
    ("table2a/none", "table2a/summation"),
    ("table2a/summation", "table2a/concatenation"),
    ("table2a/concatenation", "table2a/selective"),
    ("table2b/baseline", "table2b/spegm_light"),
    ("table2b/spegm_light", "table2b/spegm"),
    ("table2b/spegm", "table2b/sim"),
    ("table2c/32", "table2c/64"),
    ("table2c/128", "table2c/256"),
    ("table2d/a_17_parts", "table2d/b_13_parts"),
    ("table2d/c_7_parts", "table2d/d_5_parts"),
    ("table3/figure_3a", "table3/figure_3b"),
    ("table3/figure_3a", "table3/light"),
    ("regression_loss/l1", "regression_loss/rle"),
    ("stages/1", "stages/2"),
    ("queries/25", "queries/50"),
]


@pytest.mark.parametrize(("row", "neighbor"), NEIGHBORS)
def test_a_row_computes_something_else_than_its_neighbor(row, neighbor, outputs):
    first, second = (outputs(name)[3][0] for name in (row, neighbor))
    assert len(first) != len(second) or (first.pred_keypoints - second.pred_keypoints).abs().max() > 1e-2


EVALUATIONS = sorted(str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs/eval").glob("*/*.yaml"))


@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluation_configs(name):
    table, backbone = Path(name).parent.name, Path(name).stem
    base = ROOT / ("configs/crowdpose" if table == "table6" else "configs") / f"querypose_{backbone}.yaml"
    cfg, trained = setup_config(str(ROOT / "configs" / name)), setup_config(str(base))
    tests = {"table4": "keypoints_coco_2017_val", "table5": "keypoints_coco_2017_test-dev", "table6": "crowdpose_test"}
    assert cfg.DATASETS.TEST == (tests[table],)
    assert cfg.MODEL == trained.MODEL and cfg.INPUT == trained.INPUT, "the weights fit, single scale"
