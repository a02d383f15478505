"""Files with 1, 6 and 133 keypoints, several files at once, damaged images, test-dev: trained and evaluated."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import MetadataCatalog
from PIL import Image
from refusals import tool
from tiny_model import BODY_NAMES, tiny_config

from querypose.data import check_datasets, register_coco_keypoints, resolve_dataset, training_records
from querypose.data.crowdpose import CROWDPOSE_NAMES
from querypose.engine import PoseTrainer
from querypose.engine.train_net import log_parts
from querypose.errors import UserError
from querypose.evaluation import CROWDPOSE_METRICS
from querypose.setup_config import setup_config
from querypose.skeleton import Skeleton

WHOLE_BODY = [f"left_{i}" for i in range(66)] + [f"right_{i}" for i in range(66)] + ["nose"]
SKELETONS = {
    1: ({"keypoints": ["centre"]}, 1),
    6: ({"keypoints": BODY_NAMES, "skeleton": [[1, 2], [2, 3], [2, 4], [2, 5], [2, 6]]}, 5),
    133: ({"keypoints": WHOLE_BODY, "skeleton": [[i, i + 1] for i in range(1, 66, 2)]}, 33 + 67),
}


def write_dataset(folder, category, images=3, **image_extra):
    """Images of noise with two persons each; the annotation file."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    number = len(category["keypoints"])
    entries, annotations = [], []
    for i in range(images):
        Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        entries.append({"id": i + 1, "file_name": f"{i}.png", "width": 96, "height": 64, **image_extra})
        for _ in range(2):
            left, top = rng.uniform(2, 30, 2)
            places = rng.uniform(0, 30, (number, 2)) + [left, top]
            keypoints = np.concatenate([places, np.full((number, 1), 2)], axis=1)
            entry = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": 3, "bbox": [left, top, 30, 30]}
            annotations.append({**entry, "keypoints": keypoints.flatten().tolist()})
    content = {"images": entries, "annotations": annotations, "categories": [{"id": 3, "name": "thing", **category}]}
    (folder / "data.json").write_text(json.dumps(content))
    return str(folder / "data.json")


def config(folder, train, test=(), *opts):
    cfg = tiny_config("light")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = tuple(train), tuple(test or train[:1])
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.CROP.ENABLED = (64,), 64, False
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = 2, 2, (), 1
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.OUTPUT_DIR = str(folder / "out")
    cfg.merge_from_list(list(opts))
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        resolve_dataset(name)
    (folder / "out").mkdir(exist_ok=True)
    return cfg


def train(cfg):
    """Train as tools/train_net.py does; the trainer and the metrics of its last evaluation."""
    check_datasets(cfg)
    torch.manual_seed(2)
    trainer = PoseTrainer(cfg)
    trainer.train()
    return trainer, trainer._last_eval_results


@pytest.mark.parametrize("number", SKELETONS)
def test_any_number_of_keypoints_trains_and_evaluates(tmp_path, messages, number):
    category, num_parts = SKELETONS[number]
    cfg = config(tmp_path, [write_dataset(tmp_path / name, category) for name in ("one", "two")])
    assert len({record["file_name"] for record in training_records(cfg)}) == 6
    (tmp_path / "config.yaml").write_text(cfg.dump())
    log_parts(setup_config(str(tmp_path / "config.yaml")))
    assert f"{number} keypoints in {num_parts} parts:" in messages()
    assert f"part 1: {category['keypoints'][0]}" in messages()
    trainer, metrics = train(cfg)
    assert trainer.model.decoder.part_queries.weight.shape[0] == num_parts
    assert metrics["keypoints"]["AP"] >= 0 and metrics["bbox"]["AP"] >= 0
    results = json.loads((tmp_path / "out" / "inference" / "coco_instances_results.json").read_text())
    assert len(results[0]["keypoints"]) == 3 * number and results[0]["category_id"] == 3


