"""How many images a second a config's training mapper and data loader read."""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from PIL import Image

from querypose.benchmark.clock import repeat
from querypose.data import PoseDatasetMapper, TrainingLoader, skeleton_of


def images_per_second(cfg: CfgNode, height: int = 480, width: int = 640, repetitions: int = 20) -> dict[str, float]:
    """For a JPEG file of that size: of the training mapper in one process, then of the loader with
    DATALOADER.NUM_WORKERS processes."""
    with tempfile.TemporaryDirectory() as folder:
        record = random_record(folder, height, width, skeleton_of(cfg).num_keypoints)
        mapper = PoseDatasetMapper(cfg, is_train=True)
        rates = {"training mapper": 1 / statistics.median(repeat(lambda: mapper(record), repetitions, warm_up=1))}
        workers = cfg.DATALOADER.NUM_WORKERS
        if workers:
            batches = iter(TrainingLoader(cfg, mapper, records=[record] * 64))
            # warm-up: the start, and what was prefetched meanwhile
            seconds = repeat(lambda: next(batches), max(2 * workers, repetitions), warm_up=2 * workers)
            rates[f"data loader, {workers} workers"] = cfg.SOLVER.IMS_PER_BATCH / statistics.mean(seconds)
    return rates


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
    person = {"bbox": [0.2 * width, 0.2 * height, 0.6 * width, 0.6 * height], "bbox_mode": BoxMode.XYWH_ABS}
    person |= {"category_id": 0, "iscrowd": 0, "keypoints": [0.5 * width, 0.5 * height, 2] * num_keypoints}
    persons = [dict(person) for _ in range(3)]
    return {"file_name": str(path), "image_id": 1, "height": height, "width": width, "annotations": persons}
