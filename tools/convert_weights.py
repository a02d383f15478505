"""Convert a checkpoint: python tools/convert_weights.py --source authors model_final.pth querypose.pth

--source authors      a model of the authors, any backbone, full or light: for evaluation, or to train on
--source hrnet        a pose-HRNet or an ImageNet HRNet: the backbone to start training from
--source swin         an original Swin: the backbone to start training from
--source torchvision  a ResNet-50 or -101 of torchvision: the backbone to start training from
--source movenet      Google's MoveNet MultiPose, movenet-multipose.json with the .bin beside it: the backbone
--source querypose    one of our training checkpoints without the state of the optimizer, in half precision, to publish
--source backbone     the backbone and FPN alone of one of our checkpoints: to start another model from

Prints what was dropped and why, and the config that the weights belong to.
"""

import os
import shlex

from querypose.atomic_io import check_output_file
from querypose.cli import run_tool, tool_parser
from querypose.conversion import CONVERTERS
from querypose.conversion.layout import save_weights
from querypose.errors import UserError


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("--source", choices=CONVERTERS, required=True, help="whose checkpoint it is")
    parser.add_argument("input", metavar="IN", help="the checkpoint")
    parser.add_argument("output", metavar="OUT", help="the file to write")
    args = parser.parse_args()
    check_output_file(args.output)
    try:
        conversion = CONVERTERS[args.source](args.input)
    except UserError:
        raise
    except Exception as error:  # a shape that nothing fits fails wherever it is used first
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        fault = f"a tensor has a shape that --source {args.source} does not know ({reason})"
        raise UserError(f"{args.input} is damaged: {fault}; convert a complete, unchanged checkpoint") from error
    save_weights(conversion.state_dict, args.output)
    size = os.path.getsize(args.output) / 2**20
    print(f"wrote {args.output}: {len(conversion.state_dict)} tensors, {size:.1f} MiB")
    for done, groups in (
        ("left out", conversion.dropped),
        ("randomly initialized", conversion.fresh),
        ("interpolated", conversion.interpolated),
    ):
        for reason, names in groups.items():
            more = len(names) > 1
            print(f"{done} {len(names)} tensor{'s' * more}: {reason} ({names[0]}{', ..' * more})")
    parts = {".".join(name.split(".")[:2]) for name in conversion.state_dict}
    if all(part.startswith("backbone.") for part in parts):
        others = "neck and the decoder" if parts == {"backbone.bottom_up"} else "decoder"
        print(f"randomly initialized: all of the {others} (these are weights of a backbone)")
    if conversion.config:
        config = f"configs/{conversion.config}"
        print(f"config: {config}")
        print(f"overrides: {shlex.join(conversion.overrides) or 'none'}")
        print(f"use: {shlex.join(['--config-file', config, *conversion.overrides, 'MODEL.WEIGHTS', args.output])}")


if __name__ == "__main__":
    run_tool(main)
