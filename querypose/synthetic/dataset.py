"""A data set of synthetic people in COCO's format, rendered on demand: no download, and exact labels."""

import contextlib
import fcntl
import functools
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES as KEYPOINT_NAMES
from tqdm import tqdm

from querypose.atomic_io import writing
from querypose.synthetic.scene import Annotations, render_image

# Raise it whenever the images or labels change: sets of different versions are never mixed.
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
    wanted = {"version": VERSION, "seed": seed, "num_images": num_images}
    if _is_complete(json_file, folder / split, wanted):
        return str(json_file)
    with writing(folder, "free some space, or set DETECTRON2_DATASETS to a folder that can be written"):
        json_file.parent.mkdir(parents=True, exist_ok=True)
        # A record lock: flock would outlive a killed parent in its worker processes.
        with open(folder / f".{split}.lock", "w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            if not _is_complete(json_file, folder / split, wanted):
                _write_split(folder, split, json_file, wanted)
    return str(json_file)


def _is_complete(json_file: Path, images_folder: Path, wanted: dict[str, int]) -> bool:
    try:
        written = json.loads(json_file.read_bytes())["info"]["synthetic_people"]
        return bool(written == wanted and images_folder.is_dir())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_split(folder: Path, split: str, json_file: Path, wanted: dict[str, int]) -> None:
    for leftover in folder.glob(f".{split}.partial-*"):  # of killed runs: only the holder of the lock writes
        shutil.rmtree(leftover, ignore_errors=True)
    images_folder, partial = folder / split, folder / f".{split}.partial-{os.getpid()}"
    partial.mkdir()
    images: list[dict[str, Any]] = []
    annotations: Annotations = []
    number, render = wanted["num_images"], functools.partial(_render_file, partial, split, wanted["seed"])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(cores, number // _IMAGES_PER_TASK)
    with contextlib.ExitStack() as stack:
        rendered: Iterable[Any] = map(render, range(number))
        # A daemon, such as a worker of a data loader, may not have children.
        if processes > 1 and not multiprocessing.current_process().daemon:
            pool = stack.enter_context(multiprocessing.get_context("fork").Pool(processes, _start_worker))
            rendered = pool.imap(render, range(number), chunksize=_IMAGES_PER_TASK)
        title = f"rendering synthetic people ({split})"
        for image, persons in tqdm(rendered, total=number, desc=title, unit="image", disable=None):
            images.append(image)
            annotations += [
                {"id": len(annotations) + i, "image_id": image["id"], **p} for i, p in enumerate(persons, 1)
            ]
    info = {"description": "synthetic people of QueryPose", "synthetic_people": wanted}
    content = {"info": info, "licenses": [], "images": images, "annotations": annotations, "categories": [CATEGORY]}
    (partial / json_file.name).write_text(json.dumps(content))
    # The label file vouches for the images: it is removed first and written last.
    json_file.unlink(missing_ok=True)
    shutil.rmtree(images_folder, ignore_errors=True)
    os.replace(partial, images_folder)
    os.replace(images_folder / json_file.name, json_file)


def _start_worker() -> None:
    cv2.setNumThreads(0)  # OpenCV's threads do not survive a fork
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends its workers


def _render_file(folder: Path, split: str, seed: int, index: int) -> tuple[dict[str, Any], Annotations]:
    """Write an image to `folder`; return its entry and its annotations in COCO's format."""
    image, annotations = render_image(split, index, seed)
    name = f"{index:06d}.jpg"
    if not cv2.imwrite(str(folder / name), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92]):
        raise OSError(f"{folder / name} was not written")
    return {"id": index, "file_name": name, "height": image.shape[0], "width": image.shape[1]}, annotations
