"""Errors that a user can fix, reported in one sentence, and output that no terminal can break."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class UserError(ValueError):
    """A mistake in a config, a file or a command line; its message says what is wrong and how to fix it."""


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn a `UserError` inside the block into `error: <message>` on stderr and exit code 2, without a traceback.

    Inside, stdout and stderr print any text in any locale, and may be closed.
    """
    _open_closed_streams()
    try:
        yield
    except UserError as error:
        report_error(error)
        sys.exit(2)


def report_error(error: UserError) -> None:
    """Print `error: <message>` on stderr, on one line."""
    say(f"error: {one_line(_sentence(error))}", sys.stderr)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line to stdout or `stream`; if it cannot be written, because the reader has gone, do without."""
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        # otherwise Python tries to write it again when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_closed_streams() -> None:
    """Open what was closed when Python started, so that files do not get its numbers; let no text be unprintable."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def one_line(text: str) -> str:
    """Return text for a terminal: one line, without control characters, which names in hostile files may hold."""
    return "".join(character if character.isprintable() else " " for character in text)


def _sentence(error: UserError) -> str:
    """The message, for an error of a data loader's worker taken from the traceback that PyTorch makes its message."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        return text.strip().splitlines()[-1].partition("Error: ")[2]
    return text
