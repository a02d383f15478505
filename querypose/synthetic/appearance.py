"""The appearance of a synthetic person: colors and kinds of clothes."""

from dataclasses import dataclass

import numpy as np

_HAIR = np.array([[30, 24, 22], [66, 42, 26], [110, 70, 36], [196, 158, 88], [140, 62, 34], [150, 148, 146]])
_KINDS = {
    "sleeves": {"none": 0.1, "short": 0.5, "long": 0.4},
    "legs": {"trousers": 0.58, "shorts": 0.28, "skirt": 0.14},
    "hairstyle": {"short": 0.56, "long": 0.3, "hat": 0.14},
    "front": {"zip": 0.3, "buttons": 0.3, "logo": 0.3, "plain": 0.1},
    "back": {"plain": 0.5, "hood": 0.28, "backpack": 0.22},
}


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
    sleeves: str
    legs: str
    hairstyle: str
    front: str
    back: str

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Appearance":
        """Sample the appearance of one person."""
        light, dark = np.array([246, 212, 184.0]), np.array([112, 72, 50.0])
        skin = light + rng.beta(1, 1.4) * (dark - light) + rng.normal(0, 4, 3)
        shirt, trim = _cloth_color(rng), _cloth_color(rng)
        while np.abs(trim - shirt).sum() < 180:
            trim = _cloth_color(rng)
        hair = _HAIR[rng.integers(len(_HAIR))] + rng.normal(0, 6, 3)
        legwear, shoes, hat = (_cloth_color(rng) for _ in range(3))
        kinds = {name: rng.choice(list(shares), p=list(shares.values())) for name, shares in _KINDS.items()}
        return cls(skin, hair, shirt, trim, legwear, shoes, hat, **kinds)


def _cloth_color(rng):
    hue, saturation, value = rng.uniform(0, 6), rng.beta(2, 1.6), rng.uniform(0.28, 0.97)
    channels = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return 255 * value * (1 - saturation + saturation * channels)
