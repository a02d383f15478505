#!/usr/bin/env python3
"""Serve a web page that shows the poses in uploaded images.

Examples, the first with the small model for photographs:
    python tools/web_demo.py
    python tools/web_demo.py --config-file configs/querypose_R50.yaml MODEL.WEIGHTS model.pth
"""

from querypose import PosePredictor
from querypose.cli import run_tool, tool_parser


def main(arguments=None):
    parser = tool_parser(__doc__, model=True)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default 8000)")
    args = parser.parse_intermixed_args(arguments)

    from querypose.web import MIN_SCORE, serve

    predictor = PosePredictor(args.config_file, score_threshold=MIN_SCORE, opts=args.opts)
    page = serve(predictor, args.host, args.port)
    print(f"open {page.local_url} in a browser; Ctrl-C stops", flush=True)
    page.block_thread()


if __name__ == "__main__":
    run_tool(main)
