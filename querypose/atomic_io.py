"""Atomic writes, where a file is complete or as it was before, even if the process is killed; errors of writing."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from querypose.errors import UserError

_PARTIAL = ".partial"


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file to write, under another name in the folder; it replaces `path` when the block ends."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")  # several processes may write the same file
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        with contextlib.suppress(OSError):  # the new name survives a power loss, where folders can be opened
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partial_files(folder: str | Path) -> None:
    """Remove what killed processes have left of `whole_file`."""
    for path in Path(folder).glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


def cut_unfinished_line(path: str | Path) -> None:
    """Cut an unfinished last line off a text file, if the file exists."""
    if os.path.isfile(path):
        os.truncate(path, Path(path).read_bytes().rfind(b"\n") + 1)


@contextlib.contextmanager
def writing(place: str | os.PathLike[str], advice: str = "choose another --output") -> Iterator[None]:
    """Turn an `OSError` inside the block into a `UserError`: `place` cannot be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # PyTorch raises an error of its own from one inside the file's write()
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UserError(f"cannot write to {place}: {cause.strerror or cause}; {advice}") from error


def make_output_folder(folder: str | os.PathLike[str], option: str = "--output") -> Path:
    """Make a folder with its parents; a `UserError`, which names the user's option, if it cannot be written to."""
    with writing(folder, f"choose another {option}"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    return Path(folder)


def check_output_file(path: str | Path) -> None:
    """Make the folder of a file with its parents; a `UserError` if the file exists or cannot be written."""
    if not path or os.path.lexists(path):
        raise UserError(f"{path} exists already; remove it or name another file")
    make_output_folder(os.path.dirname(path) or ".", "file")
