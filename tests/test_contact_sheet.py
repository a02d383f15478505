"""contact_sheet: every picture in its place, whole, with its title."""

import numpy as np
import pytest

from querypose.errors import UserError
from querypose.visualization import contact_sheet
from querypose.visualization.contact_sheet import MAT, PAPER, fit_in_cell


def plain(colour, height=30, width=40):
    return np.full((height, width, 3), colour, np.uint8)


def bounds(sheet, colour):
    """Return top, left, bottom, right of the pixels of a colour."""
    rows, columns = np.nonzero((sheet == colour).all(axis=2))
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_every_picture_is_in_its_place_and_of_the_same_size(columns):
    colours = [[(20 * i + 10, 0, 200), (20 * i + 10, 200, 0)] for i in range(5)]
    rows = [(plain(truth), plain(found)) for truth, found in colours]
    sheet = contact_sheet(rows, [f"picture {i}" for i in range(5)], columns=columns, cell_size=(120, 90))
    corners = {}
    for i, (truth, found) in enumerate(colours):
        for k, colour in enumerate((truth, found)):
            top, left, bottom, right = bounds(sheet, colour)
            assert (bottom - top, right - left) == (90, 120)
            corners[i, k] = top, left
        assert corners[i, 0][0] == corners[i, 1][0], "a pair stands side by side"
        assert corners[i, 0][1] + 120 <= corners[i, 1][1], "the ground truth stands on the left"
    for i in range(1, 5):
        if i % columns:
            assert corners[i, 0][0] == corners[i - 1, 0][0] and corners[i, 0][1] > corners[i - 1, 1][1]
        else:
            assert corners[i, 0][0] > corners[i - 1, 0][0] + 90 and corners[i, 0][1] == corners[0, 0][1]


def test_a_picture_keeps_its_proportions():
    cell = fit_in_cell(plain((255, 0, 0), height=100, width=50), (120, 90))
    assert cell.shape == (90, 120, 3)
    top, left, bottom, right = bounds(cell, (255, 0, 0))
    assert (bottom - top, right - left) == (90, 45)
    assert abs(left - (120 - right)) <= 1, "it stands in the middle"
    assert tuple(cell[0, 0]) == MAT
    assert bounds(fit_in_cell(plain((255, 0, 0), 10, 2000), (120, 90)), (255, 0, 0))[1::2] == (0, 120)


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


def test_mistakes_are_told():
    picture = plain((1, 2, 3))
    with pytest.raises(UserError, match="at least one picture"):
        contact_sheet([])
    with pytest.raises(UserError, match="as many titles, not 2"):
        contact_sheet([(picture, picture)], ["a", "b"])
    with pytest.raises(UserError, match="needs 2 pictures"):
        contact_sheet([(picture,)])
    with pytest.raises(UserError, match="uint8"):
        contact_sheet([(picture, picture / 255)])
    with pytest.raises(UserError, match="at least one column"):
        contact_sheet([(picture, picture)], columns=0)
