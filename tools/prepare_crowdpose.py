#!/usr/bin/env python
"""Prepare CrowdPose's official files for training: check, repair, complete, and write train + val as one.

Example:
    tools/prepare_crowdpose.py --annotations CrowdPose/json --images CrowdPose/images

writes crowdpose/annotations/crowdpose_{train,val,trainval,test}.json below DETECTRON2_DATASETS and, unless the images
are there already, a link crowdpose/images to their folder. The official files are never changed; the program can run
again.
"""

from pathlib import Path

from querypose.atomic_io import writing
from querypose.cli import run_tool, tool_parser
from querypose.data.coco_keypoints import dataset_root
from querypose.data.crowdpose import CROWDPOSE_SPLITS
from querypose.data.prepare.crowdpose import complete, find_official_files, join, write_prepared
from querypose.errors import UserError


def main():
    parser = tool_parser(__doc__)
    files = "the official crowdpose_{train,val,test}.json, or their folder"
    parser.add_argument("--annotations", nargs="+", required=True, metavar="PATH", help=files)
    parser.add_argument("--images", help="folder of the images (default: OUTPUT/images)")
    parser.add_argument("--output", help="folder to write (default: crowdpose in the folder of the data sets)")
    parser.add_argument("--allow-missing", action="store_true", help="leave out missing images")
    options = parser.parse_args()
    output = Path(options.output) if options.output else dataset_root() / "crowdpose"
    images = Path(options.images) if options.images else output / "images"
    official = find_official_files(options.annotations)
    if not images.is_dir():
        raise UserError(f"there is no image folder {images}; name it by --images")
    link = output / "images"
    if (link.exists() or link.is_symlink()) and link.resolve() != images.resolve():
        raise UserError(f"{link} exists and is not {images}; remove it, or choose another --output")

    contents = {}  # all before anything is written
    for split, path in official.items():
        contents[split], words = complete(path, images, options.allow_missing)
        print(f"{path} stays as it is; changed in the copy:", *words, sep="\n    ")
    if {"train", "val"} <= contents.keys():
        contents["trainval"] = join(contents["train"], contents["val"])
    with writing(output):
        (output / "annotations").mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(images.resolve())
            print(f"{link} -> {images.resolve()}")
        for split, content in contents.items():
            target = output / "annotations" / f"crowdpose_{split}.json"
            write_prepared(content, target)
            print(f"{target}: {len(content['images'])} images, {len(content['annotations'])} persons")
    if absent := [split for split in CROWDPOSE_SPLITS if split not in contents]:
        print(f"not written, because their files are missing: {', '.join(absent)}")


if __name__ == "__main__":
    run_tool(main)
