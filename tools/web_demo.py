#!/usr/bin/env python
"""Serve a web page that shows the poses in pictures dropped on it.

Example:
    tools/web_demo.py --config-file configs/quickstart.yaml MODEL.WEIGHTS weights/quickstart.pth
"""

import argparse
import functools

from querypose import PosePredictor
from querypose.errors import UserError, exit_on_user_error
from querypose.web import PoseServer, analyze


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the model's config")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default 8000)")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args(arguments)

    predictor = PosePredictor(args.config_file, opts=args.opts)
    try:
        server = PoseServer((args.host, args.port), functools.partial(analyze, predictor))
    except (OSError, OverflowError) as error:
        address = f"{args.host}:{args.port}"
        raise UserError(f"cannot listen on {address} ({error}); choose another --host or --port") from error
    print(f"open {server.url} in a browser; Ctrl-C stops", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
