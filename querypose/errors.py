"""Errors that a user can fix, reported in one sentence, and output that no terminal can break."""

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class UserError(ValueError):
    """A mistake in a config, a file or a command line; its message says what is wrong and how to fix it."""


def check_fraction(name: str, value: float) -> None:
    """Raise a `UserError` unless the value is from 0 to 1."""
    if not 0 <= value <= 1:
        raise UserError(f"the {name} must be from 0 to 1, not {value}.")


def imported(package: str, requirement: str) -> Any:
    """The package; a `UserError` that says what to install if it is not there."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"{package} is not installed: pip install {requirement}") from error


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn a `UserError` inside the block into `error: <message>` on stderr and exit code 2, without a traceback.

    From then on, stdout and stderr print any text in any locale, and may be closed, full, or a pipe without a reader.
    """
    # open what was closed when Python started, so that files do not get its numbers
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = _forgiving(sys.stdout or open(1, "w", closefd=False))
    sys.stderr = _forgiving(sys.stderr or open(2, "w", closefd=False))
    try:
        yield
    except UserError as error:
        report_error(error)
        sys.exit(2)


def report_error(error: UserError) -> None:
    """Print `error: <message>` on stderr, on one line."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:  # PyTorch's, around one of a data loader's worker
        text = text.strip().splitlines()[-1].partition("Error: ")[2]
    print(f"error: {one_line(text)}", file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """Return text for a terminal: one line, without control characters, which names in hostile files may hold."""
    return "".join(character if character.isprintable() else " " for character in text)


class _ForgivingStream(io.TextIOWrapper):
    """Text output that goes nowhere once its reader is gone or its disk is full."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        # what is still buffered is written there, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def _forgiving(stream: TextIO) -> TextIO:
    if type(stream) is not io.TextIOWrapper:  # a test's or a notebook's
        return stream
    stream.flush()
    binary = open(stream.fileno(), "wb", closefd=False)
    return _ForgivingStream(binary, stream.encoding, "backslashreplace", line_buffering=stream.line_buffering)
