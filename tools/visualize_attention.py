#!/usr/bin/env python3
r"""Draw the attention of each part in a stage, person by person (Figure 5 of the paper).

Example:
    python tools/visualize_attention.py --config-file configs/quickstart.yaml --output attention \
        --input docs/images/synthetic_people.jpg MODEL.WEIGHTS weights/quickstart.pth

Writes OUTPUT/<image name>_person<n>.png, each with the pose and an image per part, and <image name>_attention.png.
"""

from pathlib import Path

from querypose import PosePredictor
from querypose.cli import run_tool, split_overrides, tool_parser
from querypose.demo.inputs import output_names
from querypose.errors import UserError, report_error
from querypose.image_io import read_image_rgb
from querypose.structures import SCORE_THRESHOLD
from querypose.visualization.draw_poses import part_names
from querypose.visualization.sheets import attention_panels, write_sheets

CELL = (200, 240)  # width and height of a part's image in pixels


def main(arguments=None):
    parser = tool_parser(__doc__, model=True)
    add = parser.add_argument
    add("--input", required=True, nargs="+", metavar="IMAGE", help="image files")
    add("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    add("--stage", type=int, help="1 is the first; default the last")
    add("--score-threshold", type=float, default=SCORE_THRESHOLD, help="leave out poses below it (default %(default)s)")
    args = parser.parse_intermixed_args(arguments)
    args.input, args.opts = split_overrides(args.input, args.opts)
    if not args.input:
        parser.error("--input needs at least one image")

    predictor = PosePredictor(args.config_file, score_threshold=args.score_threshold, opts=args.opts)
    num_stages = predictor.cfg.MODEL.QUERYPOSE.NUM_STAGES
    stage = num_stages if args.stage is None else args.stage
    if not 1 <= stage <= num_stages:
        raise UserError(f"--stage {stage}, but this model has the stages 1 to {num_stages}")
    headings = ("pose", *part_names(predictor.cfg, predictor.skeleton))
    failed = False
    for path, name in zip(args.input, output_names([Path(path) for path in args.input]), strict=True):
        try:
            image = read_image_rgb(path)
        except UserError as error:
            report_error(error)
            failed = True
            continue
        persons, stem = predictor.with_attention(image, stage - 1), Path(name).stem
        sheets = []
        for i, score in enumerate(persons.scores.tolist()):
            panels = attention_panels(image, persons, i, CELL[1])
            sheets.append((f"{stem}_person{i + 1}.png", (f"person {i + 1}, score {score:.2f}", panels)))
        write_sheets(sheets, args.output, f"{stem}_attention.png", headings, columns=1, cell_size=CELL)
        print(f"{path}: {len(persons)} persons, attention of stage {stage} in {args.output}")
    return 2 if failed else 0


if __name__ == "__main__":
    run_tool(main)