def test_crowdpose_s_skeleton_is_evaluated_by_its_rules(tmp_path):
    file = write_dataset(tmp_path / "data", {"keypoints": list(CROWDPOSE_NAMES)}, crowdIndex=0.5)
    cfg = config(tmp_path, [file])
    metrics = PoseTrainer.test(cfg, PoseTrainer.build_model(cfg))
    assert tuple(metrics["keypoints"]) == CROWDPOSE_METRICS and np.isnan(metrics["keypoints"]["APE"])


def test_official_crowdpose_images_train_and_are_evaluated(shared_folder, tmp_path):
    sample = shared_folder / "data" / "crowdpose_mini"
    files = ["--annotations", sample / "crowdpose_val_subset.json", "--images", sample / "images"]
    tool("prepare_crowdpose", *files, "--output", tmp_path / "data")()
    file = f"{tmp_path}/data/annotations/crowdpose_val.json@{sample}/images"
    shipped = Path(__file__).resolve().parents[1] / "configs" / "crowdpose" / "Base-CrowdPose.yaml"
    groups = yaml.safe_load(shipped.read_text())["MODEL"]["QUERYPOSE"]["PART_GROUPS"]
    trainer, metrics = train(config(tmp_path, [file], (), "MODEL.QUERYPOSE.PART_GROUPS", groups))
    assert tuple(metrics["keypoints"]) == CROWDPOSE_METRICS and metrics["keypoints"]["AP"] >= 0
    assert trainer.model.decoder.part_queries.weight.shape[0] == 7
    # random deltas move boxes out of the image, and Detectron2 drops those
    for stage in trainer.model.decoder.box_stages:
        torch.nn.init.zeros_(stage.box_delta.weight)
        torch.nn.init.zeros_(stage.box_delta.bias)
    PoseTrainer.test(trainer.cfg, trainer.model)
    results = json.loads((tmp_path / "out" / "inference" / "coco_instances_results.json").read_text())
    assert len({result["image_id"] for result in results}) == 36 and len(results[0]["keypoints"]) == 3 * 14


def test_unreadable_images_stop_or_are_skipped(tmp_path):
    file = write_dataset(tmp_path / "data", SKELETONS[6][0], images=4)
    data = (tmp_path / "data" / "2.png").read_bytes()
    (tmp_path / "data" / "2.png").write_bytes(data[: len(data) // 2])
    opts = ["DATALOADER.NUM_WORKERS", 2, "SOLVER.MAX_ITER", 5]
    with pytest.raises(UserError, match="2.png cannot be read"):
        train(config(tmp_path, [file], (), *opts))
    train(config(tmp_path, [file], (), *opts, "DATALOADER.SKIP_UNREADABLE_IMAGES", True))
    assert "2.png" in (tmp_path / "out" / "unreadable_images.txt").read_text()
    results = json.loads((tmp_path / "out" / "inference" / "coco_instances_results.json").read_text())
    assert {result["image_id"] for result in results} <= {1, 2, 4}


@pytest.mark.usefixtures("own_data_sets")
def test_a_test_set_becomes_a_submission(tmp_path, messages):
    """As keypoints_coco_2017_test-dev is registered: images and categories without keypoint names."""
    file = Path(write_dataset(tmp_path / "data", {"keypoints": BODY_NAMES}))
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}]
    file.write_text(json.dumps({"images": json.loads(file.read_text())["images"], "categories": categories}))
    split = MetadataCatalog.get("keypoints_coco_2017_test-dev").submission_split
    skeleton = Skeleton.from_metadata(MetadataCatalog.get("keypoints_coco_2017_val"))
    register_coco_keypoints("test_dev", file, file.parent, skeleton, submission_split=split)
    cfg = config(tmp_path, ["keypoints_coco_2017_train"], ["test_dev"])
    check_datasets(cfg, train=False)
    assert PoseTrainer.test(cfg, PoseTrainer.build_model(cfg)) == {}
    (path,) = (tmp_path / "out" / "inference").glob("*.zip")
    assert path.name == "person_keypoints_test-dev2017_out_results.zip"
    assert "no AP can be computed" in messages() and str(path) in messages()
