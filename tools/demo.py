#!/usr/bin/env python3
r"""Find persons in images, videos or a camera, draw them, and write their keypoints as JSON and CSV.

Examples, the first with the small model for photographs:
    python tools/demo.py --input photo.jpg folder 'more/*.png' --output found
    python tools/demo.py --config-file configs/querypose_R50.yaml --input match.mp4 --output found --top-k 22 \
        MODEL.WEIGHTS model.pth
    python tools/demo.py --config-file configs/querypose_R50.yaml --webcam --output found MODEL.WEIGHTS model.pth

Writes to OUTPUT: <name>.jpg (or .png) of an image and <name>.mp4 of a video; predictions.json (COCO results),
images.json (ids, names and sizes), frames.jsonl (a line for each image or frame) and persons.csv (a line for each
person). The image id is the number that is the file's name if all names are numbers, as in COCO; else images and frames
count from 1. Ctrl-C ends a video or camera after the current frame; the results so far are kept.
"""

from querypose import PosePredictor
from querypose.cli import run_tool, split_overrides, tool_parser
from querypose.demo.inputs import find_inputs, frames_in_order, prepare_output
from querypose.demo.run import Demo
from querypose.errors import UserError, check_fraction
from querypose.predictor import PRECISIONS
from querypose.structures import SCORE_THRESHOLD
from querypose.tracking import LOW_SCORE, MIN_SCORE, PoseTracker
from querypose.visualization.draw_poses import COLOR_BY, CONFIDENCE


def parse_arguments(arguments=None):
    """Parse the command line; `opts` are the KEY VALUE pairs, wherever they appear."""
    parser = tool_parser(__doc__, model=True)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    inputs = "images, videos, folders of them, globs, addresses of streams"
    source.add_argument("--input", nargs="+", metavar="PATH", help=inputs)
    source.add_argument("--webcam", nargs="?", type=int, const=0, metavar="N", help="a camera, by number (default 0)")
    add("--output", default="output/poses", metavar="DIR", help="folder to write to (default output/poses)")
    shown = "(default %(default)s)"
    threshold = f"leave out persons below it (default {SCORE_THRESHOLD}; with --track, of new persons: {MIN_SCORE})"
    add("--score-threshold", type=float, help=threshold)
    add("--keypoint-threshold", type=float, default=0.5, help=f"do not draw keypoints below it {shown}")
    add("--top-k", type=int, metavar="K", help="only the K best persons of an image")
    add("--max-frames", type=int, metavar="N", help="end a video or camera after N frames")
    add("--device", help="cpu, cuda, cuda:1, ... (default: the config's, or cpu without a GPU)")
    precision = "of the network; auto (default) is bfloat16 on CPUs that are faster in it, else float32"
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help=precision)
    add("--track", action="store_true", help="follow persons from frame to frame; see docs/TRACKING.md")
    add("--smooth", action="store_true", help="with --track, smooth the keypoints over time")
    add("--color-by", choices=COLOR_BY, help="what colors limbs (default side; with --track: person)")
    add("--confidence", choices=CONFIDENCE, default="both", help=f"how a keypoint's confidence shows {shown}")
    ellipses = "draw ellipses of N predicted sigmas around keypoints (without a number: 1); docs/UNCERTAINTY.md"
    add("--sigmas", nargs="?", type=float, const=1.0, default=0.0, metavar="N", help=ellipses)
    add("--no-boxes", action="store_true", help="draw neither boxes nor scores")
    add("--attention", action="store_true", help="overlay the attention of the parts of the last stage")
    args = parser.parse_intermixed_args(arguments)

    args.input, args.opts = split_overrides(args.input or (), args.opts)
    if args.webcam is None and not args.input:
        parser.error("--input needs at least one image, video, folder or glob")
    if args.webcam is not None and args.webcam < 0:  # OpenCV would crash
        parser.error("--webcam must be 0 or greater")
    if args.max_frames is not None and args.max_frames < 1 or not 0 <= args.sigmas < float("inf"):
        parser.error("--max-frames must be at least 1 and --sigmas a positive number")
    if args.smooth and not args.track:
        parser.error("--smooth needs --track, which tells whose keypoints to smooth")
    if args.score_threshold is None:
        args.score_threshold = MIN_SCORE if args.track else SCORE_THRESHOLD
    check_fraction("score threshold", args.score_threshold)
    check_fraction("keypoint threshold", args.keypoint_threshold)
    return args


def main(arguments=None):
    """Run the demo; return 0, 2 if an input could not be used, 130 after Ctrl-C."""
    args = parse_arguments(arguments)
    sources, empty = ([args.webcam], []) if args.webcam is not None else find_inputs(args.input)
    if not sources:
        raise UserError(f"no images found in {', '.join(args.input)}; give images, videos, folders of them or globs.")
    tracker = PoseTracker(min_score=args.score_threshold, smooth=args.smooth) if args.track else None
    if args.track:
        sources = frames_in_order(sources)
    output = prepare_output(args.output, sources)
    score = min(args.score_threshold, LOW_SCORE) if args.track else args.score_threshold
    options = {"device": args.device, "top_k": args.top_k, "precision": args.precision, "opts": args.opts}
    predictor = PosePredictor(args.config_file, score_threshold=score, **options)
    drawing = {"keypoint_threshold": args.keypoint_threshold, "confidence": args.confidence, "sigmas": args.sigmas}
    drawing["color_by"] = args.color_by or ("person" if args.track else "side")
    drawing["show_boxes"] = drawing["show_scores"] = not args.no_boxes
    demo = Demo(predictor, output, attention=args.attention, max_frames=args.max_frames, tracker=tracker, **drawing)
    for given in empty:
        demo.fail(given, UserError(f"no images found in {given}."))
    demo.run(sources)

    print(
        f"{demo.num_persons} persons in {demo.num_images} images and frames"
        + (f": visualizations and predictions.json are in {output}" if demo.num_images else "; nothing was written")
        + (f"; {len(demo.failures)} inputs could not be used" if demo.failures else "")
        + ("; ended by Ctrl-C" if demo.interrupted else "")
    )
    return 130 if demo.interrupted else 2 if demo.failures else 0


if __name__ == "__main__":
    run_tool(main)
