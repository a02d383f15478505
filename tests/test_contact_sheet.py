"""contact_sheet: position, size and title of every image."""

import numpy as np
import pytest

from querypose.visualization import contact_sheet
from querypose.visualization.contact_sheet import MAT, PAPER


def plain(color, height=30, width=40):
    return np.full((height, width, 3), color, np.uint8)


def bounds(sheet, color):
    """Return top, left, bottom, right of the pixels of a color."""
    rows, columns = np.nonzero((sheet == color).all(axis=2))
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_images_are_in_order_and_of_the_same_size(columns):
    colors = [[(20 * i + 10, 0, 200), (20 * i + 10, 200, 0)] for i in range(5)]
    rows = [(plain(truth), plain(found)) for truth, found in colors]
    sheet = contact_sheet(rows, [f"image {i}" for i in range(5)], columns=columns, cell_size=(120, 90))
    corners = {}
    for i, (truth, found) in enumerate(colors):
        for k, color in enumerate((truth, found)):
            top, left, bottom, right = bounds(sheet, color)
            assert (bottom - top, right - left) == (90, 120)
            corners[i, k] = top, left
        assert corners[i, 0][0] == corners[i, 1][0], "a pair stands side by side"
        assert corners[i, 0][1] + 120 <= corners[i, 1][1], "the ground truth stands on the left"
    for i in range(1, 5):
        if i % columns:
            assert corners[i, 0][0] == corners[i - 1, 0][0] and corners[i, 0][1] > corners[i - 1, 1][1]
        else:
            assert corners[i, 0][0] > corners[i - 1, 0][0] + 90 and corners[i, 0][1] == corners[0, 0][1]


def test_an_image_keeps_its_proportions():
    sheet = contact_sheet([(plain((255, 0, 0), height=100, width=50),)], cell_size=(120, 90), headings=("",), gap=10)
    top, left, bottom, right = bounds(sheet, (255, 0, 0))
    assert (bottom - top, right - left) == (90, 45)
    assert abs((left - 10) - (10 + 120 - right)) <= 1, "it is centered"
    assert tuple(sheet[10, 10]) == MAT


def ink(sheet):
    return (sheet.max(axis=2) < 100).sum()


def test_titles_and_headings_are_written_on_the_paper():
    rows = [(plain((255, 0, 0)), plain((255, 0, 0)))]
    bare = contact_sheet(rows, headings=("", ""), cell_size=(240, 180))
    headed = contact_sheet(rows, cell_size=(240, 180))
    titled = contact_sheet(rows, ["a photograph"], cell_size=(240, 180))
    assert ink(bare) == 0 < ink(headed) < ink(titled)
    assert bare.shape[0] < headed.shape[0] < titled.shape[0]


def test_a_title_that_is_too_long_stays_within_its_tile():
    rows = [(plain((255, 0, 0)), plain((255, 0, 0)))] * 2
    sheet = contact_sheet(rows, ["M" * 500, ""], columns=2, cell_size=(120, 90), gap=10)
    first, second = 10 + 2 * 120 + 2, 10 + 2 * 120 + 2 + 10
    assert (sheet[:, first:second] == PAPER).all()
    assert ink(sheet[:, :first]) > 0
