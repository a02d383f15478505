"""Files that are there whole or not at all, whenever the process that writes them ends."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_PARTIAL = ".partial"


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file to write inside the block; it takes its name, over an older one, when the block has ended.

    Until then it lies beside it under another name, which goes away with an error, and which `remove_partial_files`
    finds after a process that was killed. The content is on the disk before the name is.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partial_files(folder: str | Path) -> None:
    """Remove what processes that were killed while they wrote have left in a folder."""
    for path in Path(folder).glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


def cut_unfinished_line(path: str | Path) -> None:
    """Drop what stands after the last line end of a text file that lines were being added to; nothing without it."""
    path = Path(path)
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _sync_folder(folder: Path) -> None:
    """Write the folder's new entry to the disk, where the system lets folders be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
