"""Make Mini-COCO of a local COCO val2017: python tools/prepare_minicoco.py --coco datasets/coco

The folder holds val2017/ and annotations/person_keypoints_val2017.json; the result is docs/EXPERIMENTS.md's data set.
"""

from pathlib import Path

from querypose.cli import run_tool, tool_parser
from querypose.data.coco_keypoints import dataset_root
from querypose.data.prepare.minicoco import make_minicoco


def main():
    parser = tool_parser(__doc__.split("\n")[0])
    parser.add_argument("--coco", type=Path, default=dataset_root() / "coco", help="folder of COCO")
    parser.add_argument("--output", type=Path, default=dataset_root() / "minicoco", help="folder to make")
    args = parser.parse_args()
    annotations = args.coco / "annotations" / "person_keypoints_val2017.json"
    made = make_minicoco(annotations, args.coco / "val2017", args.output)
    print(f"{made['train']} training and {made['val']} validation images are in {args.output}")


if __name__ == "__main__":
    run_tool(main)
