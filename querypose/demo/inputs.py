"""What there is to look at, and where the pictures of it go."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from querypose.errors import UserError

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"}
VIDEO_ENDINGS = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"}


def is_video(file: Path) -> bool:
    """Whether a file is a video by its ending."""
    return file.suffix.lower() in VIDEO_ENDINGS


def find_images(inputs: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return the image and video files that `inputs` name, each once, in order, and the inputs that name none.

    An input is a file, a folder (its images and videos, by name; not the folders in it) or a glob.
    """
    found: dict[Path, Path] = {}
    empty = []
    for given in inputs:
        if os.path.isdir(given):
            endings = IMAGE_ENDINGS | VIDEO_ENDINGS
            files = sorted(p for p in Path(given).iterdir() if p.suffix.lower() in endings and p.is_file())
        elif os.path.exists(given):
            files = [Path(given)]
        else:
            files = [Path(p) for p in sorted(glob.glob(given, recursive=True)) if os.path.isfile(p)]
        if not files:
            empty.append(given)
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values()), empty


def output_names(files: Sequence[Path]) -> list[str]:
    """Return a picture's name for each file; of equal stems the second gets _2, the third _3, ...

    PNG stays PNG, videos become MP4, all else JPEG. Names that differ only in letter case count as equal.
    """
    taken: set[str] = set()
    names = []
    for file in files:
        stem, count = file.stem, 1
        while stem.lower() in taken:
            count += 1
            stem = f"{file.stem}_{count}"
        taken.add(stem.lower())
        names.append(stem + (".mp4" if is_video(file) else ".png" if file.suffix.lower() == ".png" else ".jpg"))
    return names


def image_ids(files: Sequence[Path]) -> list[int]:
    """Return the numbers that the files' names are, as in COCO; if not all are distinct numbers, 1, 2, ..."""
    if all(file.stem.isdecimal() for file in files):
        ids = [int(file.stem) for file in files]
        if len(set(ids)) == len(ids):
            return ids
    return list(range(1, len(files) + 1))


def prepare_output(folder: str | os.PathLike, files: Sequence[Path]) -> Path:
    """Make the output folder; raise `UserError` if it cannot be written to or holds an input image."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write_test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder with --output.") from error
    for file in files:
        if file.resolve().parent == folder.resolve():
            raise UserError(f"{folder} holds the input {file}, which could be overwritten; choose another --output.")
    return folder
