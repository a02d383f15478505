#!/usr/bin/env python3
r"""Print a model's modules, with the parameters and the multiply-adds of each.

Examples:
    python tools/analyze_model.py --config-file configs/querypose_R50.yaml
    python tools/analyze_model.py --config-file configs/querypose_R50.yaml --depth 5 --size 640 640 \
        MODEL.QUERYPOSE.NUM_QUERIES 50

No weights are read and nothing is computed: the numbers follow from the shapes of the tensors, as in docs/MODEL_ZOO.md.
Every query goes through all stages; norms, activations, interpolation and pooling are not counted.
"""

from querypose.analysis import module_table
from querypose.cli import run_tool, tool_parser
from querypose.setup_config import setup_config


def main(arguments=None):
    parser = tool_parser(__doc__)
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="the model's config")
    add("--depth", type=int, default=3, metavar="D", help="levels of modules to show (default 3)")
    shown = "of the image in pixels, padded to multiples of 32 (default 800 1216)"
    add("--size", type=int, nargs=2, default=(800, 1216), metavar=("H", "W"), help=shown)
    add("opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args(arguments)
    if args.depth < 0:
        parser.error("--depth must be 0 or more")
    if min(args.size) < 1:
        parser.error("--size needs a height and a width of at least 1 pixel")

    cfg = setup_config(args.config_file, args.opts)
    height, width = (-(-side // 32) * 32 for side in args.size)
    print(f"{args.config_file}, one image of {height} x {width} pixels")
    print(module_table(cfg, height, width, args.depth))


if __name__ == "__main__":
    run_tool(main)
