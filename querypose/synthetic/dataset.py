"""A data set of synthetic people in COCO's format, rendered on demand: no download, and exact labels."""

import fcntl
import functools
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import cv2
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES as KEYPOINT_NAMES
from tqdm import tqdm

from querypose.atomic_io import writing
from querypose.synthetic.scene import Annotations, render_image

# Raise it whenever the images or labels change: the folders of different versions have different names.
VERSION = 2
SPLIT_SIZES = {"train": 8000, "minitrain": 2000, "val": 300}

_IMAGES_PER_TASK = 25  # fewer are rendered sooner than a process starts

CATEGORY = {
    "id": 1, "name": "person", "supercategory": "person", "keypoints": list(KEYPOINT_NAMES),
    "skeleton": [
        [16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9],
        [8, 10], [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7],
    ],
}  # fmt: skip
"""The category of COCO's files."""


def write_synthetic_people(folder: str | Path, split: str, num_images: int, seed: int = 0) -> str:
    """Write a split unless that has been done, and return the path of its annotation file.

    The label file is written last, so that a killed run leaves nothing that looks finished; of several processes that
    call this at once one writes, the others wait. Raises `UserError` for a folder that cannot be written.
    """
    folder = Path(folder)
    json_file = folder / "annotations" / f"person_keypoints_{split}.json"
    if not json_file.is_file():
        with writing(folder, "free some space, or set DETECTRON2_DATASETS to a folder that can be written"):
            json_file.parent.mkdir(parents=True, exist_ok=True)
            # A record lock: flock would outlive a killed parent in its worker processes.
            with open(folder / f".{split}.lock", "w") as lock:
                fcntl.lockf(lock, fcntl.LOCK_EX)
                if not json_file.is_file():  # not even now
                    _write_split(folder, split, num_images, seed, json_file)
    return str(json_file)


def _write_split(folder: Path, split: str, number: int, seed: int, json_file: Path) -> None:
    images_folder, partial = folder / split, folder / f".{split}.partial-{os.getpid()}"
    partial.mkdir()
    images: list[dict[str, Any]] = []
    annotations: Annotations = []
    render = functools.partial(_render_file, partial, split, seed)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes, title = min(cores, 1 + number // _IMAGES_PER_TASK), f"rendering synthetic people ({split})"
    with multiprocessing.get_context("fork").Pool(processes, _start_worker) as pool:
        rendered = pool.imap(render, range(number), chunksize=_IMAGES_PER_TASK)
        for image, persons in tqdm(rendered, total=number, desc=title, unit="image", disable=None):
            images.append(image)
            for person in persons:
                annotations.append({"id": len(annotations) + 1, "image_id": image["id"], **person})
    info = {"description": "synthetic people of QueryPose", "version": VERSION, "seed": seed}
    content = {"info": info, "images": images, "annotations": annotations, "categories": [CATEGORY]}
    (partial / json_file.name).write_text(json.dumps(content))
    # The label file vouches for the images: it is written last.
    shutil.rmtree(images_folder, ignore_errors=True)
    os.replace(partial, images_folder)
    os.replace(images_folder / json_file.name, json_file)
    # of killed runs, whose workers have ended by now; only the holder of the lock writes
    for leftover in folder.glob(f".{split}.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _start_worker() -> None:
    cv2.setNumThreads(0)  # OpenCV's threads do not survive a fork
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by this; with the handler of PyTorch's launcher they would hang


def _render_file(folder: Path, split: str, seed: int, index: int) -> tuple[dict[str, Any], Annotations]:
    """Write an image to `folder`; return its entry and its annotations in COCO's format."""
    image, annotations = render_image(split, index, seed)
    name = f"{index:06d}.jpg"
    if not cv2.imwrite(str(folder / name), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92]):
        raise OSError(f"{folder / name} was not written")
    return {"id": index, "file_name": name, "height": image.shape[0], "width": image.shape[1]}, annotations
