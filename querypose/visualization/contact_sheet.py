"""A sheet of picture pairs: predictions beside the ground truth."""

import cv2
import numpy as np

from querypose.errors import UserError
from querypose.visualization.draw_poses import draw_label, label_size

PAPER = (255, 255, 255)
MAT = (236, 236, 236)


def contact_sheet(
    rows, titles=None, *, columns=1, cell_size=(480, 360), headings=("ground truth", "prediction"), gap=12
):
    """Lay pictures out in a grid of equal cells, `columns` rows side by side.

    rows: sequence of tuples of (H, W, 3) uint8 RGB pictures of any size, as many per tuple as there are
    headings; titles: one string per tuple, written above its pictures; cell_size: width and height in pixels
    of one picture's cell, in which it is fitted whole; gap: pixels between tuples.
    Draw persons on a picture at about the size of its cell, so that lines are not thinned by shrinking.

    Returns one (H, W, 3) uint8 RGB picture. Raises `UserError` if there is nothing to show or the counts
    differ.
    """
    rows = [tuple(row) for row in rows]
    titles = [""] * len(rows) if titles is None else [str(title) for title in titles]
    if not rows:
        raise UserError("a contact sheet needs at least one picture.")
    if columns < 1:
        raise UserError(f"a contact sheet needs at least one column, not {columns}.")
    if len(titles) != len(rows):
        raise UserError(f"a contact sheet of {len(rows)} rows needs as many titles, not {len(titles)}.")
    if any(len(row) != len(headings) for row in rows):
        raise UserError(f"each row of this contact sheet needs {len(headings)} pictures: {', '.join(headings)}.")

    cell_width, cell_height = cell_size
    size = max(11, cell_width // 24)
    title_height = label_size("", size)[1] if any(titles) else 0
    heading_height = label_size("", size)[1] if any(headings) else 0
    columns = min(columns, len(rows))
    lines = -(-len(rows) // columns)
    # Thin lines of paper part the pictures of a tuple, broad ones the tuples.
    pitch = cell_width + max(1, gap // 4)
    tile_width, tile_height = len(headings) * pitch - (pitch - cell_width), title_height + cell_height
    sheet = np.full(
        (heading_height + gap + lines * (tile_height + gap), gap + columns * (tile_width + gap), 3),
        PAPER,
        np.uint8,
    )

    lefts = [gap + column * (tile_width + gap) for column in range(columns)]
    for left in lefts:
        for k, heading in enumerate(headings):
            _write(sheet, heading, (left + k * pitch, gap // 2), size, cell_width)
    for index, (row, title) in enumerate(zip(rows, titles, strict=True)):
        top = heading_height + gap + (index // columns) * (tile_height + gap)
        left = lefts[index % columns]
        _write(sheet, title, (left, top), size, tile_width)
        for k, picture in enumerate(row):
            cell_left, cell_top = left + k * pitch, top + title_height
            sheet[cell_top : cell_top + cell_height, cell_left : cell_left + cell_width] = fit_in_cell(
                picture, cell_size
            )
    return sheet


def fit_in_cell(picture, cell_size):
    """Return the whole picture (H, W, 3), as large as fits, centred in a cell of (width, height) pixels."""
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or picture.size == 0:
        raise UserError(
            f"a picture of a contact sheet must be uint8 of shape (H, W, 3), not {picture.dtype} of {picture.shape}."
        )
    cell_width, cell_height = cell_size
    height, width = picture.shape[:2]
    scale = min(cell_width / width, cell_height / height)
    width, height = max(1, round(scale * width)), max(1, round(scale * height))
    cell = np.full((cell_height, cell_width, 3), MAT, np.uint8)
    left, top = (cell_width - width) // 2, (cell_height - height) // 2
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    cell[top : top + height, left : left + width] = cv2.resize(picture, (width, height), interpolation=method)
    return cell


def _write(sheet, text, top_left, size, room):
    """Write text of at most `room` pixels, its end left out if need be."""
    if text and label_size(text, size)[0] > room:
        while text and label_size(text + "…", size)[0] > room:
            text = text[:-1]
        text += "…"
    if text:
        draw_label(sheet, text, top_left, size=size, background=PAPER)
