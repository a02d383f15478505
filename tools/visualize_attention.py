#!/usr/bin/env python3
"""Draw where the parts' attention of a stage lies on each person (Figure 5 of the paper).

Example:
    python tools/visualize_attention.py --config-file configs/quickstart.yaml --input photo.jpg --output attention \
        MODEL.WEIGHTS weights/quickstart.pth

Writes OUTPUT/<image name>_person<n>.png, each with the pose and a picture per part, and
OUTPUT/<image name>_attention.png with all persons.
"""

import argparse
import os
import re
from pathlib import Path

from PIL import Image

from querypose import PosePredictor
from querypose.errors import UserError, exit_on_user_error
from querypose.modeling import build_part_division
from querypose.predictor import read_image_rgb
from querypose.visualization import contact_sheet, part_names, person_panels

CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Za-z0-9_]+)+")
CELL = (200, 240)  # width and height of a part's picture in pixels


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the model's config")
    parser.add_argument("--input", required=True, nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write to; made if absent")
    parser.add_argument("--stage", type=int, help="1 is the first; default the last")
    parser.add_argument("--score-threshold", type=float, default=0.3, help="leave out persons below it (default 0.3)")
    parser.add_argument("--persons", type=int, default=10, help="at most so many of an image, the surest (default 10)")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args(arguments)
    # pairs right behind --input's files end up among them
    for index, path in enumerate(args.input):
        if CONFIG_KEY.fullmatch(path) and not os.path.exists(path):
            args.input, args.opts = args.input[:index], args.input[index:] + args.opts
            break
    if not args.input:
        parser.error("--input needs at least one image")
    return args


def main(arguments=None):
    args = parse_arguments(arguments)
    missing = [path for path in args.input if not os.path.isfile(path)]
    if missing:
        raise UserError(f"there is no image {missing[0]}; check the path.")
    stems = [Path(path).stem for path in args.input]
    twice = [stem for stem in stems if stems.count(stem) > 1]
    if twice:
        raise UserError(f"two images are named {twice[0]}, and so would be their pictures; draw them one by one.")
    if args.persons < 1:
        raise UserError(f"--persons {args.persons} must be at least 1")
    predictor = PosePredictor(args.config_file, score_threshold=args.score_threshold, opts=args.opts)
    config = predictor.cfg.MODEL.QUERYPOSE
    stage = config.NUM_STAGES if args.stage is None else args.stage
    if not 1 <= stage <= config.NUM_STAGES:
        raise UserError(f"--stage {stage}, but this model has the stages 1 to {config.NUM_STAGES}")
    names = part_names(
        predictor.skeleton, build_part_division(predictor.skeleton, config.PART_DIVISION, config.PART_GROUPS)
    )
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {args.output}: {error.strerror}; choose another --output.") from error
    for path, stem in zip(args.input, stems, strict=True):
        image = read_image_rgb(path)
        persons = predictor.with_attention(image, stage - 1)[: args.persons]
        draw(image, persons, predictor.skeleton, names, args.output, stem)
        print(f"{path}: {len(persons)} persons, attention of stage {stage} in {args.output}")


def draw(image, persons, skeleton, names, folder, stem):
    """Write a picture of each person and, if there are any, a sheet of all."""
    rows = [person_panels(image, persons, index, skeleton, height=CELL[1]) for index in range(len(persons))]
    titles = [f"person {index}, score {score:.2f}" for index, score in enumerate(persons.scores.tolist(), start=1)]
    headings = ("pose", *names)
    for number, (row, title) in enumerate(zip(rows, titles, strict=True), start=1):
        sheet = contact_sheet([row], [title], cell_size=CELL, headings=headings)
        Image.fromarray(sheet).save(folder / f"{stem}_person{number}.png")
    if rows:
        sheet = contact_sheet(rows, titles, cell_size=CELL, headings=headings)
        Image.fromarray(sheet).save(folder / f"{stem}_attention.png")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
