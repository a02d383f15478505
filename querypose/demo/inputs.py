"""What the demo reads, and the names of what it writes."""

import contextlib
import glob
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from querypose.atomic_io import make_output_folder
from querypose.demo.video import Source
from querypose.errors import UserError
from querypose.image_io import image_endings, open_image, upright_size

VIDEO_ENDINGS = {
    ".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg",
    ".mts", ".mxf", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv",
}  # fmt: skip


def is_video(source: Source) -> bool:
    """Whether a source is a video, a stream or a camera, by its ending or address."""
    return not isinstance(source, Path) or source.suffix.lower() in VIDEO_ENDINGS


def find_inputs(inputs: Sequence[str]) -> tuple[list[Path | str], list[str], list[Path]]:
    """Find the images and videos that `inputs` name: files, folders, globs or addresses of streams.

    Of a folder, the images and videos in it are used, by name; folders in it are not.

    Returns:
        the sources, each once and in order; the inputs that name none; the files of folders that were left out because
        of their endings.

    Raises:
        UserError: a folder that cannot be read.
    """
    found: dict[str, Path | str] = {}
    empty, left_out = [], []
    for given in inputs:
        files: list[Path]
        if "://" in given:
            found.setdefault(given, given)
            continue
        if os.path.isdir(given):
            try:
                entries = sorted(Path(given).iterdir())
            except OSError as error:
                raise UserError(f"cannot read the folder {given}: {error.strerror}; check its permissions") from error
            files = [path for path in entries if not (path.is_dir() or path.name.startswith("."))]
            readable = image_endings() | VIDEO_ENDINGS
            left_out += [path for path in files if path.suffix.lower() not in readable]
            files = [path for path in files if path.suffix.lower() in readable]
        elif os.path.exists(given):
            files = [Path(given)]
        else:
            files = [Path(path) for path in sorted(glob.glob(given, recursive=True)) if os.path.isfile(path)]
        if not files:
            empty.append(given)
        for file in files:
            found.setdefault(os.path.realpath(file), file)  # Path.resolve raises on links to themselves
    return list(found.values()), empty, left_out


def frames_in_order(sources: Sequence[Source]) -> list[Source]:
    """Sources for tracking: the images of each folder are frames of one video, in the order of their names' numbers.

    Raises `UserError` for images that cannot be frames: a single one in its folder, or of different sizes.
    """
    folders: dict[Path, list[Path]] = {}
    for source in sources:
        if isinstance(source, Path) and not is_video(source):
            folders.setdefault(source.parent, []).append(source)
    for folder, files in folders.items():
        files.sort(key=lambda file: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)])
        sizes = set()
        for file in files:
            with contextlib.suppress(UserError), open_image(file) as image:  # unreadable ones are reported later
                sizes.add(upright_size(image))
        if len(files) < 2 or len(sizes) > 1:
            what = "images of different sizes" if len(files) > 1 else "a single image"
            raise UserError(
                f"--track follows persons from frame to frame, but {folder} gives {what}; give a video, a camera or "
                "the frames of one, or leave out --track."
            )
    videos = [source for source in sources if is_video(source)]
    return [*videos, *(file for files in folders.values() for file in files)]


def output_names(sources: Sequence[Source]) -> list[str]:
    """Return the output's file name for each source; of equal stems the second gets _2, the third _3, ...

    PNG stays PNG, videos become MP4, all else JPEG. Names that differ only in letter case count as equal.
    """
    taken: set[str] = set()
    names = []
    for source in sources:
        ending = ".mp4" if is_video(source) else ".jpg"
        if isinstance(source, Path):
            original = source.stem
            ending = ".png" if source.suffix.lower() == ".png" else ending
        elif isinstance(source, int):
            original = "webcam"
        else:
            original = re.sub(r"\W+", "_", source.partition("://")[2]).strip("_")[-60:] or "stream"
        numbered = (f"{original}_{number}" for number in itertools.count(2))
        stem = next(name for name in itertools.chain([original], numbered) if name.lower() not in taken)
        taken.add(stem.lower())
        names.append(stem + ending)
    return names


def image_ids(files: Sequence[Path]) -> list[int]:
    """Return the numbers that the files' names are, as in COCO; if not all are distinct numbers, 1, 2, ..."""
    ids = [int(file.stem) for file in files if file.stem.isdecimal()]
    return ids if len(set(ids)) == len(files) else list(range(1, len(files) + 1))


def prepare_output(folder: str | Path, sources: Sequence[Source]) -> Path:
    """Make the output folder; raise `UserError` if it cannot be written to or holds an input image."""
    folder = make_output_folder(folder)
    for source in sources:
        if isinstance(source, Path) and os.path.dirname(os.path.realpath(source)) == os.path.realpath(folder):
            raise UserError(f"{folder} holds the input {source}, which could be overwritten; choose another --output.")
    return folder
