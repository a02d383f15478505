"""Every row of the ablations: its difference in the config and in the model, a training step, an inference."""

import functools
import itertools
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from tiny_model import NUM_QUERIES, gradients_of, person_boxes, tiny_batch, tiny_config

from querypose.config_checks import leaves
from querypose.setup_config import setup_config

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DIVISIONS = {"a_17": "per_keypoint", "b_13": "joined_head", "c_7": "rigid", "d_5": "head_and_limbs"}
INSTANCE = {"KEYPOINT_STAGE": "InstanceKeypointStage"}
NO_SIM = {"PART_UPDATE": "NoIteration"}
# what each row says below MODEL.QUERYPOSE
ROWS = {
    "table1/instance_mhsa": {**INSTANCE, "KEYPOINT_INTERACTION": "MultiHeadSelfAttention"},
    "table1/instance_dynamic_channel": {**INSTANCE, "KEYPOINT_INTERACTION": "DynamicChannelMLP"},
    "table1/instance_dynamic_spatial": {**INSTANCE, "KEYPOINT_INTERACTION": "DynamicSpatialMLP"},
    "table1/instance_spatial_attention": {**INSTANCE, "KEYPOINT_INTERACTION": "SpatialAttention"},
    "table1/part_mhsa": {**NO_SIM, "PART_EMBEDDING": "PartSelfAttention"},
    "table1/part_dynamic_channel": {**NO_SIM, "PART_EMBEDDING": "PartDynamicChannelMLP"},
    "table1/part_dynamic_spatial": {**NO_SIM, "PART_EMBEDDING": "PartDynamicSpatialMLP"},
    "table1/part_spegm": NO_SIM,
    "table2a/none": NO_SIM,
    "table2a/summation": {"PART_UPDATE": "Summation"},
    "table2a/concatenation": {"PART_UPDATE": "Concatenation"},
    "table2a/selective": {"PART_UPDATE": "SelectiveIteration"},
    "table2b/baseline": {"VARIANT": "light", "KEYPOINT_STAGE": "PooledKeypointStage"},
    "table2b/spegm_light": {**NO_SIM, "VARIANT": "light"},
    "table2b/spegm": NO_SIM,
    "table2b/sim": {"PART_UPDATE": "SelectiveIteration"},
    **{f"table2c/{width}": {"PART_DIM": width} for width in (32, 64, 128, 256)},
    **{f"table2d/{row}_parts": {"PART_DIVISION": division} for row, division in DIVISIONS.items()},
    "table3/figure_3a": {"VARIANT": "branched"},
    "table3/figure_3b": {"VARIANT": "full"},
    "table3/light": {"VARIANT": "light"},
    "regression_loss/rle": {"KEYPOINT_LOSS": "RLE"},
    "regression_loss/rle_without_flow": {"KEYPOINT_LOSS": "RLEWithoutFlow"},
    "regression_loss/l1": {"KEYPOINT_LOSS": "L1", "LOSS.KEYPOINT_WEIGHT": 10.0},
    "regression_loss/smooth_l1": {"KEYPOINT_LOSS": "SmoothL1", "LOSS.KEYPOINT_WEIGHT": 10.0},
    **{f"stages/{number}": {"NUM_STAGES": number} for number in range(1, 7)},
    **{f"queries/{number}": {"NUM_QUERIES": number} for number in (25, 50, 100, 300)},
}

pytestmark = pytest.mark.slow


def load(name):
    return setup_config(str(CONFIGS / name))


def test_every_row_has_a_file():
    folder = CONFIGS / "ablations"
    assert {str(path.relative_to(folder).with_suffix("")) for path in folder.glob("*/*.yaml")} == ROWS.keys()


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_the_base_but_for_its_own_keys(row):
    ours, base = (dict(leaves(load(name))) for name in (f"ablations/{row}.yaml", "querypose_R50_1x.yaml"))
    parts = ours.pop("MODEL.QUERYPOSE.PART_GROUPS")
    assert len(parts) == (int(row[len("table2d/a_") :].split("_")[0]) if row.startswith("table2d") else 7)
    del base["MODEL.QUERYPOSE.PART_GROUPS"]
    assert ours == base | {f"MODEL.QUERYPOSE.{key}": value for key, value in ROWS[row].items()}


@pytest.mark.parametrize(
    ("row", "number"), [("figure_3b", 322_541_640), ("figure_3a", 322_541_640), ("light", 188_623_176)]
)
def test_number_of_parameters(row, number):
    cfg = load(f"ablations/table3/{row}.yaml")
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build_model(cfg).parameters()) == number


@pytest.fixture(scope="module")
def outputs():
    """A function that trains and runs the tiny model with a row's changes; once per row.

    Its weights are those of any other row by their names, so that a difference is that of the rows.
    """

    @functools.cache
    def run(row):
        opts = [item for key, value in ROWS[row].items() for item in (f"MODEL.QUERYPOSE.{key}", value)]
        model = build_model(tiny_config("full", *opts))
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
    assert all(gradient is not None for gradient in gradients.values()), (
        "every parameter takes part, as distributed training expects"
    )
    for instances in persons:
        assert len(instances) == min(ROWS[row].get("NUM_QUERIES", NUM_QUERIES), 100)
        assert instances.pred_keypoints.shape[1:] == (17, 3) and instances.pred_keypoints.isfinite().all()
        assert ((instances.scores > 0) & (instances.scores < 1)).all()


NEIGHBORS = [pair for pair in itertools.pairwise(ROWS) if pair[0].split("/")[0] == pair[1].split("/")[0]]


@pytest.mark.parametrize(("row", "neighbor"), NEIGHBORS)
def test_a_row_computes_something_else_than_its_neighbor(row, neighbor, outputs):
    first, second = ({name: loss.item() for name, loss in outputs(name)[0].items()} for name in (row, neighbor))
    assert first.keys() != second.keys() or first != pytest.approx(second, rel=1e-3)


@pytest.mark.parametrize("path", sorted((CONFIGS / "eval").glob("*/*.yaml")), ids=str)
def test_evaluation_configs(path):
    table = path.parent.name
    cfg, trained = load(path), load(f"{'crowdpose/' if table == 'table6' else ''}querypose_{path.stem}.yaml")
    tests = {"table4": "keypoints_coco_2017_val", "table5": "keypoints_coco_2017_test-dev", "table6": "crowdpose_test"}
    assert cfg.DATASETS.TEST == (tests[table],)
    assert cfg.MODEL == trained.MODEL and cfg.INPUT == trained.INPUT, "the weights fit, single scale"
