"""Convert a checkpoint: python tools/convert_weights.py --source authors model_final.pth querypose.pth

--source authors      the authors' ResNet models, full or light, in our naming
--source querypose    a training checkpoint of ours without optimiser and losses, in half precision, to pass on
"""

import argparse
import os

import torch

from querypose.conversion import convert_authors_checkpoint, publishable_weights
from querypose.errors import UserError, exit_on_user_error

SOURCES = {"authors": convert_authors_checkpoint, "querypose": publishable_weights}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=SOURCES, required=True, help="whose checkpoint it is")
    parser.add_argument("input", metavar="IN", help="the checkpoint")
    parser.add_argument("output", metavar="OUT", help="the file to write")
    args = parser.parse_args()
    if os.path.exists(args.output):
        raise UserError(f"{args.output} exists already; remove it or name another file")
    folder = os.path.dirname(args.output) or "."
    if not os.path.isdir(folder):
        raise UserError(f"the folder '{folder}' of the output does not exist; create it first")
    model, dropped = SOURCES[args.source](args.input)
    torch.save({"model": model, "__author__": args.source}, args.output)
    print(f"wrote {args.output}: {len(model)} tensors, {os.path.getsize(args.output) / 2**20:.1f} MiB")
    print(f"left out: {', '.join(dropped) or 'nothing'}")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
