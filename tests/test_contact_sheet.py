"""contact_sheet: position, size and title of every image."""

import numpy as np
import pytest

from querypose.visualization.contact_sheet import GAP, MAT, PAPER, contact_sheet


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
    places = np.array([[bounds(sheet, color) for color in pair] for pair in colors])
    assert (places[..., 2:] - places[..., :2] == [90, 120]).all()
    tops, lefts = places[..., 0], places[..., 1]
    assert (tops[:, 0] == tops[:, 1]).all() and (lefts[:, 0] + 120 <= lefts[:, 1]).all(), "a pair stands side by side"
    grid = [np.unique(values[:, 0], return_inverse=True)[1].tolist() for values in (tops, lefts)]
    assert grid == [[i // columns for i in range(5)], [i % columns for i in range(5)]]


def test_an_image_keeps_its_proportions():
    sheet = contact_sheet([(plain((255, 0, 0), height=100, width=50),)], cell_size=(120, 90), headings=("",))
    top, left, bottom, right = bounds(sheet, (255, 0, 0))
    assert (bottom - top, right - left) == (90, 45)
    assert abs((left - GAP) - (GAP + 120 - right)) <= 1 and tuple(sheet[GAP, GAP]) == MAT, "it is centered"


def test_titles_and_headings_are_written_and_a_long_title_stays_within_its_tile():
    rows = [(plain((255, 0, 0)), plain((255, 0, 0)))] * 2
    options = ({"headings": ("", "")}, {}, {"titles": ["M" * 500, ""]})
    bare, headed, titled = (contact_sheet(rows, columns=2, cell_size=(120, 90), **each) for each in options)
    ink = [(sheet.max(axis=2) < 100).sum() for sheet in (bare, headed, titled)]
    assert ink[0] == 0 < ink[1] < ink[2]
    assert bare.shape[0] < headed.shape[0] < titled.shape[0]
    end = GAP + 2 * 120 + GAP // 4
    assert (titled[:, end : end + GAP] == PAPER).all()
