"""A sheet of images side by side: predictions beside the ground truth, say."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from querypose.errors import UserError
from querypose.visualization.draw_poses import font, label_size

PAPER = (255, 255, 255)
MAT = (236, 236, 236)
SHEET_ROWS = 24


def contact_sheet(
    rows: Iterable[Sequence[np.ndarray]],
    titles: Sequence[str] | None = None,
    *,
    columns: int = 1,
    cell_size: tuple[int, int] = (480, 360),
    headings: Sequence[str] = ("ground truth", "prediction"),
    gap: int = 12,
) -> np.ndarray:
    """Lay images out in a grid of equal cells, `columns` rows side by side.

    rows: sequences of (H, W, 3) uint8 RGB images of any size, as many per row as there are headings;
    titles: one per row, written above its images; cell_size: width and height in pixels of the cell in which an
    image is fitted; gap: pixels between rows.

    Returns one (H, W, 3) uint8 RGB image.
    """
    rows = list(rows)
    titles = [""] * len(rows) if titles is None else titles
    columns = min(columns, len(rows))
    cell_width, cell_height = cell_size
    size = max(11, cell_width // 24)
    line_height = label_size("", size)[1]
    top = gap + (line_height if any(headings) else 0)
    title_height = line_height if any(titles) else 0
    # narrow lines separate the images of a row, broad ones the rows
    pitch = cell_width + max(1, gap // 4)
    tile_width, tile_height = len(headings) * pitch - (pitch - cell_width), title_height + cell_height
    height = top + -(-len(rows) // columns) * (tile_height + gap)
    sheet = Image.new("RGB", (gap + columns * (tile_width + gap), height), PAPER)
    ink = ImageDraw.Draw(sheet)

    def write(text: str, left: int, top: int, room: int) -> None:
        shown = text
        while shown and label_size(shown, size)[0] > room:
            text = text[:-1]
            shown = text + "…"
        ink.text((left + 2, top + line_height / 2), shown, font=font(size), fill=(0, 0, 0), anchor="lm")

    for column in range(columns):
        for index, heading in enumerate(headings):
            write(heading, gap + column * (tile_width + gap) + index * pitch, gap // 2, cell_width)
    for number, (row, title) in enumerate(zip(rows, titles, strict=True)):
        x, y = gap + number % columns * (tile_width + gap), top + number // columns * (tile_height + gap)
        write(title, x, y, tile_width)
        for index, image in zip(range(len(headings)), row, strict=True):
            cell = ImageOps.pad(Image.fromarray(image), cell_size, method=Image.Resampling.BICUBIC, color=MAT)
            sheet.paste(cell, (x + index * pitch, y + title_height))
    return np.asarray(sheet)


def write_sheets(
    entries: Iterable[tuple[str, str, Sequence[np.ndarray]]], folder: Path, overview: str, headings: Sequence[str]
) -> None:
    """Write a sheet for each entry, and one of the first `SHEET_ROWS` entries to the file `overview`.

    entries: a file name, a title and one image per heading. The folder is created if it does not exist.

    Raises `UserError` if a file cannot be written.
    """
    rows: list[Sequence[np.ndarray]] = []
    titles: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, title, images in entries:
            height, width = images[0].shape[:2]
            sheet = contact_sheet([images], [title], cell_size=(width, height), headings=headings)
            Image.fromarray(sheet).save(folder / name)
            if len(rows) < SHEET_ROWS:
                rows.append(images)
                titles.append(title)
        if rows:
            sheet = contact_sheet(rows, titles, columns=2, cell_size=(400, 320), headings=headings)
            Image.fromarray(sheet).save(folder / overview)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}; choose another --output.") from error
