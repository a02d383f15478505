"""A data set of drawn people in COCO's format, made on demand: no download, and known to the last pixel."""

import contextlib
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from tqdm import tqdm

from querypose.errors import UserError
from querypose.skeleton import Skeleton

from .articulated_person import KEYPOINT_NAMES
from .scene import render_scene

# Raise it whenever the pictures or labels change: sets of another version are never mixed up with this one's.
VERSION = 2
SPLIT_SIZES = {"train": 8000, "val": 300}

_HEIGHT, _WIDTHS = 192, (160, 192, 208, 224, 240, 256)
_JPEG_QUALITY = 92
_IMAGES_PER_TASK = 25
_CORES_PAY_FROM = 100  # fewer images are drawn sooner than a pool of processes starts

_LIMBS = (
    ("left_ankle", "left_knee"), ("left_knee", "left_hip"), ("right_ankle", "right_knee"),
    ("right_knee", "right_hip"), ("left_hip", "right_hip"), ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"), ("left_shoulder", "right_shoulder"), ("left_shoulder", "left_elbow"),
    ("right_shoulder", "right_elbow"), ("left_elbow", "left_wrist"), ("right_elbow", "right_wrist"),
    ("left_eye", "right_eye"), ("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"),
    ("right_eye", "right_ear"), ("left_ear", "left_shoulder"), ("right_ear", "right_shoulder"),
)  # fmt: skip
_CATEGORY = {
    "id": 1,
    "name": "person",
    "supercategory": "person",
    "keypoints": list(KEYPOINT_NAMES),
    "skeleton": [[KEYPOINT_NAMES.index(joint) + 1 for joint in limb] for limb in _LIMBS],
}


def render_image(split, index, seed=0):
    """Render image `index` of a split, which depends on nothing but the three arguments.

    Returns:
        image: (H, W, 3) uint8, RGB, and its annotations as of `render_scene`.
    """
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(split.encode()), index]))
    width = int(rng.choice(_WIDTHS))
    return render_scene(rng, height=_HEIGHT, width=width)


def write_synthetic_people(folder, split, num_images, seed=0):
    """Write a split unless it is there already, and return the path of its annotation file.

    The images go to `<folder>/<split>/000000.jpg`, the labels to
    `<folder>/annotations/person_keypoints_<split>.json`. The label file appears last, once everything else is
    whole, so a killed run leaves nothing that looks finished; of several processes that ask at once one
    writes, the others wait.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    json_file = folder / "annotations" / f"person_keypoints_{split}.json"
    wanted = {"version": VERSION, "seed": seed, "num_images": num_images}
    if _is_complete(json_file, folder / split, wanted):
        return str(json_file)
    try:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f".{split}.lock"):
            if not _is_complete(json_file, folder / split, wanted):
                _write_split(folder, split, num_images, seed, json_file, wanted)
    except OSError as error:
        raise UserError(
            f"the synthetic people cannot be written to {folder} ({error.strerror or error}): "
            "free some space, or set DETECTRON2_DATASETS to a folder that can be written"
        ) from error
    return str(json_file)


def ensure_synthetic_people(name):
    """Render the registered data set `name` unless that is done; its `json_file` exists afterwards."""
    metadata = MetadataCatalog.get(name)
    return write_synthetic_people(metadata.folder, metadata.split, metadata.num_images)


def register_synthetic_people(root):
    """Register `synthetic_people_train` and `synthetic_people_val` below the data-set folder `root`.

    Nothing is rendered here: the pictures are drawn into `<root>/synthetic_people/v<version>` when a
    data set is first loaded.
    """
    folder = Path(root) / "synthetic_people" / f"v{VERSION}"
    for split, num_images in SPLIT_SIZES.items():
        name = f"synthetic_people_{split}"
        DatasetCatalog.register(name, lambda name=name: _load(name))
        MetadataCatalog.get(name).set(
            folder=str(folder),
            split=split,
            num_images=num_images,
            json_file=str(folder / "annotations" / f"person_keypoints_{split}.json"),
            image_root=str(folder / split),
            evaluator_type="coco",
            thing_classes=["person"],
            thing_dataset_id_to_contiguous_id={1: 0},
            **Skeleton.from_coco_category(_CATEGORY).to_metadata(),
        )


def _load(name):
    metadata = MetadataCatalog.get(name)
    return load_coco_json(ensure_synthetic_people(name), metadata.image_root, name)


def _is_complete(json_file, images_folder, wanted):
    try:
        with open(json_file) as file:
            written = json.load(file)["info"]["synthetic_people"]
        return written == wanted and images_folder.is_dir()
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def _lock(path):
    """Hold a file lock; the system frees it when the process ends, however it ends."""
    with open(path, "w") as file:
        # A record lock: flock would live on in worker processes that outlive a killed parent.
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _write_split(folder, split, num_images, seed, json_file, wanted):
    for leftover in folder.glob(f".{split}.partial-*"):  # of killed runs: nobody else writes under the lock
        shutil.rmtree(leftover, ignore_errors=True)
    images_folder, partial = folder / split, folder / f".{split}.partial-{os.getpid()}"
    partial.mkdir()
    images, annotations = [], []
    for index, (height, width, persons) in enumerate(_render_files(partial, split, num_images, seed)):
        images.append({"id": index, "file_name": _file_name(index), "height": height, "width": width})
        for person in persons:
            annotations.append({"id": len(annotations) + 1, "image_id": index, **person})
    content = {
        "info": {"description": "synthetic people of QueryPose", "synthetic_people": wanted},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [_CATEGORY],
    }
    partial_json = partial / json_file.name
    with open(partial_json, "w") as file:
        json.dump(content, file)
    # The label file vouches for the images: it goes first and comes last.
    json_file.unlink(missing_ok=True)
    shutil.rmtree(images_folder, ignore_errors=True)
    os.replace(partial, images_folder)
    os.replace(images_folder / json_file.name, json_file)


def _render_files(folder, split, num_images, seed):
    """Yield (height, width, annotations) of each image in order, having written it to `folder`."""
    tasks = [
        (str(folder), split, range(start, min(start + _IMAGES_PER_TASK, num_images)), seed)
        for start in range(0, num_images, _IMAGES_PER_TASK)
    ]
    cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), len(tasks))
    progress = tqdm(
        total=num_images,
        desc=f"rendering synthetic people ({split})",
        unit="image",
        disable=not sys.stderr.isatty(),
    )
    # A daemon, such as a worker of a data loader, may not have children.
    alone = cores < 2 or num_images < _CORES_PAY_FROM or multiprocessing.current_process().daemon
    with contextlib.ExitStack() as stack:
        stack.enter_context(progress)
        if alone:
            batches = map(_render_batch, tasks)
        else:
            pool = stack.enter_context(multiprocessing.get_context("fork").Pool(cores, initializer=_start_worker))
            batches = pool.imap(_render_batch, tasks)
        for batch in batches:
            yield from batch
            progress.update(len(batch))


def _start_worker():
    # Threads of OpenCV do not survive a fork.
    cv2.setNumThreads(0)
    # Ctrl-C is the parent's to handle: it ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _render_batch(task):
    folder, split, indices, seed = task
    batch = []
    for index in indices:
        image, annotations = render_image(split, index, seed)
        path = os.path.join(folder, _file_name(index))
        if not cv2.imwrite(path, image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
            raise OSError(f"{path} was not written")
        batch.append((*image.shape[:2], annotations))
    return batch


def _file_name(index):
    return f"{index:06d}.jpg"
