"""What the demo reads, and the names of what it writes."""

import contextlib
import glob
import os
import re
from collections import defaultdict
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

    Returns the sources, each once and in order, of a folder those directly in it; the inputs that name none; the files
    of folders with other endings.
    """
    found: dict[str, Path | str] = {}
    empty, left_out, readable = [], [], image_endings() | VIDEO_ENDINGS
    for given in inputs:
        if "://" in given:
            found[given] = given
            continue
        pattern = glob.escape(given) if os.path.exists(given) else given
        names = glob.glob(os.path.join(pattern, "*") if os.path.isdir(given) else pattern, recursive=True)
        files = [Path(name) for name in sorted(names) if not os.path.isdir(name)]
        if os.path.isdir(given):
            left_out += [file for file in files if file.suffix.lower() not in readable]
            files = [file for file in files if file.suffix.lower() in readable]
        if not files:
            empty.append(given)
        for file in files:
            found.setdefault(os.path.realpath(file), file)  # Path.resolve raises on links to themselves
    return list(found.values()), empty, left_out


def frames_in_order(sources: Sequence[Source]) -> list[Source]:
    """Sources for tracking: the images of each folder are frames of one video, in the order of their names' numbers.

    Raises `UserError` for a single image in its folder, or of different sizes.
    """
    folders: defaultdict[Path, list[Path]] = defaultdict(list)
    for source in sources:
        if isinstance(source, Path) and not is_video(source):
            folders[source.parent].append(source)
    for folder, files in folders.items():
        files.sort(key=lambda file: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)])
        sizes = set()
        for file in files:
            with contextlib.suppress(UserError), open_image(file) as image:  # unreadable ones are reported later
                sizes.add(upright_size(image))
        if len(files) < 2 or len(sizes) > 1:
            what = "a single image" if len(files) < 2 else "images of different sizes"
            raise UserError(f"{folder} gives {what}; --track needs a video, a camera or the frames of one.")
    return [*filter(is_video, sources), *(file for files in folders.values() for file in files)]


def output_names(sources: Sequence[Source]) -> list[str]:
    """Return the output's file name for each source; of equal stems the second gets _2, the third _3, ...

    PNG stays PNG, videos become MP4, all else JPEG. Names that differ only in letter case count as equal.
    """
    taken: set[str] = set()
    names = []
    for source in sources:
        if isinstance(source, Path):
            original = source.stem
        elif isinstance(source, int):
            original = "webcam"
        else:
            original = re.sub(r"\W+", "_", source.partition("://")[2]).strip("_")[-60:] or "stream"
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
    for source in sources:
        if isinstance(source, Path) and os.path.dirname(os.path.realpath(source)) == os.path.realpath(folder):
            raise UserError(f"{folder} holds the input {source}, which could be overwritten; choose another --output.")
    return folder
