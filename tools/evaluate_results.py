#!/usr/bin/env python
"""Evaluate a file of results in COCO's format, without a model: box AP and keypoint AP.

Examples:
    tools/evaluate_results.py --dataset keypoints_coco_2017_val --results coco_instances_results.json
    tools/evaluate_results.py --dataset crowdpose_test --results results.json --output metrics.json
    tools/evaluate_results.py --dataset mine/val.json --results results.json --per-keypoint keypoints.png

Files whose images have a crowdIndex are evaluated by CrowdPose's rules (AP by easy, medium and hard images), all
others by COCO's.
"""

import argparse
import json
import math

import querypose  # noqa: F401  (first: it silences a warning of fvcore's)

# isort: split
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger

from querypose.atomic_io import writing
from querypose.data import annotation_file
from querypose.data.coco_format import read_json
from querypose.errors import UserError, exit_on_user_error
from querypose.evaluation import BACKENDS, PROTOCOLS, TASKS, evaluate_coco_results, keypoint_errors
from querypose.visualization import plot_keypoint_errors


def tasks_of(results):
    """Return the tasks of which the first result has values: boxes or keypoints alone are valid, too."""
    first = results[0] if isinstance(results, list) and results else None
    return tuple(task for task in TASKS if isinstance(first, dict) and task in first) or TASKS


def sigmas_and_protocol(dataset, sigmas, protocol):
    """What is asked for, else what a registered data set's metadata says, else None: the file decides."""
    if dataset not in DatasetCatalog.list():
        return sigmas, protocol
    metadata = MetadataCatalog.get(dataset)
    is_crowdpose = metadata.get("evaluator_type") == "crowdpose"
    return sigmas or metadata.get("keypoint_oks_sigmas"), protocol or ("crowdpose" if is_crowdpose else None)


def write_metrics(metrics, path):
    """Write the metrics by task as JSON; NaN, for which JSON has no word, as null."""
    content = {
        task: {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        for task, values in metrics.items()
    }
    with writing(path), open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)


def print_keypoint_errors(errors):
    """Print a table of the errors by keypoint."""
    print(f"mean OKS of every person's best pose {errors['mean_oks'] or 0:.1f}")
    print(f"{errors['found']} of {errors['persons']} persons found (OKS 0.5); of their keypoints, in %:")
    width = max(len(name) for name in errors["keypoints"])
    columns = list(next(iter(errors["keypoints"].values())))
    print("".ljust(width), *(f"{column:>12.12}" for column in columns))
    for name, values in errors["keypoints"].items():
        cells = [f"{value:.1f}" if isinstance(value, float) else value for value in values.values()]
        cells = ["-" if cell is None else cell for cell in cells]
        print(name.ljust(width), *(f"{cell:>12}" for cell in cells))


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a registered data set, or an annotation file FILE.json")
    parser.add_argument("--results", required=True, help="JSON file of results in COCO's format")
    parser.add_argument("--output", help="JSON file to write the metrics to")
    parser.add_argument("--backend", default=BACKENDS[0], choices=BACKENDS, help="what computes AP")
    parser.add_argument("--protocol", choices=PROTOCOLS, help="whose rules, if not those that the file is made for")
    parser.add_argument("--sigmas", nargs="+", type=float, help="OKS sigmas, one for each keypoint")
    parser.add_argument(
        "--per-keypoint",
        metavar="PNG",
        help="print how well each keypoint is found, and draw it in this picture",
    )
    args = parser.parse_args(args)

    with exit_on_user_error():
        setup_logger(name="querypose")
        results = read_json(args.results, "results")
        tasks = tasks_of(results)
        path = annotation_file(args.dataset)
        sigmas, protocol = sigmas_and_protocol(args.dataset, args.sigmas, args.protocol)
        metrics = evaluate_coco_results(path, results, sigmas, tasks, args.backend, protocol)
        if args.per_keypoint:
            if "keypoints" not in tasks:
                raise UserError("the results have no keypoints: leave out --per-keypoint")
            errors = keypoint_errors(path, results, sigmas, protocol)
            metrics["per_keypoint"] = errors.to_dict()
            print_keypoint_errors(metrics["per_keypoint"])
            plot_keypoint_errors(errors, args.per_keypoint, title=args.dataset)
            print(f"picture written to {args.per_keypoint}")
        if args.output:
            write_metrics(metrics, args.output)
            print(f"metrics written to {args.output}")


if __name__ == "__main__":
    main()
