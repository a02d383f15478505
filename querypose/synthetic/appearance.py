"""The appearance of a synthetic person: colors and kinds of clothes."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Appearance:
    """Colors (RGB, 0-255) and kinds of clothes of one person."""

    skin: np.ndarray
    hair: np.ndarray
    shirt: np.ndarray
    trim: np.ndarray
    legwear: np.ndarray
    shoes: np.ndarray
    hat: np.ndarray
    sleeves: str  # "none", "short" or "long"
    legs: str  # "trousers", "shorts" or "skirt"
    hairstyle: str  # "short", "long" or "hat"
    front: str  # "zip", "buttons", "logo" or "plain"
    back: str  # "plain", "hood" or "backpack"

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Appearance":
        """Sample the appearance of one person."""
        light, dark = np.array([246, 212, 184.0]), np.array([112, 72, 50.0])
        skin = light + rng.beta(1, 1.4) * (dark - light) + rng.normal(0, 4, 3)
        hair_tones = np.array(
            [[30, 24, 22], [66, 42, 26], [110, 70, 36], [196, 158, 88], [140, 62, 34], [150, 148, 146]]
        )
        shirt = _cloth_color(rng)
        trim = _cloth_color(rng)
        while np.abs(trim - shirt).sum() < 180:
            trim = _cloth_color(rng)
        return cls(
            skin=skin,
            hair=hair_tones[rng.integers(len(hair_tones))] + rng.normal(0, 6, 3),
            shirt=shirt,
            trim=trim,
            legwear=_cloth_color(rng),
            shoes=_cloth_color(rng),
            hat=_cloth_color(rng),
            sleeves=rng.choice(["none", "short", "long"], p=[0.1, 0.5, 0.4]),
            legs=rng.choice(["trousers", "shorts", "skirt"], p=[0.58, 0.28, 0.14]),
            hairstyle=rng.choice(["short", "long", "hat"], p=[0.56, 0.3, 0.14]),
            front=rng.choice(["zip", "buttons", "logo", "plain"], p=[0.3, 0.3, 0.3, 0.1]),
            back=rng.choice(["plain", "hood", "backpack"], p=[0.5, 0.28, 0.22]),
        )


def _cloth_color(rng):
    hue, saturation, value = rng.uniform(0, 6), rng.beta(2, 1.6), rng.uniform(0.28, 0.97)
    channels = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return 255 * value * (1 - saturation + saturation * channels)
