#!/usr/bin/env python3
"""Draw losses, learning rate and AP of one or several training runs.

Example:
    python tools/plot_training.py output/querypose_R50 output/querypose_light_R50 --output training.png
"""

from pathlib import Path

from querypose.cli import run_tool, tool_parser
from querypose.visualization.plots import plot_training


def main(arguments=None):
    parser = tool_parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folders of training, or their metrics.json")
    parser.add_argument("--output", required=True, metavar="PNG", help="the plot to write: .png, .svg or .pdf")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="the runs' names (default: as given)")
    args = parser.parse_args(arguments)
    files = [Path(run) / "metrics.json" if Path(run).is_dir() else Path(run) for run in args.runs]
    plot_training(files, args.output, args.labels or args.runs)
    print(f"written: {args.output}")


if __name__ == "__main__":
    run_tool(main)
