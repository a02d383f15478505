"""Atomic writes: a file is complete or as it was before, even if the process is killed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_PARTIAL = ".partial"


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file to write inside the block; it replaces `path` when the block ends without an error.

    Until then it has another name in the same folder, which `remove_partial_files` removes after a process that was
    killed. The content is on the disk before the name is.
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
    """Remove the unfinished files of killed processes from a folder."""
    for path in Path(folder).glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


def cut_unfinished_line(path: str | Path) -> None:
    """Cut an unfinished last line off a text file, if the file exists."""
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
