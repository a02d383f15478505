"""Make Mini-COCO of a local COCO val2017: python tools/prepare_minicoco.py --coco datasets/coco

The folder holds val2017/ and annotations/person_keypoints_val2017.json; the result is docs/EXPERIMENTS.md's data set.
With --people-of datasets/minicoco, cuts single persons out of a Mini-COCO that is there, for comparisons on a CPU.
"""

import argparse
from pathlib import Path

from querypose.data.coco_keypoints import dataset_root
from querypose.data.minicoco import make_minicoco
from querypose.data.minicoco_people import cut_people
from querypose.errors import exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--coco", type=Path, default=dataset_root() / "coco", help="folder of COCO")
    source.add_argument("--people-of", type=Path, metavar="MINICOCO", help="folder of Mini-COCO to cut persons out of")
    parser.add_argument("--output", type=Path, help="folder to make (default: minicoco or minicoco_people beside COCO)")
    args = parser.parse_args()
    if args.people_of:
        output = args.output or dataset_root() / "minicoco_people"
        made = cut_people(args.people_of, output)
    else:
        output = args.output or dataset_root() / "minicoco"
        annotations = args.coco / "annotations" / "person_keypoints_val2017.json"
        made = make_minicoco(annotations, args.coco / "val2017", output)
    print(f"{made['train']} training and {made['val']} validation images are in {output}")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
