"""How many images a second a config's training mapper and data loader read."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from PIL import Image

from querypose.benchmark.clock import repeat, summary
from querypose.data import PoseDatasetMapper, TrainingLoader, skeleton_of


def images_per_second(cfg: CfgNode, height: int = 480, width: int = 640, repetitions: int = 20) -> list[dict[str, Any]]:
    """Rows of `what` and `images_per_s` for a JPEG file of that size: the training mapper in one process, then the
    loader with DATALOADER.NUM_WORKERS processes."""
    with tempfile.TemporaryDirectory() as folder:
        record = random_record(folder, height, width, skeleton_of(cfg).num_keypoints)
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


def random_record(folder: str, height: int, width: int, num_keypoints: int) -> dict[str, Any]:
    """A Detectron2 dataset dict of a JPEG file of noise, with three persons whose keypoints are all labeled.

    The noise has all scales, so that decoding takes about as long as that of a photograph.
    """
    generator = np.random.default_rng(0)
    pixels = np.zeros((height, width, 3))
    for share in (1, 2, 4, 8, 16, 32):
        noise = generator.integers(0, 256, (height // share, width // share, 3), dtype=np.uint8)
        pixels += share * np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC), float)
    path = Path(folder) / "photograph.jpg"
    Image.fromarray((pixels / 63).astype(np.uint8)).save(path, quality=90)
    persons = []
    for left in (0.1 * width, 0.3 * width, 0.5 * width):
        keypoints = [left + 0.1 * width, 0.5 * height, 2] * num_keypoints
        person = {"bbox": [left, 0.2 * height, 0.2 * width, 0.6 * height], "bbox_mode": BoxMode.XYWH_ABS}
        persons.append({**person, "category_id": 0, "iscrowd": 0, "keypoints": keypoints})
    return {"file_name": str(path), "image_id": 1, "height": height, "width": width, "annotations": persons}
