"""Measure latency, training steps, their parts, memory, and the reading of images.

    python tools/benchmark.py --config-file configs/querypose_light_R50.yaml --what inference [--peer] \\
        [--persons 1 3 10 20] --output output/benchmark.json [KEY VALUE ..]
    python tools/benchmark.py --preset gpu --output output/gpu.json      # all of docs/BENCHMARKS.md's GPU table

Every result is written as soon as it is there; an interrupted call resumes with the same --output.
"""

import json
from pathlib import Path

from querypose.atomic_io import writing
from querypose.benchmark.models import PRECISIONS
from querypose.benchmark.runs import plan, read_results, to_markdown
from querypose.cli import run_tool, tool_parser
from querypose.errors import UserError

LIGHT = "configs/querypose_light_R50.yaml"


def main() -> None:
    parser = tool_parser(__doc__.split("\n")[0])
    add, shown = parser.add_argument, "(default %(default)s)"
    persons = "in an image, a run for each; inference runs keypoint heads for that many (default: as configured)"
    add("--config-file", default=LIGHT, help=f"default {LIGHT}")
    add("--what", choices=("inference", "training", "data", "all"), default="all", help=shown)
    add("--baseline", "--peer", action="store_true", help="also Detectron2's Keypoint R-CNN R50-FPN")
    add("--movenet", metavar="JSON", help="inference: also MoveNet MultiPose, from its movenet-multipose.json")
    add("--preset", choices=("gpu",), help="the runs of the GPU table, instead of --what")
    add("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"), help=shown)
    add("--batch", type=int, default=1, help=f"images at a time (training: in a step) {shown}")
    add("--persons", type=int, nargs="+", help=persons)
    add("--precision", choices=PRECISIONS, default="float32", help=shown)
    add("--repetitions", type=int, default=5, help=shown)
    add("--warm-up", type=int, default=1, help=shown)
    add("--output", type=Path, default=Path("output/benchmark.json"), help=f"results, as JSON {shown}")
    add("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args()
    if min(args.size) < 32 or min(args.batch, args.repetitions, *args.persons or [1]) < 1 or args.warm_up < 0:
        raise UserError("--size must be at least 32 32, --batch, --repetitions and --persons 1, --warm-up 0")

    results = read_results(args.output)
    for name, run in plan(args).items():
        if name in results["runs"]:
            print(f"{name}: done before")
            continue
        print(name, flush=True)
        results["runs"][name] = run()
        with writing(args.output):
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(json.dumps(results, indent=1))
    table, text = args.output.with_suffix(".md"), to_markdown(results)
    table.write_text(text)
    print(f"{text}written to {args.output} and, as a table, to {table}")


if __name__ == "__main__":
    run_tool(main)
