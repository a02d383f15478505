#!/usr/bin/env python3
"""Find persons in images, videos or a camera's pictures, draw them, and write their keypoints as JSON and CSV.

Examples:
    python tools/demo.py --config-file configs/querypose_R50.yaml --input photo.jpg folder 'more/*.png' \
        --output found MODEL.WEIGHTS model.pth
    python tools/demo.py --config-file configs/querypose_R50.yaml --input match.mp4 --output found --top-k 22 \
        MODEL.WEIGHTS model.pth
    python tools/demo.py --config-file configs/querypose_R50.yaml --webcam --output found MODEL.WEIGHTS model.pth
"""

import argparse
import contextlib
import csv
import glob
import itertools
import json
import os
import re
import sys
import time
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from querypose import PosePredictor
from querypose.errors import UserError, exit_on_user_error
from querypose.persons import record_columns, to_coco
from querypose.predictor import PRECISIONS, read_image_rgb
from querypose.visualization import draw_poses
from querypose.visualization.draw_poses import COLOUR_BY, CONFIDENCE, default_scale
from querypose.visualization.video import VideoReader, VideoWriter, stop_on_interrupt

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"}
VIDEO_ENDINGS = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"}
CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+")


def parse_arguments(arguments=None):
    """Parse the command line; `opts` holds the KEY VALUE pairs, wherever they stand."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="KEY VALUE pairs override the config, for example: MODEL.WEIGHTS model.pth. "
        "Results: OUTPUT/<name>.jpg (or .png) of an image and OUTPUT/<name>.mp4 of a video; OUTPUT/predictions.json "
        "(COCO results), OUTPUT/images.json (ids, names and sizes), OUTPUT/frames.jsonl (a line for each image or "
        "frame) and OUTPUT/persons.csv (a line for each person). The image id is the number that is the file's name "
        "if all names are numbers, as in COCO; else images and frames count from 1. Ctrl-C ends a video or camera "
        "after the present frame; what was found so far is kept.",
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the model's config")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", metavar="PATH", help="images, videos, folders of them, globs")
    source.add_argument("--webcam", nargs="?", type=int, const=0, metavar="N", help="a camera, by number (default 0)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to; made if absent")
    parser.add_argument(
        "--score-threshold", type=float, default=0.3, help="leave out persons below it (default 0.3)"
    )
    parser.add_argument(
        "--keypoint-threshold", type=float, default=0.5, help="do not draw keypoints below it (default 0.5)"
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="only the K best persons of an image")
    parser.add_argument("--max-frames", type=int, metavar="N", help="end a video or camera after N frames")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the config's, or cpu without a GPU)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of the network; half is for GPUs (default float32)"
    )
    parser.add_argument(
        "--color-by", choices=COLOUR_BY, default="side", help="what limbs are coloured by (default side)"
    )
    parser.add_argument(
        "--confidence", choices=CONFIDENCE, default="both", help="how a keypoint's confidence shows (default both)"
    )
    parser.add_argument("--no-boxes", action="store_true", help="draw neither boxes nor scores")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args(arguments)

    # Pairs right behind --input's paths end up among them.
    for index, path in enumerate(args.input or ()):
        if CONFIG_KEY.fullmatch(path) and not os.path.exists(path):
            args.input, args.opts = args.input[:index], args.input[index:] + args.opts
            break
    if args.webcam is None and not args.input:
        parser.error("--input needs at least one image, video, folder or glob")
    if args.max_frames is not None and args.max_frames < 1:
        parser.error("--max-frames must be at least 1")
    return args


def find_images(inputs):
    """Return the image and video files that `inputs` name, each once, in order, and the inputs that name none."""
    found, empty = {}, []
    for given in inputs:
        if os.path.isdir(given):
            files = sorted(
                p
                for p in Path(given).iterdir()
                if p.suffix.lower() in IMAGE_ENDINGS | VIDEO_ENDINGS and p.is_file()
            )
        elif os.path.exists(given):
            files = [Path(given)]
        else:
            files = [Path(p) for p in sorted(glob.glob(given, recursive=True)) if os.path.isfile(p)]
        if not files:
            empty.append(given)
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values()), empty


def output_names(files):
    """Return a picture's name for each file; of equal stems the second gets _2, the third _3, ...

    PNG stays PNG, videos become MP4, all else JPEG. Names that differ only in letter case count as equal.
    """
    taken, names = set(), []
    for file in files:
        stem, count = file.stem, 1
        while stem.lower() in taken:
            count += 1
            stem = f"{file.stem}_{count}"
        taken.add(stem.lower())
        ending = file.suffix.lower()
        names.append(stem + (".mp4" if ending in VIDEO_ENDINGS else ".png" if ending == ".png" else ".jpg"))
    return names


def image_ids(files):
    """Return the numbers that the files' names are, as in COCO; if not all are distinct numbers, 1, 2, ..."""
    if all(file.stem.isdecimal() for file in files):
        ids = [int(file.stem) for file in files]
        if len(set(ids)) == len(ids):
            return ids
    return list(range(1, len(files) + 1))


def prepare_output(folder, files):
    """Make the output folder; raise `UserError` if it cannot be written to or holds an input image."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write_test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; choose another folder with --output."
        ) from error
    for file in files:
        if file.resolve().parent == folder.resolve():
            raise UserError(
                f"{folder} holds the input {file}, which could be overwritten; choose another --output."
            )
    return folder


def write_json(value, file):
    """Write JSON so that the file is whole or as it was before."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(value))
    partial.replace(file)


