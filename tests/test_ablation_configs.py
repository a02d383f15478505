"""Every row of the ablations: its difference in the model, a training step, an inference."""

import functools
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from tiny_model import NUM_QUERIES, gradients_of, person_boxes, tiny_batch, tiny_config

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


def heads(width, sigma=True):
    return K * 2 * (width + 1) * (1 + sigma)


def sim(dp):
    return dp // 4 * dp + 2 * (dp // 4) + 2 * dp * (dp // 4 + 1)


def part_blocks(dp):
    return 4 * dp * (dp + 1) + 2 * dp + HIDDEN * (dp + 1) + dp * (HIDDEN + 1) + 2 * dp


def of_part_dim(dp):
    """Parameters that depend on the width of part queries."""
    return STAGES * (dp * (D + 1) + sim(dp) + M * dp * (D + 1) + part_blocks(dp) + heads(dp)) + M * dp


def of_parts(number):
    return FULL + (number - M) * (STAGES * (9 * D + 1 + DP * (D + 1)) + DP)


PART_MACHINERY = SPEGM + sim(DP) + M * DP * (D + 1) + part_blocks(DP) + heads(DP)
DIRECT = FULL - STAGES * (PART_MACHINERY - heads(D)) - M * DP  # keypoints from an instance query
NO_SIM = FULL - STAGES * sim(DP)
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
    "table2b/spegm_light": LIGHT - STAGES * sim(DP),
    **{f"table2c/{dp}": FULL - of_part_dim(DP) + of_part_dim(dp) for dp in (32, 64, 128, 256)},
    **{f"table2d/{row}_parts": of_parts(int(row[2:])) for row in ("a_17", "b_13", "c_7", "d_5")},
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


def changes(row):
    """The keys and values in which a row differs from the base."""
    base = dict(leaves(setup_config(str(BASE))))
    return {key: value for key, value in leaves(load(row)) if value != base[key]}


@pytest.mark.parametrize("row", ROWS)
def test_number_of_parameters_at_the_paper_s_size(row):
    """Counted by formula above from the parts that the row claims to have."""
    with torch.device("meta"):
        # equal stages: one of them tells the rest
        small = build_model(load(row, "MODEL.DEVICE", "meta", "MODEL.QUERYPOSE.NUM_STAGES", 1))
    count = sum(parameter.numel() for parameter in small.parameters())
    stages = (small.decoder.box_stages, small.decoder.keypoint_stages)
    stage = sum(parameter.numel() for modules in stages for parameter in modules.parameters())
    assert count + (load(row).MODEL.QUERYPOSE.NUM_STAGES - 1) * stage == PARAMETERS[row]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_changes_the_model_alone(row):
    # parts by what they are, not by the name of their division
    changed = changes(row).keys() - {"MODEL.QUERYPOSE.PART_DIVISION"}
    allowed = {
        "VARIANT", "KEYPOINT_STAGE", "KEYPOINT_INTERACTION", "PART_EMBEDDING", "PART_UPDATE", "PART_DIM",
        "PART_GROUPS", "KEYPOINT_LOSS", "LOSS.KEYPOINT_WEIGHT", "NUM_STAGES", "NUM_QUERIES",
    }  # fmt: skip
    assert changed <= {f"MODEL.QUERYPOSE.{key}" for key in allowed}
    same_as_the_base = {"table2a/selective", "table2b/sim", "table2c/128", "table2d/c_7_parts", "table3/figure_3b"}
    same_as_the_base |= {"regression_loss/rle", "stages/6", "queries/100"}
    assert (not changed) == (row in same_as_the_base)


@pytest.fixture(scope="module")
def outputs():
    """A function that trains and runs the tiny model with a row's changes; once per row.

    Its weights are those of any other row by their names, so that a difference is that of the rows.
    """

    @functools.cache
    def run(row):
        model = build_model(tiny_config("full", *(item for pair in changes(row).items() for item in pair)))
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
        losses, gradients = gradients_of(model.train(), tiny_batch())
        with torch.no_grad():
            return losses, gradients, model.eval()(tiny_batch(), do_postprocess=False)

    return run


@pytest.mark.parametrize("row", ROWS)
def test_a_training_step_and_an_inference(row, outputs):
    losses, gradients, persons = outputs(row)
    assert all(value == value and abs(value) < 1e5 for value in losses.values())
    assert None not in gradients.values(), "every parameter takes part, as distributed training expects"
    number = changes(row).get("MODEL.QUERYPOSE.NUM_QUERIES", NUM_QUERIES)
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
    first, second = (outputs(name)[2][0] for name in (row, neighbor))
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
