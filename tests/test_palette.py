"""The colours of drawings are told apart with any common colour blindness.

Colours as they look with one are simulated after Machado, Oliveira and Fernandes (2009), at full severity, and compared
by their distance in CIELAB (CIE 1976), of which 2.3 is just noticeable side by side.
"""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from querypose.visualization.draw_poses import CASING_COLOUR, PERSON_COLOURS, SIDE_COLOURS
from querypose.visualization.keypoint_error_plot import _COLOURS as ERROR_COLOURS
from querypose.visualization.plots import RUN_COLOURS

VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour):
    """sRGB in 0 .. 1 -> linear light."""
    colour = np.asarray(colour, dtype=float)
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def lab(light):
    """Linear sRGB -> CIELAB under D65."""
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    ratio = to_xyz @ light / (to_xyz @ np.ones(3))
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def difference(first, second, vision):
    seen = [lab(np.clip(np.array(VISIONS[vision]) @ linear(colour), 0, 1)) for colour in (first, second)]
    return float(np.linalg.norm(seen[0] - seen[1]))


def smallest(colours, vision):
    return min(difference(*pair, vision) for pair in itertools.combinations(colours, 2))


def of_bytes(colours):
    return [np.array(colour) / 255 for colour in colours]


def test_the_measure():
    # Lindbloom's calculator: sRGB red and green
    assert lab(linear((1, 0, 0))) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert lab(linear((0, 1, 0))) == pytest.approx([87.74, -86.18, 83.18], abs=0.02)
    # what a red-green palette would do
    assert difference((0.8, 0.1, 0.1), (0.4, 0.45, 0.05), "normal") > 60
    assert difference((0.8, 0.1, 0.1), (0.4, 0.45, 0.05), "deuteranopia") < 20


@pytest.mark.parametrize("vision", VISIONS)
def test_sides_differ_clearly_from_each_other_and_from_their_casing(vision):
    assert smallest(of_bytes([*SIDE_COLOURS.values(), CASING_COLOUR]), vision) > 30


@pytest.mark.parametrize("vision", VISIONS)
def test_persons_differ(vision):
    assert smallest(of_bytes(PERSON_COLOURS[:5]), vision) > 16
    assert smallest(of_bytes(PERSON_COLOURS), vision) > 12


@pytest.mark.parametrize("vision", VISIONS)
def test_curves_and_bars_differ(vision):
    assert smallest([to_rgb(colour) for colour in RUN_COLOURS], vision) > 15
    assert smallest([to_rgb(colour) for colour in ERROR_COLOURS.values()], vision) > 15
