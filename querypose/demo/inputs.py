"""What the demo reads, and the names of what it writes."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from querypose.atomic_io import make_output_folder
from querypose.demo.video import Source
from querypose.errors import UserError
from querypose.image_io import image_endings

VIDEO_ENDINGS = {
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".h264", ".hevc", ".m2ts", ".m2v", ".m4v", ".mjpeg",
    ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".qt", ".ts", ".vob", ".webm",
    ".wmv", ".y4m",
}  # fmt: skip


def is_video(source: Source) -> bool:
    """Whether a source is a video, a stream or a camera, by its ending or address."""
    return not isinstance(source, Path) or source.suffix.lower() in VIDEO_ENDINGS


def find_inputs(inputs: Sequence[str]) -> tuple[list[Path | str], list[str]]:
    """Find the images and videos that `inputs` name: files, folders, globs or addresses of streams.

    Returns the sources, each once and in order, of a folder those directly in it; and the inputs that name none.
    """
    found: dict[str, Path | str] = {}
    empty, readable = [], image_endings() | VIDEO_ENDINGS
    for given in inputs:
        if "://" in given:
            found[given] = given
            continue
        pattern = glob.escape(given) if os.path.exists(given) else given
        names = glob.glob(os.path.join(pattern, "*") if os.path.isdir(given) else pattern, recursive=True)
        files = [Path(name) for name in sorted(names) if not os.path.isdir(name)]
        if os.path.isdir(given):
            files = [file for file in files if file.suffix.lower() in readable]
        if not files:
            empty.append(given)
        for file in files:
            found.setdefault(os.path.realpath(file), file)  # Path.resolve raises on links to themselves
    return list(found.values()), empty


def frames_in_order(sources: Sequence[Source]) -> list[Source]:
    """Sources for tracking: the images of each folder are frames of one video, in the order of their names' numbers."""

    def place(file: Path) -> tuple[Path, list[str | int]]:
        parts = re.split(r"(\d+)", file.name)
        return file.parent, [int(part) if part.isdecimal() else part for part in parts]

    images = [source for source in sources if isinstance(source, Path) and not is_video(source)]
    return [*filter(is_video, sources), *sorted(images, key=place)]


def output_names(sources: Sequence[Source]) -> list[str]:
    """Return the output's file name for each source; of equal stems the second gets _2, the third _3, ...

    PNG stays PNG, videos become MP4, all else JPEG. Names that differ only in letter case count as equal.
    """
    taken: set[str] = set()
    names = []
    for source in sources:
        original = source.stem if isinstance(source, Path) else "webcam" if isinstance(source, int) else "stream"
        stem, number = original, 1
        while stem.lower() in taken:
            number += 1
            stem = f"{original}_{number}"
        taken.add(stem.lower())
        is_png = isinstance(source, Path) and source.suffix.lower() == ".png"
        names.append(stem + (".mp4" if is_video(source) else ".png" if is_png else ".jpg"))
    return names


def image_ids(files: Sequence[Path]) -> list[int]:
    """Return the numbers that the files' names are, as in COCO; if not all are distinct numbers, 1, 2, ..."""
    ids = [int(file.stem) for file in files if file.stem.isdecimal()]
    return ids if len(set(ids)) == len(files) else list(range(1, len(files) + 1))


def prepare_output(folder: str | Path, sources: Sequence[Source]) -> Path:
    """Make the output folder; raise `UserError` if it cannot be written to or holds an input image."""
    folder = make_output_folder(folder)
    for source in (source for source in sources if isinstance(source, Path)):
        places = {os.path.realpath(source.parent), os.path.dirname(os.path.realpath(source))}  # a link's and its file's
        if os.path.realpath(folder) in places:
            raise UserError(f"{folder} holds the input {source}, which could be overwritten; choose another --output.")
    return folder
