"""Mini-COCO: the rule of its split, the scaled annotations, and configs that differ as their rows do."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.modeling import build_model
from PIL import Image

from querypose.data.prepare.minicoco import make_minicoco
from querypose.errors import UserError
from querypose.setup_config import setup_config

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ABLATIONS = {
    "baseline": "ablations/table2b/baseline", "spegm": "ablations/table2a/none",
    "summation": "ablations/table2a/summation", "concatenation": "ablations/table2a/concatenation",
    "querypose": "ablations/table2b/sim", "l1": "ablations/regression_loss/l1", "light": "querypose_light_R50",
}  # fmt: skip


def content():
    """Images 10, 20 .. of 720 x 1080; every third has a person without keypoints only."""
    images = [{"id": 10 * i, "file_name": f"{i}.jpg", "width": 720, "height": 1080} for i in range(11, 0, -1)]
    people = []
    for image in images:
        labeled = int(image["id"] % 30 != 0)
        person = {"id": image["id"] + 1, "image_id": image["id"], "category_id": 1, "iscrowd": 0, "area": 400.0}
        person |= {"bbox": [100.0, 200.0, 40.0, 50.0], "segmentation": [[1, 2]]}
        people.append({**person, "num_keypoints": labeled, "keypoints": [110, 220, 2 * labeled, 0, 0, 0]})
    category = {"id": 1, "name": "person", "keypoints": ["left_hand", "right_hand"], "skeleton": [[1, 2]]}
    return {"images": images, "annotations": people, "categories": [category]}


def test_every_tenth_labeled_image_is_held_out_and_the_others_shrink_with_their_annotations(tmp_path):
    annotations, images = tmp_path / "annotations.json", tmp_path / "val2017"
    images.mkdir()
    rng = np.random.default_rng(0)
    for image in content()["images"]:
        pixels = rng.integers(0, 255, (135, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((720, 1080)).save(images / image["file_name"])
    annotations.write_text(json.dumps(content()))
    assert make_minicoco(annotations, images, tmp_path / "minicoco") == {"train": 6, "val": 1}
    train = [20, 40, 50, 70, 100, 110]
    for split, side, scale, numbers in (("train", 360, 0.5, train), ("val", 720, 1.0, [10])):
        data = json.loads((tmp_path / f"minicoco/person_keypoints_{split}.json").read_text())
        assert [image["id"] for image in data["images"]] == numbers
        for image in data["images"]:
            with Image.open(tmp_path / "minicoco" / split / image["file_name"]) as picture:
                assert picture.size == (image["width"], image["height"]) == (side, side * 3 // 2)
        for person in data["annotations"]:
            assert person["bbox"] == [100 * scale, 200 * scale, 40 * scale, 50 * scale]
            assert person["area"] == 400 * scale**2 and "segmentation" not in person
            where = [(110 + 0.5) * scale - 0.5, (220 + 0.5) * scale - 0.5, 2, 0, 0, 0]
            assert person["keypoints"] == pytest.approx(where)
    assert (tmp_path / "minicoco/val/1.jpg").read_bytes() == (images / "1.jpg").read_bytes()

    (images / "4.jpg").unlink()
    with pytest.raises(UserError, match="4.jpg does not exist"):
        make_minicoco(annotations, images, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    annotations.write_text(json.dumps({**content(), "images": [{"id": 3}]}))
    with pytest.raises(UserError, match="needs an id"):
        make_minicoco(annotations, images, tmp_path / "again")


@pytest.mark.parametrize("row", ABLATIONS)
def test_rows_share_all_but_what_their_table_compares(row):
    ours, base = (setup_config(str(CONFIGS / f"minicoco/{name}.yaml")) for name in (row, "querypose"))
    paper = setup_config(str(CONFIGS / f"{ABLATIONS[row]}.yaml")).MODEL.QUERYPOSE
    ours.SOLVER.STEPS = base.SOLVER.STEPS  # which a cosine schedule does not have
    for part in ("SOLVER", "INPUT", "DATASETS", "DATALOADER", "TEST", "SEED"):
        assert ours[part] == base[part], "the same data, images seen and schedule"
    compared = {"VARIANT", "KEYPOINT_STAGE", "PART_EMBEDDING", "PART_UPDATE", "KEYPOINT_LOSS", "LOSS"}
    assert all(ours.MODEL.QUERYPOSE[key] == paper[key] for key in compared)
    rest = {key for key in base.MODEL.QUERYPOSE if ours.MODEL.QUERYPOSE[key] != base.MODEL.QUERYPOSE[key]}
    # the baseline's keypoint stages have no BatchNorm: queries without a person do not change the training
    assert rest - ({"TRAIN_QUERIES"} if row == "baseline" else set()) <= compared


@pytest.mark.parametrize(("protocol", "millions"), [("minicoco", (9, 12)), ("synthetic_people", (1, 3))])
def test_the_peer_sees_the_same_images(protocol, millions):
    ours, peer = (setup_config(str(CONFIGS / protocol / f"{name}.yaml")) for name in ("light", "keypoint_rcnn"))
    assert all(peer[part] == ours[part] for part in ("DATASETS", "INPUT", "SEED"))
    assert all(peer.MODEL[part] == ours.MODEL[part] for part in ("WEIGHTS", "RESNETS", "BACKBONE", "TIMM"))
    for key in ("IMS_PER_BATCH", "MAX_ITER", "WARMUP_ITERS", "LR_SCHEDULER_NAME"):
        assert peer.SOLVER[key] == ours.SOLVER[key]
    assert peer.SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR", "which has no STEPS"
    peer.MODEL.DEVICE = "cpu"
    number = sum(parameter.numel() for parameter in build_model(peer).parameters())
    assert millions[0] < number / 1e6 < millions[1]
