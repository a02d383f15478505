#!/usr/bin/env python3
"""Find persons in images, draw them, and write their keypoints in COCO's format.

Example:
    python tools/demo.py --config-file configs/querypose_R50.yaml --input photo.jpg folder 'more/*.png' \
        --output found MODEL.WEIGHTS model.pth
"""

import argparse
import glob
import json
import os
import re
import sys
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from querypose import PosePredictor
from querypose.errors import UserError, exit_on_user_error
from querypose.predictor import read_image_rgb, to_coco
from querypose.visualization import draw_poses

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"}
CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+")


def parse_arguments(arguments=None):
    """Parse the command line; `opts` holds the KEY VALUE pairs, wherever they stand."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="KEY VALUE pairs override the config, for example: MODEL.WEIGHTS model.pth MODEL.DEVICE cpu. "
        "Results: OUTPUT/<image name>.jpg (or .png), OUTPUT/predictions.json (COCO results), "
        "OUTPUT/images.json (ids, names and sizes). The image id is the number that is the file's name if "
        "all names are numbers, as in COCO; else images count from 1.",
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the model's config")
    parser.add_argument(
        "--input", required=True, nargs="+", metavar="PATH", help="images, folders of images, globs"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to; made if absent")
    parser.add_argument(
        "--score-threshold", type=float, default=0.3, help="leave out persons below it (default 0.3)"
    )
    parser.add_argument(
        "--keypoint-threshold", type=float, default=0.5, help="do not draw keypoints below it (default 0.5)"
    )
    parser.add_argument("--no-boxes", action="store_true", help="draw neither boxes nor scores")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args(arguments)

    # Pairs right behind --input's paths end up among them.
    for index, path in enumerate(args.input):
        if CONFIG_KEY.fullmatch(path) and not os.path.exists(path):
            args.input, args.opts = args.input[:index], args.input[index:] + args.opts
            break
    if not args.input:
        parser.error("--input needs at least one image, folder or glob")
    return args


def find_images(inputs):
    """Return the image files that `inputs` name, each once, in order, and the inputs that name none."""
    found, empty = {}, []
    for given in inputs:
        if os.path.isdir(given):
            files = sorted(
                p for p in Path(given).iterdir() if p.suffix.lower() in IMAGE_ENDINGS and p.is_file()
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

    PNG stays PNG, all else becomes JPEG. Names that differ only in letter case count as equal.
    """
    taken, names = set(), []
    for file in files:
        stem, count = file.stem, 1
        while stem.lower() in taken:
            count += 1
            stem = f"{file.stem}_{count}"
        taken.add(stem.lower())
        names.append(stem + (".png" if file.suffix.lower() == ".png" else ".jpg"))
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


def process_image(file, predictor, args):
    """Return the persons in an image file, its picture with them (H, W, 3) RGB, its own (height, width)."""
    image = read_image_rgb(file)
    persons = predictor(image)
    picture = draw_poses(
        image,
        persons,
        predictor.skeleton,
        score_threshold=args.score_threshold,
        keypoint_threshold=args.keypoint_threshold,
        show_boxes=not args.no_boxes,
        show_scores=not args.no_boxes,
    )
    return persons, picture, image.shape[:2]


def main(arguments=None):
    """Run the demo; return 0, or 2 if an input could not be used."""
    args = parse_arguments(arguments)
    files, empty = find_images(args.input)
    if not files:
        raise UserError(
            f"no images found in {', '.join(args.input)}; give image files, folders of images or globs."
        )
    output = prepare_output(args.output, files)
    predictor = PosePredictor(args.config_file, score_threshold=args.score_threshold, opts=args.opts)

    failures = [f"no images found in {given}." for given in empty]
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    predictions, images = [], []
    jobs = zip(files, output_names(files), image_ids(files), strict=True)
    for file, name, image_id in tqdm(jobs, total=len(files), unit="image", disable=None):
        try:
            persons, picture, (height, width) = process_image(file, predictor, args)
        except UserError as error:
            failures.append(str(error))
            tqdm.write(f"error: {error}", file=sys.stderr)
            continue
        try:
            Image.fromarray(picture).save(output / name, quality=95, subsampling=0)
        except OSError as error:
            raise UserError(f"cannot write {output / name}: {error.strerror or error}.") from error
        images.append({"id": image_id, "file_name": str(file), "height": height, "width": width})
        predictions += [{**result, "file_name": str(file)} for result in to_coco(persons, image_id)]

    write_json(predictions, output / "predictions.json")
    write_json({"images": images}, output / "images.json")
    print(
        f"{len(predictions)} persons in {len(images)} images: pictures and predictions.json are in {output}"
        + (f"; {len(failures)} inputs could not be used" if failures else "")
    )
    return 2 if failures else 0


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
