#!/usr/bin/env python3
"""Serve a web page that shows the poses in uploaded images.

Examples, the first with the small model for photographs:
    python tools/web_demo.py
    python tools/web_demo.py --config-file configs/querypose_R50.yaml MODEL.WEIGHTS model.pth
"""

import argparse

from querypose import PosePredictor
from querypose.errors import exit_on_user_error


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", metavar="FILE", help="the model's config (default: the small model)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default 8000)")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args(arguments)

    from querypose.web import MIN_SCORE, serve

    predictor = PosePredictor(args.config_file, score_threshold=MIN_SCORE, opts=args.opts)
    page = serve(predictor, args.host, args.port)
    print(f"open {page.local_url} in a browser; Ctrl-C stops", flush=True)
    page.block_thread()


if __name__ == "__main__":
    with exit_on_user_error():
        main()
