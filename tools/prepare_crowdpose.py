#!/usr/bin/env python
"""Prepare CrowdPose's official files for training: check, repair, complete, and write train + val as one.

Example:
    tools/prepare_crowdpose.py --annotations CrowdPose/json --images CrowdPose/images

writes crowdpose/annotations/crowdpose_{train,val,trainval,test}.json below DETECTRON2_DATASETS and, unless the images
are there already, a link crowdpose/images to their folder. The official files are never changed; the program can run
again.
"""

import argparse
from pathlib import Path

from querypose.atomic_io import writing
from querypose.data.coco_keypoints import dataset_root
from querypose.data.crowdpose import CROWDPOSE_SPLITS
from querypose.data.prepare.crowdpose import CrowdPoseFile, find_official_files, join, write_prepared
from querypose.errors import UserError, exit_on_user_error


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files = "the official crowdpose_{train,val,test}.json, or their folder"
    parser.add_argument("--annotations", nargs="+", required=True, metavar="PATH", help=files)
    parser.add_argument("--images", help="folder of the images (default: OUTPUT/images)")
    parser.add_argument("--output", help="folder to write (default: crowdpose in the folder of the data sets)")
    parser.add_argument("--allow-missing", action="store_true", help="leave out missing images")
    options = parser.parse_args(args)
    with exit_on_user_error():
        output = Path(options.output) if options.output else dataset_root() / "crowdpose"
        images = Path(options.images) if options.images else output / "images"
        prepare(options.annotations, images, output, options.allow_missing)


def prepare(sources: list[str], images: Path, output: Path, allow_missing: bool) -> None:
    """Write the prepared files of `sources` below `output` and print what was done."""
    official = find_official_files(sources)
    targets = {split: output / "annotations" / f"crowdpose_{split}.json" for split in CROWDPOSE_SPLITS}
    if not images.is_dir():
        raise UserError(f"there is no image folder {images}; name it by --images")
    link = output / "images"
    if (link.exists() or link.is_symlink()) and link.resolve() != images.resolve():
        raise UserError(f"{link} exists and is not {images}; remove it, or choose another --output")

    # everything is checked before anything is written
    files = {split: CrowdPoseFile(path, images, allow_missing=allow_missing) for split, path in official.items()}
    contents = {split: file.content for split, file in files.items()}
    if "train" in files and "val" in files:
        contents["trainval"] = join(files["train"], files["val"])
    with writing(output):
        targets["train"].parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(images.resolve())
            print(f"{link} -> {images.resolve()}")
        for split, content in contents.items():
            note = "" if write_prepared(content, targets[split]) else " (existed already)"
            persons = content["annotations"]
            counted = sum(person["num_keypoints"] > 0 and not person["iscrowd"] for person in persons)
            summary = f"{len(content['images'])} images, {len(persons)} persons"
            print(f"{targets[split]}{note}: {summary}, of which {counted} count in the evaluation")
            if split in files:
                print(f"    from {files[split].path}, which is not changed")
                for title, counts in (("changed", files[split].changes), ("not changed", files[split].remarks)):
                    for what, number in counts.items():
                        print(f"    {title}: {number} {what}")
    absent = [f"crowdpose_{split}" for split in CROWDPOSE_SPLITS if split not in contents]
    if absent:
        print(f"not written, because their files are missing: {', '.join(absent)}")


if __name__ == "__main__":
    main()
