"""A sheet of images side by side: predictions beside the ground truth, say."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from querypose.atomic_io import writing
from querypose.visualization.draw_poses import font, label_size

PAPER, MAT = (255, 255, 255), (236, 236, 236)
GAP = 12  # pixels between rows
SHEET_ROWS = 24


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str] | None = None,
    *,
    columns: int = 1,
    cell_size: tuple[int, int] = (480, 360),
    headings: Sequence[str] = ("ground truth", "prediction"),
) -> np.ndarray:
    """Lay images out in a grid of equal cells, `columns` rows side by side.

    rows: sequences of (H, W, 3) uint8 RGB images of any size, one per heading. titles: one per row, written above it.
    cell_size: width and height in pixels of the cell in which an image is fitted.

    Returns one (H, W, 3) uint8 RGB image.
    """
    titles, columns = titles or [""] * len(rows), min(columns, len(rows))
    cell_width, cell_height = cell_size
    size = max(11, cell_width // 24)
    line_height = label_size("", size)[1]
    top = GAP + (line_height if any(headings) else 0)
    title_height = line_height if any(titles) else 0
    # narrow lines separate the images of a row, broad ones the rows
    pitch = cell_width + GAP // 4
    tile_width, tile_height = len(headings) * pitch - GAP // 4, title_height + cell_height
    height = top + -(-len(rows) // columns) * (tile_height + GAP)
    sheet = Image.new("RGB", (GAP + columns * (tile_width + GAP), height), PAPER)
    ink = ImageDraw.Draw(sheet)

    def write(text: str, left: int, top: int, room: int) -> None:
        shown = text
        while shown and label_size(shown, size)[0] > room:
            text = text[:-1]
            shown = text + "…"
        ink.text((left + 2, top + line_height / 2), shown, font=font(size), fill=(0, 0, 0), anchor="lm")

    for column in range(columns):
        for index, heading in enumerate(headings):
            write(heading, GAP + column * (tile_width + GAP) + index * pitch, GAP // 2, cell_width)
    for number, (row, title) in enumerate(zip(rows, titles, strict=True)):
        x, y = GAP + number % columns * (tile_width + GAP), top + number // columns * (tile_height + GAP)
        write(title, x, y, tile_width)
        for index, image in zip(range(len(headings)), row, strict=True):
            cell = ImageOps.pad(Image.fromarray(image), cell_size, method=Image.Resampling.BICUBIC, color=MAT)
            sheet.paste(cell, (x + index * pitch, y + title_height))
    return np.asarray(sheet)


def write_sheets(
    entries: Iterable[tuple[str, str, Sequence[np.ndarray]]], folder: Path, overview: str, headings: Sequence[str]
) -> None:
    """Write a sheet for each entry (file name, title, an image per heading), and one of the first `SHEET_ROWS`."""
    first: list[tuple[str, Sequence[np.ndarray]]] = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, title, images in entries:
            height, width = images[0].shape[:2]
            sheet = contact_sheet([images], [title], cell_size=(width, height), headings=headings)
            Image.fromarray(sheet).save(folder / name)
            first = [*first, (title, images)][:SHEET_ROWS]
        if first:
            titles, rows = zip(*first, strict=True)
            sheet = contact_sheet(rows, titles, columns=2, cell_size=(400, 320), headings=headings)
            Image.fromarray(sheet).save(folder / overview)
