"""How many images a second are read: by decoder, by resizing, by the mapper of a config, by its workers."""

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from PIL import Image

from querypose.benchmark.clock import repeat
from querypose.data import PoseDatasetMapper, TrainingLoader, skeleton_of

DECODERS = ("PIL", "OpenCV")
RESIZERS = ("PIL", "OpenCV")


def random_photograph(height: int, width: int) -> bytes:
    """A JPEG file of noise at all scales, which takes a decoder about as long as a photograph."""
    generator = np.random.default_rng(0)
    pixels = np.zeros((height, width, 3))
    for share in (1, 2, 4, 8, 16, 32):
        noise = generator.integers(0, 256, (height // share, width // share, 3), dtype=np.uint8)
        pixels += share * np.asarray(Image.fromarray(noise).resize((width, height), Image.BICUBIC), dtype=float)
    buffer = io.BytesIO()
    Image.fromarray((pixels / 63).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def decode(data: bytes, decoder: str) -> np.ndarray:
    """RGB array (H, W, 3) of a JPEG file."""
    if decoder == "OpenCV":
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def resize(image: np.ndarray, resizer: str, short_side: int) -> np.ndarray:
    """The image with a short side of that many pixels; "PIL" (Detectron2's way) averages where it shrinks."""
    scale = short_side / min(image.shape[:2])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    if resizer == "OpenCV":
        return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(Image.fromarray(image).resize(size, Image.BILINEAR))


def images_per_second(
    cfg: CfgNode, height: int = 480, width: int = 640, short_side: int = 800, repetitions: int = 20
) -> list:
    """Rows of `what` and `images_per_s`, for one photograph of that size: steps by themselves in one process, then the
    config's whole training mapper, in one process and in DATALOADER.NUM_WORKERS of them.
    """
    data = random_photograph(height, width)
    image = decode(data, "PIL")
    steps = {f"decode, {decoder}": lambda decoder=decoder: decode(data, decoder) for decoder in DECODERS}
    for resizer in RESIZERS:
        steps[f"resize to {short_side}, {resizer}"] = lambda resizer=resizer: resize(image, resizer, short_side)
    rows = [{"what": name, "images_per_s": rate(step, repetitions)} for name, step in steps.items()]

    with tempfile.TemporaryDirectory() as folder:
        record = _record(cfg, folder, data, height, width)
        mapper = PoseDatasetMapper(cfg, is_train=True)
        mapper_rate = rate(lambda: mapper(record), repetitions)
        rows.append({"what": "the config's training mapper", "images_per_s": mapper_rate})
        workers = cfg.DATALOADER.NUM_WORKERS
        if workers:
            batches = iter(TrainingLoader(cfg, mapper, records=[record] * 64))
            for _ in range(2 * workers):  # start-up, and what was loaded ahead meanwhile
                next(batches)
            number = max(2 * workers, repetitions)
            start = time.perf_counter()
            images = sum(len(next(batches)) for _ in range(number))
            loader_rate = images / (time.perf_counter() - start)
            rows.append({"what": f"the config's loader, {workers} workers", "images_per_s": loader_rate})
    return rows


def rate(step: Callable[[], object], repetitions: int) -> float:
    """Calls in a second, by the median of their times."""
    return 1 / statistics.median(repeat(step, "cpu", repetitions, warm_up=1))


def _record(cfg: CfgNode, folder: str, data: bytes, height: int, width: int) -> dict:
    """A Detectron2 dataset dict of the photograph, with three persons whose keypoints are all labelled."""
    path = Path(folder) / "photograph.jpg"
    path.write_bytes(data)
    persons = []
    for left in (0.1 * width, 0.3 * width, 0.5 * width):
        keypoints = [left + 0.1 * width, 0.5 * height, 2] * skeleton_of(cfg).num_keypoints
        person = {"bbox": [left, 0.2 * height, 0.2 * width, 0.6 * height], "bbox_mode": BoxMode.XYWH_ABS}
        persons.append({**person, "category_id": 0, "iscrowd": 0, "keypoints": keypoints})
    return {"file_name": str(path), "image_id": 1, "height": height, "width": width, "annotations": persons}
