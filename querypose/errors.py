"""Errors that a user can fix, reported in one sentence, and output that no terminal can break."""

import contextlib
import importlib
import io
import re
import sys
from collections.abc import Iterator
from typing import Any


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

    From then on, stdout and stderr print any text in any locale.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not a notebook's
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except UserError as error:
        report_error(error)
        sys.exit(2)


def report_error(error: UserError) -> None:
    """Print `error: <message>` on stderr, on one line and without control characters, which names of files may hold."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:  # PyTorch's, around one of a data loader's worker
        text = re.sub(r"(?s)^.*\n\S*Error: ", "", text).strip()
    printable = "".join(character if character.isprintable() else " " for character in text)
    print(f"error: {printable}", file=sys.stderr, flush=True)
