#!/usr/bin/env python
"""Evaluate a file of results in COCO's format, without a model: box AP and keypoint AP.

Examples:
    tools/evaluate_results.py --dataset keypoints_coco_2017_val --results coco_instances_results.json
    tools/evaluate_results.py --dataset crowdpose_test --results results.json --output metrics.json
    tools/evaluate_results.py --dataset mine/val.json --results results.json --per-keypoint keypoints.png

Files whose images have a crowdIndex are evaluated by CrowdPose's rules, all others by COCO's.
"""

import json

from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from querypose.atomic_io import writing
from querypose.cli import run_tool, tool_parser
from querypose.data.annotations import read_json
from querypose.errors import UserError
from querypose.evaluation import BACKENDS, PROTOCOLS, TASKS, evaluate_coco_results, keypoint_errors
from querypose.evaluation.ground_truth import load_ground_truth
from querypose.visualization.plots import plot_keypoint_errors


def main(args=None):
    parser = tool_parser(__doc__)
    add = parser.add_argument
    add("--dataset", required=True, help="a registered data set, or an annotation file FILE.json")
    add("--results", required=True, help="JSON file of results in COCO's format")
    add("--output", help="JSON file to write the metrics to")
    add("--backend", default=BACKENDS[0], choices=BACKENDS, help="what computes AP")
    add("--protocol", choices=PROTOCOLS, help="whose rules, if not those that the file is made for")
    add("--sigmas", nargs="+", type=float, help="OKS sigmas, one for each keypoint")
    add("--per-keypoint", metavar="PNG", help="print the errors of each keypoint and plot them to this file")
    args = parser.parse_args(args)

    setup_logger(name="querypose")
    results = read_json(args.results, "results")
    # boxes or keypoints alone are valid, too
    first = results[0] if isinstance(results, list) and results else None
    tasks = tuple(task for task in TASKS if isinstance(first, dict) and task in first) or TASKS
    truth = load_ground_truth(args.dataset, args.sigmas, args.protocol)
    metrics = evaluate_coco_results(truth, results, tasks=tasks, backend=args.backend)
    if args.per_keypoint:
        if "keypoints" not in tasks:
            raise UserError("the results have no keypoints: leave out --per-keypoint")
        errors = metrics["per_keypoint"] = keypoint_errors(truth, results)
        print(f"mean OKS of every person's best pose {errors['mean_oks'] or 0:.1f}")
        print(f"{errors['found']} of {errors['persons']} persons found (OKS 0.5); of their keypoints, in %:")
        rows = [{"": name, **values} for name, values in errors["keypoints"].items()]
        print(tabulate(rows, headers="keys", tablefmt="plain", floatfmt=".1f", missingval="-"))
        plot_keypoint_errors(errors, args.per_keypoint, title=args.dataset)
        print(f"plot written to {args.per_keypoint}")
    if args.output:
        # NaN, for which JSON has no word, becomes null
        content = json.loads(json.dumps(metrics), parse_constant=lambda _: None)
        with writing(args.output), open(args.output, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
        print(f"metrics written to {args.output}")


if __name__ == "__main__":
    run_tool(main)
