#!/usr/bin/env python
"""Evaluate a file of results in COCO's format: box AP and keypoint AP.

Example:
    tools/evaluate_results.py --dataset keypoints_coco_2017_val --results coco_instances_results.json
"""

import argparse
import json
import math

from detectron2.utils.logger import setup_logger

from querypose.data import annotation_file
from querypose.errors import UserError, exit_on_user_error
from querypose.evaluation import BACKENDS, evaluate_coco_results

TASKS = ("bbox", "keypoints")


def load_results(path):
    """Return the content of a JSON file, or raise a `UserError`."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise UserError(f"the results {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"the results {path} are not valid JSON ({error}); write them anew") from error


def tasks_of(results):
    """Return the tasks of which the first result has values: boxes or keypoints alone are valid, too."""
    first = results[0] if isinstance(results, list) and results else None
    return tuple(task for task in TASKS if isinstance(first, dict) and task in first) or TASKS


def write_metrics(metrics, path):
    """Write the metrics by task as JSON; NaN, for which JSON has no word, as null."""
    content = {
        task: {name: value if math.isfinite(value) else None for name, value in values.items()}
        for task, values in metrics.items()
    }
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
    except OSError as error:
        raise UserError(f"the metrics cannot be written to {path}: {error.strerror}") from error


def main(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataset", required=True, help="a registered data set, or an annotation file FILE.json"
    )
    parser.add_argument("--results", required=True, help="JSON file of results in COCO's format")
    parser.add_argument("--output", help="JSON file to write the metrics to")
    parser.add_argument("--backend", default=BACKENDS[0], choices=BACKENDS, help="what computes AP")
    args = parser.parse_args(args)

    setup_logger(name="querypose")
    with exit_on_user_error():
        results = load_results(args.results)
        metrics = evaluate_coco_results(
            annotation_file(args.dataset), results, tasks=tasks_of(results), backend=args.backend
        )
        if args.output:
            write_metrics(metrics, args.output)
            print(f"metrics written to {args.output}")


if __name__ == "__main__":
    main()
