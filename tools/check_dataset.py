#!/usr/bin/env python
"""Check data sets and report what is wrong with them, and which persons training and evaluation use.

Examples:
    tools/check_dataset.py keypoints_coco_2017_val
    tools/check_dataset.py mine/train.json@mine/images mine/val.json --picture histograms.png --output report.json

Duplicate images are also found between the data sets. The exit code is 0 if nothing was found, 1 if something was, 2 if
the check could not be made.
"""

import json
import sys
from pathlib import Path

from querypose.atomic_io import writing
from querypose.cli import tool_parser
from querypose.data.dataset_check import PROBLEMS, check_dataset
from querypose.errors import UserError, exit_on_user_error, report_error
from querypose.visualization.plots import plot_dataset


def main(args=None):
    parser = tool_parser(__doc__)
    names = "registered names, FILE.json, FILE.json@IMAGE_FOLDER, FILE.yaml@SPLIT"
    parser.add_argument("datasets", nargs="+", help=names)
    parser.add_argument("--picture", metavar="PNG", help="draw histograms of sizes, persons and keypoints")
    parser.add_argument("--output", metavar="JSON", help="write the report to this file, too")
    parser.add_argument("--headers-only", action="store_true", help="read only image headers: faster, finds less")
    args = parser.parse_args(args)
    with exit_on_user_error():
        reports, pictures = [], {}
        for dataset in args.datasets:
            try:
                report = check_dataset(dataset, headers_only=args.headers_only, pictures=pictures)
            except UserError as error:
                report_error(error)
                continue
            reports.append(report)
            print(f"{dataset}: " + ", ".join(f"{number} {what}" for what, number in report.counts.items()))
            print(f"  {report.summary}")
            for kind, found in report.problems.items():
                print(f"  {len(found)} {PROBLEMS[kind]}, such as {found[0]}")
            if not report.problems:
                print("  nothing is wrong with it")
            if report.flip_warning:
                print(f"  {report.flip_warning}")
        if args.picture and reports:
            plot_dataset(reports, args.picture)
            print(f"histograms written to {args.picture}")
        if args.output:
            with writing(args.output):
                Path(args.output).write_text(json.dumps([report.to_dict() for report in reports], indent=2))
        sys.exit(2 if len(reports) < len(args.datasets) else int(any(report.problems for report in reports)))


if __name__ == "__main__":
    main()
