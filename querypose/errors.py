"""Errors that a user can mend, told in one sentence."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(ValueError):
    """A mistake in a config, a file or a command line; its message says what is wrong and how to mend it."""


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn a `UserError` inside the block into `error: <message>` on stderr and exit code 2, without a traceback."""
    try:
        yield
    except UserError as error:
        print(f"error: {one_line(_sentence(error))}", file=sys.stderr)
        sys.exit(2)


def one_line(text: str) -> str:
    """Return text for a terminal: one line, without control characters, which names in hostile files may hold."""
    return "".join(character if character.isprintable() else " " for character in text)


def _sentence(error: UserError) -> str:
    """The message, for an error of a data loader's worker taken from the traceback that PyTorch makes its message."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        return text.strip().splitlines()[-1].partition("Error: ")[2]
    return text
