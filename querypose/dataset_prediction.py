"""Poses of many images as Parquet files, by workers that Ray Data spreads over cores, GPUs and machines."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from querypose.atomic_io import make_output_folder, whole_file
from querypose.data.annotations import read_json
from querypose.demo.inputs import find_inputs, is_video
from querypose.errors import UserError, imported
from querypose.predictor import PosePredictor
from querypose.structures import Persons


def list_images(inputs: Sequence[str], column: str = "image") -> list[str]:
    """The images that `inputs` name, each once: images, folders, globs, text files with a path in each line, Parquet
    files with paths in `column`. Raises `UserError` for an input that names none or cannot be read."""
    found: dict[str, None] = {}
    for given in inputs:
        ending = Path(given).suffix.lower()
        try:
            if ending == ".txt":
                images = [line for line in Path(given).read_text("utf-8-sig").splitlines() if line.strip()]
            elif ending == ".parquet":
                from pyarrow import parquet

                images = parquet.read_table(given, columns=[column])[column].to_pylist()
            else:
                images = [str(path) for path in find_inputs([given])[0] if not is_video(path)]
            found.update(dict.fromkeys(os.path.abspath(os.fsdecode(image)) for image in images))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"cannot read a list of images from {given}: {error}") from error
        if not images:
            raise UserError(f"{given} names no image; give images, folders, globs, .txt or .parquet lists")
    return list(found)


def make_parts(images: Sequence[str], output: Path, images_per_part: int, **options: Any) -> Iterator[dict[str, Any]]:
    """The parts of the work without a file in `output` yet: {"file", "images"}. options: what resuming must repeat."""
    make_output_folder(output)
    plan = output / "_parts.json"
    work = {"images_per_part": images_per_part, **options, "images": list(images)}
    if plan.exists() and any(output.glob("part-*.parquet")) and read_json(plan, "plan") != work:
        raise UserError(f"{output} holds poses of other images or options; give another --output or remove it")
    with whole_file(plan) as file:
        file.write(json.dumps(work).encode())
    for number, start in enumerate(range(0, len(images), images_per_part)):
        path = output / f"part-{number:05d}.parquet"
        if not path.exists():
            yield {"file": str(path), "images": list(images[start : start + images_per_part])}


class PartPredictor:
    """Predicts the images of parts and writes their files, with options of `PosePredictor`; one for each worker."""

    def __init__(self, options: dict[str, Any], threads: int):
        torch.set_num_threads(threads)
        self.predictor = PosePredictor(**options)

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        """Write the file atomically; return {"images", "persons", "failures"}, how many."""
        import pyarrow
        from pyarrow import parquet

        images = list(part["images"])
        found = self.predictor.stream(images, on_error=lambda image, error: error)
        rows = [_row(image, persons) for image, persons in zip(images, found, strict=True)]
        numbers = pyarrow.list_(pyarrow.list_(pyarrow.float32()))  # of each person
        columns = {"image": pyarrow.string(), "width": pyarrow.int32(), "height": pyarrow.int32()}
        columns |= {"scores": pyarrow.list_(pyarrow.float32()), "boxes": numbers, "keypoints": numbers}
        columns |= {"keypoint_sigmas": numbers, "error": pyarrow.string()}
        with whole_file(part["file"]) as file:
            parquet.write_table(pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(columns)), file)
        persons = sum(len(row["scores"]) for row in rows)
        return {"images": len(rows), "persons": persons, "failures": sum("error" in row for row in rows)}


def _row(image: str, persons: Persons | UserError) -> dict[str, Any]:
    """For each person, best first, a score, a box (x0, y0, x1, y1), 3K numbers: x, y, confidence, and, of models with
    sigma, 2K numbers: sigma of x and y; or why the image could not be used. What is missing becomes null."""
    if isinstance(persons, UserError):
        return {"image": _text(image), "scores": [], "boxes": [], "keypoints": [], "error": _text(str(persons))}
    height, width = persons.image_size
    row = {"image": _text(image), "width": width, "height": height, "scores": persons.scores.tolist()}
    row |= {"boxes": persons.pred_boxes.tensor.tolist(), "keypoints": persons.pred_keypoints.flatten(1).tolist()}
    if persons.has("pred_keypoint_sigmas"):
        row["keypoint_sigmas"] = persons.pred_keypoint_sigmas.flatten(1).tolist()
    return row


def _text(name: str) -> str:
    """A file's name as Parquet can hold it: bytes that are no text become escapes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def predict_dataset(
    parts: Sequence[dict[str, Any]],
    options: dict[str, Any],
    workers: int | None = None,
    threads: int = 1,
    address: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Predict the parts of `make_parts` on a Ray cluster or this machine; yields what `PartPredictor` returns.

    workers: None: one for each GPU, or for each `threads` cores where there is none.
    """
    if not parts:
        return
    ray = imported("ray", "'querypose[ray]'")
    PosePredictor(**{**options, "device": "cpu"})  # what is wrong with them is reported here, not by a worker
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
    except (ConnectionError, ValueError) as error:
        if address is None:
            raise UserError(f"Ray cannot start ({error})") from error
        raise UserError(f"there is no Ray cluster at {address}; run `ray start --head`, or omit --address") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    with contextlib.suppress(ImportError):  # else its scheduler wakes up ten times a second, on a core of a worker
        from ray.data._internal.execution import streaming_executor_state

        streaming_executor_state.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S = 1.0
    available = ray.cluster_resources()
    gpus = 0 if options.get("device") == "cpu" else int(available.get("GPU", 0))
    size = min(workers or gpus or int(available["CPU"]) // threads, len(parts))
    found = ray.data.from_items(list(parts), override_num_blocks=len(parts)).map(
        PartPredictor,
        fn_constructor_args=(options, threads),
        compute=ray.data.ActorPoolStrategy(size=max(1, size)),
        num_cpus=min(threads, int(available["CPU"])),
        num_gpus=1 if gpus else 0,
    )
    try:
        yield from found.iter_rows()
    except ray.exceptions.RayError as error:
        _, is_user_error, text = str(error).strip().rpartition("UserError: ")
        if not is_user_error:
            raise
        raise UserError(text) from error
