"""How many images a second a config's training mapper and data loader read."""

import tempfile
import time
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from matplotlib.cbook import get_sample_data
from PIL import Image

from querypose.benchmark.clock import repeat, summary
from querypose.data import PoseDatasetMapper, TrainingLoader, skeleton_of


def images_per_second(cfg: CfgNode, height: int = 480, width: int = 640, repetitions: int = 20) -> list[dict[str, Any]]:
    """Rows of `what` and `images_per_s` for a JPEG file of that size: the training mapper in one process, then the
    loader with DATALOADER.NUM_WORKERS processes."""
    with tempfile.TemporaryDirectory() as folder:
        record = example_record(folder, height, width, skeleton_of(cfg).num_keypoints)
        mapper = PoseDatasetMapper(cfg, is_train=True)
        seconds = repeat(lambda: mapper(record), "cpu", repetitions, warm_up=1)
        rows = [{"what": "training mapper", "images_per_s": 1000 / summary(seconds)["median_ms"]}]
        workers = cfg.DATALOADER.NUM_WORKERS
        if workers:
            batches = iter(TrainingLoader(cfg, mapper, records=[record] * 64))
            for _ in range(2 * workers):  # the start, and what was prefetched meanwhile
                next(batches)
            start = time.perf_counter()
            images = sum(len(next(batches)) for _ in range(max(2 * workers, repetitions)))
            rate = images / (time.perf_counter() - start)
            rows.append({"what": f"data loader, {workers} workers", "images_per_s": rate})
    return rows


def example_record(folder: str, height: int, width: int, num_keypoints: int) -> dict[str, Any]:
    """A Detectron2 dataset dict of a photograph in JPEG, with three persons whose keypoints are all labeled."""
    path = Path(folder) / "photograph.jpg"
    photograph = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False))
    photograph.resize((width, height)).save(path, quality=90)
    persons = []
    for left in (0.1 * width, 0.3 * width, 0.5 * width):
        keypoints = [left + 0.1 * width, 0.5 * height, 2] * num_keypoints
        person = {"bbox": [left, 0.2 * height, 0.2 * width, 0.6 * height], "bbox_mode": BoxMode.XYWH_ABS}
        persons.append({**person, "category_id": 0, "iscrowd": 0, "keypoints": keypoints})
    return {"file_name": str(path), "image_id": 1, "height": height, "width": width, "annotations": persons}
