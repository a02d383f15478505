#!/usr/bin/env python
"""Make CrowdPose's official files ready for training: check, repair, complete, and write train + val as one.

Example:
    tools/prepare_crowdpose.py --annotations CrowdPose/json --images CrowdPose/images

writes crowdpose/annotations/crowdpose_{train,val,trainval,test}.json below DETECTRON2_DATASETS and, unless the images
are there already, a link crowdpose/images to their folder. What is read is never changed; the program can run again.
"""

import argparse
from pathlib import Path

from querypose.data.coco_keypoints import dataset_root
from querypose.data.crowdpose import CROWDPOSE_SPLITS
from querypose.data.prepare.crowdpose import CrowdPoseFile, find_official_files, join, write_prepared
from querypose.errors import UserError, exit_on_user_error


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--annotations",
        nargs="+",
        required=True,
        metavar="PATH",
        help="the official crowdpose_{train,val,test}.json, or their folder; those that are there are prepared",
    )
    parser.add_argument("--images", help="folder of the images (default: OUTPUT/images)")
    parser.add_argument("--output", help="folder to write (default: crowdpose in the folder of the data sets)")
    parser.add_argument("--allow-missing", action="store_true", help="leave out images that are not there")
    args = parser.parse_args(args)
    with exit_on_user_error():
        output = Path(args.output) if args.output else dataset_root() / "crowdpose"
        images = Path(args.images) if args.images else output / "images"
        prepare(args.annotations, images, output, args.allow_missing)


def prepare(sources, images, output, allow_missing):
    """Write the prepared files of `sources` below `output` and print what was done."""
    official = find_official_files(sources)
    targets = {split: output / "annotations" / f"crowdpose_{split}.json" for split in CROWDPOSE_SPLITS}
    for source in official.values():
        if source.resolve() in [target.resolve() for target in targets.values()]:
            raise UserError(f"{source} would be read and written; put the official files elsewhere, in json/ say")
    if not images.is_dir():
        raise UserError(f"there is no image folder {images}; name it by --images")
    check_link(images, output / "images")

    # all is checked before anything is written
    files = {split: CrowdPoseFile(path, images, allow_missing=allow_missing) for split, path in official.items()}
    contents = {split: file.content for split, file in files.items()}
    renumbered = 0
    if "train" in files and "val" in files:
        contents["trainval"], renumbered = join(files["train"], files["val"])

    try:
        targets["train"].parent.mkdir(parents=True, exist_ok=True)
        if not (output / "images").exists():
            (output / "images").symlink_to(images.resolve())
            print(f"{output / 'images'} -> {images.resolve()}")
        for split in CROWDPOSE_SPLITS:
            if split in contents:
                news = "" if write_prepared(contents[split], targets[split]) else " (was there already)"
                print(f"{targets[split]}{news}: {summary(contents[split])}")
                report(files.get(split), renumbered)
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}; choose another --output") from error
    absent = [split for split in CROWDPOSE_SPLITS if split not in contents]
    if absent:
        print(f"not written, for want of their files: {', '.join(f'crowdpose_{split}' for split in absent)}")


def check_link(images, link):
    """Raise a UserError if `link`, where the images are looked for, is there and is another folder than `images`."""
    if (link.exists() or link.is_symlink()) and link.resolve() != images.resolve():
        raise UserError(f"{link} is there and is not {images}; remove it, or choose another --output")


def summary(content):
    """One line on how much a prepared file holds."""
    persons = content["annotations"]
    counted = sum(person["num_keypoints"] > 0 and not person["iscrowd"] for person in persons)
    return f"{len(content['images'])} images, {len(persons)} persons, of which {counted} count in the evaluation"


def report(file, renumbered):
    """Print what was changed and what else is worth knowing; `file` is None for trainval, made of two files."""
    if file is None:
        print(f"    train and val in one file{f', {renumbered} annotation ids changed' if renumbered else ''}")
        return
    print(f"    made of {file.path}, which stays as it is")
    for what, number in file.changes.items():
        print(f"    changed: {number} {what}")
    for what, number in file.remarks.items():
        print(f"    left as it is: {number} {what}")


if __name__ == "__main__":
    main()
