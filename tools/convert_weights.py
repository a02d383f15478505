"""Make checkpoints of others ours: python tools/convert_weights.py --source authors model_final.pth querypose.pth"""

import argparse
import os
import sys

import torch

from querypose.conversion import convert_authors_checkpoint
from querypose.errors import UserError, exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--source", choices=["authors"], required=True, help="whose checkpoint it is")
    parser.add_argument("input", metavar="IN", help="their checkpoint")
    parser.add_argument("output", metavar="OUT", help="the file to write")
    args = parser.parse_args()
    if os.path.exists(args.output):
        raise UserError(f"{args.output} exists already; remove it or name another file")
    model, dropped = convert_authors_checkpoint(args.input)
    torch.save({"model": model, "__author__": "QueryPose authors", "matching_heuristics": False}, args.output)
    print(f"wrote {args.output}: {len(model)} tensors")
    print(f"dropped, because they carry no function: {', '.join(dropped) or 'nothing'}")


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
