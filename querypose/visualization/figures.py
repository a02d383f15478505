"""What all plots share: their palette and how they are written."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from querypose.errors import UserError

BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
"""Okabe and Ito's palette without yellow, which is faint on paper."""


def save_figure(figure: Figure, path: str | Path, **options: Any) -> Path:
    """Write a figure in the format of the path's suffix and return the path; missing folders are created.

    options: of `Figure.savefig`.

    Raises `UserError` for a suffix that matplotlib does not know and for a path that cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, **options)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written: {reason}; give a writable path that ends in .png") from error
    return path
