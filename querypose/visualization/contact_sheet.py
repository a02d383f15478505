"""Sheets of images side by side: predictions beside the ground truth, say."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from querypose.atomic_io import writing
from querypose.image_io import read_image_rgb
from querypose.skeleton import Skeleton
from querypose.structures import Persons
from querypose.visualization.draw_poses import coco_fields, draw_label, draw_poses, label_size

PAPER, MAT = (255, 255, 255), (236, 236, 236)
GAP, SLIT = 12, 3  # pixels between rows, and between the images of a row
SHEET_ROWS = 24

SheetEntry = tuple[str, str, Sequence[np.ndarray]]
"""The file name, the title and the images of a sheet."""


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str] = (),
    *,
    columns: int = 1,
    cell_size: tuple[int, int] = (400, 320),
    headings: Sequence[str],
) -> np.ndarray:
    """Lay images out in a grid of equal cells, `columns` rows side by side, as one (H, W, 3) uint8 RGB image.

    rows: sequences of (H, W, 3) uint8 RGB images of any size, one per heading. titles: written above each row.
    cell_size: width and height in pixels in which an image is fitted.
    """
    columns, (width, height) = min(columns, len(rows)), cell_size
    size = max(11, width // 24)
    line_height = label_size("", size)[1]
    top, tile_width = GAP + line_height, len(headings) * (width + SLIT) - SLIT
    tile_height = height + (line_height if titles else 0)
    lines = -(-len(rows) // columns)
    sheet = np.full((top + lines * (tile_height + GAP), GAP + columns * (tile_width + GAP), 3), PAPER, np.uint8)

    def write(text: str, left: int, top: int, room: int) -> None:
        draw_label(sheet[:, : left + room], text, (left, top), size, PAPER)  # cut off where the room ends

    for number, row in enumerate(rows):
        x, y = GAP + number % columns * (tile_width + GAP), top + number // columns * (tile_height + GAP)
        if titles:
            write(titles[number], x, y, tile_width)
        for left, heading, image in zip(range(x, x + tile_width, width + SLIT), headings, row, strict=True):
            if number < columns:
                write(heading, left, GAP // 2, width)
            cell = ImageOps.pad(Image.fromarray(image), cell_size, method=Image.Resampling.BICUBIC, color=MAT)
            sheet[y + tile_height - height :, left:][:height, :width] = np.asarray(cell)
    return sheet


def write_sheets(
    entries: Iterable[SheetEntry], folder: Path, overview: str, headings: Sequence[str], **layout: Any
) -> None:
    """Write a sheet for each entry, and one of the first `SHEET_ROWS`; `layout`: its columns, the cell size of all."""
    first: list[tuple[str, Sequence[np.ndarray]]] = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, title, images in entries:
            cell_size = layout.get("cell_size", images[0].shape[1::-1])
            sheet = contact_sheet([images], [title], cell_size=cell_size, headings=headings)
            Image.fromarray(sheet).save(folder / name)
            first = [*first, (title, images)][:SHEET_ROWS]
        if first:
            titles, rows = zip(*first, strict=True)
            sheet = contact_sheet(rows, titles, headings=headings, **{"columns": 2, **layout})
            Image.fromarray(sheet).save(folder / overview)


def prediction_sheet(
    records: Iterable[dict[str, Any]], predictors: Mapping[str, Callable[[np.ndarray], Persons]], skeleton: Skeleton
) -> np.ndarray:
    """A row for each image, Detectron2's dataset dict: its ground truth and the poses of each predictor, by heading."""
    rows = []
    for record in records:
        image = read_image_rgb(record["file_name"])
        labeled = [person for person in record.get("annotations", ()) if not person.get("iscrowd", 0)]
        # Detectron2 has added the half pixel already
        truth = coco_fields(labeled, skeleton.num_keypoints, ground_truth=True, offset=0.0)
        found = [truth, *(predict(image) for predict in predictors.values())]
        rows.append([draw_poses(image, poses, skeleton) for poses in found])
    return contact_sheet(rows, columns=2, headings=("ground truth", *predictors))