class Results:
    """What was found, in files: a table and lines that grow with every image, the rest at the end."""

    def __init__(self, folder, skeleton, ids):
        """ids: an iterator over image ids."""
        self.folder, self.ids = folder, ids
        self.predictions, self.images = [], []
        self._lines = open(folder / "frames.jsonl", "w", encoding="utf-8")
        self._table = open(folder / "persons.csv", "w", encoding="utf-8", newline="")
        columns = ["image_id", "file_name", "frame", "time", *record_columns(skeleton)]
        self._rows = csv.DictWriter(self._table, columns)
        self._rows.writeheader()

    def add(self, persons, name, size, frame=None, seconds=None):
        """size: height, width; frame counts from 0 and seconds from the beginning of a video."""
        place = {"image_id": next(self.ids), "file_name": name, "frame": frame, "time": seconds}
        self.images.append(
            {"id": place["image_id"], "file_name": name, "height": size[0], "width": size[1]}
            | ({} if frame is None else {"frame": frame, "time": seconds})
        )
        self.predictions += [{**result, "file_name": name} for result in to_coco(persons, place["image_id"])]
        self._rows.writerows({**place, **record} for record in persons.to_records())
        self._lines.write(json.dumps({**place, "persons": persons.to_records()}) + "\n")

    def close(self):
        self._lines.close()
        self._table.close()
        write_json(self.predictions, self.folder / "predictions.json")
        write_json({"images": self.images}, self.folder / "images.json")


def draw(image, persons, args, scale=None):
    """The picture of an (H, W, 3) RGB image with its persons."""
    return draw_poses(
        image,
        persons,
        persons.skeleton,
        score_threshold=args.score_threshold,
        keypoint_threshold=args.keypoint_threshold,
        show_boxes=not args.no_boxes,
        show_scores=not args.no_boxes,
        colour_by=args.color_by,
        confidence=args.confidence,
        scale=scale,
    )


def process_image(file, picture_file, predictor, args, results):
    """Find and draw the persons of an image file; raise `UserError` if it cannot be read."""
    image = read_image_rgb(file)
    persons = predictor(image)
    try:
        Image.fromarray(draw(image, persons, args)).save(picture_file, quality=95, subsampling=0)
    except OSError as error:
        raise UserError(f"cannot write {picture_file}: {error.strerror or error}.") from error
    results.add(persons, str(file), image.shape[:2])


def process_video(source, video_file, predictor, args, results, stop):
    """Find and draw the persons of a video file or camera (an int), until its end or until `stop` is set.

    A camera's frames are repeated in the output for as long as each was worked on, so that it plays in real time.
    Raises `UserError` if there is nothing to read.
    """
    reader = VideoReader(source)
    count, start = 0, time.monotonic()
    total = min(reader.num_frames or sys.maxsize, args.max_frames or sys.maxsize)
    progress = tqdm(
        total=None if total == sys.maxsize else total, desc=Path(reader.name).name, unit="frame", disable=None
    )
    try:
        with VideoWriter(video_file, reader.frame_rate) as writer, progress:
            for frame in reader:
                persons = predictor(frame)
                seconds = time.monotonic() - start if reader.is_camera else count / reader.frame_rate
                picture = draw(frame, persons, args, scale=default_scale(*frame.shape[:2]))
                wanted = round(seconds * reader.frame_rate) if reader.is_camera else 0
                for _ in range(max(1, wanted - writer.num_frames)):
                    writer.write(picture)
                results.add(persons, reader.name, frame.shape[:2], count, round(seconds, 4))
                count += 1
                progress.update()
                if stop.is_set() or count == args.max_frames:
                    break
    finally:
        reader.close()
    if count == 0:
        raise UserError(f"{reader.name} has no frame that can be read; leave it out or mend it.")


def main(arguments=None):
    """Run the demo; return 0, 2 if an input could not be used, 130 after Ctrl-C."""
    args = parse_arguments(arguments)
    if args.webcam is None:
        files, empty = find_images(args.input)
        if not files:
            raise UserError(
                f"no images found in {', '.join(args.input)}; give images, videos, folders of them or globs."
            )
        sources, names = files, output_names(files)
    else:
        files, empty, sources, names = [], [], [args.webcam], ["webcam.mp4"]
    output = prepare_output(args.output, files)
    predictor = PosePredictor(
        args.config_file,
        device=args.device,
        score_threshold=args.score_threshold,
        top_k=args.top_k,
        precision=args.precision,
        opts=args.opts,
    )

    failures = [f"no images found in {given}." for given in empty]
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    moving = [source for source in sources if isinstance(source, int) or source.suffix.lower() in VIDEO_ENDINGS]
    ids = itertools.count(1) if moving else dict(zip(files, image_ids(files), strict=True))
    results = Results(output, predictor.skeleton, ids if moving else None)
    with stop_on_interrupt() as stop, contextlib.closing(results):
        jobs = list(zip(sources, names, strict=True))
        for source, name in tqdm(jobs, unit="input", disable=True if len(jobs) == 1 else None):
            if stop.is_set():
                break
            try:
                if source in moving:
                    process_video(source, output / name, predictor, args, results, stop)
                else:
                    if not moving:
                        results.ids = iter([ids[source]])
                    process_image(source, output / name, predictor, args, results)
            except UserError as error:
                failures.append(str(error))
                tqdm.write(f"error: {error}", file=sys.stderr)

    print(
        f"{len(results.predictions)} persons in {len(results.images)} {'frames' if moving else 'images'}: "
        f"pictures and predictions.json are in {output}"
        + (f"; {len(failures)} inputs could not be used" if failures else "")
        + ("; ended by Ctrl-C" if stop.is_set() else "")
    )
    return 130 if stop.is_set() else 2 if failures else 0


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
