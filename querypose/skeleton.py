"""The skeleton: keypoints, which of them mirror each other, which are joined, and their OKS sigmas."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from querypose.errors import UserError

logger = logging.getLogger(__name__)

# OKS sigmas of COCO (and of CrowdPose, which adds head and neck) by joint, the side left out. A sigma is the
# standard deviation of the annotators' disagreement, divided by the square root of the person's area.
_KNOWN_SIGMAS = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062,
    "hip": 0.107, "knee": 0.087, "ankle": 0.089, "head": 0.079, "neck": 0.079,
}  # fmt: skip

# Limbs of a person, * standing for each side, for files that give none or those of another skeleton.
_LIMBS = (
    "*_ear *_eye", "*_shoulder *_elbow", "*_elbow *_wrist", "*_shoulder *_hip", "*_hip *_knee", "*_knee *_ankle",
    "*_eye nose", "*_shoulder neck", "left_shoulder right_shoulder", "left_hip right_hip", "nose neck", "head neck",
)  # fmt: skip

SIDE_COLORS = {"left": (86, 180, 233), "right": (213, 94, 0), "middle": (240, 228, 66)}
"""RGB of a side in every drawing, from Okabe and Ito's palette, which people with color blindness can tell apart."""

SIDE_WORDS = [
    ("left", "right"), ("l", "r"), ("links", "rechts"), ("gauche", "droite"), ("gauche", "droit"),
    ("izquierda", "derecha"), ("izquierdo", "derecho"), ("izq", "der"), ("sinistra", "destra"), ("sinistro", "destro"),
    ("sx", "dx"), ("esquerda", "direita"), ("esquerdo", "direito"), ("lewy", "prawy"), ("lewa", "prawa"),
    ("lewe", "prawe"), ("vänster", "höger"), ("venstre", "højre"), ("venstre", "høyre"), ("vasen", "oikea"),
    ("sol", "sağ"), ("левый", "правый"), ("левая", "правая"), ("левое", "правое"), ("左", "右"), ("왼쪽", "오른쪽"),
]  # fmt: skip
"""Words for the two sides in keypoint names, as pairs (left, right); append those of other languages."""


def split_side(name: str) -> tuple[str, str]:
    """Split a keypoint's name into its side ("left", "right" or "middle") and the rest, in lower case, joined by "_".

    Understands the words of `SIDE_WORDS` in `x_left`, `l_x`, `left x`, `leftX`, `LShoulder`, `front_left_x`, `x_l2`, in
    any case; short ones (up to three letters) only at an end of the name. A second side counts from the first.
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=^[LR])(?=[A-Z][a-z])", "_", name)
    words = [word for word in re.split(r"[\s_\-.]+", spaced.lower()) if word]
    sides = {word: side for pair in SIDE_WORDS for word, side in zip(pair, ("left", "right"), strict=True)}
    for position, numbered in enumerate(words):
        word = numbered.rstrip("0123456789")
        at_an_end = position in (0, len(words) - 1)
        if word in sides and (word in SIDE_WORDS[0] or len(word) > 3 or (at_an_end and len(words) > 1)):
            hole = [numbered[len(word) :] or "*"] if numbered != word or not at_an_end else []
            rest = [f"{sides[w] == sides[word]}".lower() if w in SIDE_WORDS[0] else w for w in words[position + 1 :]]
            return sides[word], "_".join(words[:position] + hole + rest)
    return "middle", "_".join(words)


def split_sides(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return `split_side` of each name; glued words (`lhip`, `lefthip`, `hipl`, `左肩`) count if both sides exist."""
    split = [split_side(name) for name in names]
    bases = {base for side, base in split if side == "middle"}
    for left, right in SIDE_WORDS:
        for i, (side, base) in enumerate(split):
            for word, other, found in ((left, right, "left"), (right, left, "right")):
                if side == "middle" and base.startswith(word) and other + base.removeprefix(word) in bases:
                    split[i] = found, base.removeprefix(word)
                elif side == "middle" and base.endswith(word) and base.removesuffix(word) + other in bases:
                    split[i] = found, base.removesuffix(word)
    return split


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of one class, in the order in which data and model hold them.

    Attributes:
        flip_pairs: pairs of names (left, right) that are exchanged in a mirrored image.
        limbs: pairs of indices (i, j) that a drawing joins by a line.
        sigmas: K OKS sigmas, positive; a keypoint at distance `2 * sigma * sqrt(area)` counts `exp(-1/2)`.

    Raises `UserError` when these do not fit together.
    """

    keypoint_names: Sequence[str]
    flip_pairs: Sequence[Sequence[str]]
    limbs: Sequence[Sequence[int]]
    sigmas: Sequence[float]

    def __post_init__(self) -> None:
        try:  # lists are welcome; tuples are hashable, and compare independently of what was given
            object.__setattr__(self, "keypoint_names", tuple(self.keypoint_names))
            object.__setattr__(self, "flip_pairs", tuple(map(tuple, self.flip_pairs)))
            object.__setattr__(self, "limbs", tuple(tuple(map(int, limb)) for limb in self.limbs))
            object.__setattr__(self, "sigmas", tuple(map(float, self.sigmas)))
        except (TypeError, ValueError) as error:
            raise UserError(f"a skeleton has names, pairs of names, pairs of indices and numbers, {error}") from error

        names, number = self.keypoint_names, len(self.keypoint_names)
        if not names or not all(isinstance(name, str) and name and names.count(name) == 1 for name in names):
            raise UserError(f"a skeleton needs distinct keypoint names, but got {list(names)}")
        mirrored = [name for pair in self.flip_pairs for name in pair]
        for pair in self.flip_pairs:
            if len(pair) != 2 or any(name not in names or mirrored.count(name) > 1 for name in pair):
                raise UserError(f"the flip pair {pair} must be two of {list(names)} that are in no other pair")
        for limb in self.limbs:
            if len(limb) != 2 or limb[0] == limb[1] or not all(0 <= i < number for i in limb):
                raise UserError(f"the limb {limb} must join two different keypoints of 0..{number - 1}")
        if len(self.sigmas) != number:
            raise UserError(f"the skeleton has {number} keypoints but {len(self.sigmas)} OKS sigmas; give one for each")
        if not all(math.isfinite(sigma) and sigma > 0 for sigma in self.sigmas):
            raise UserError(f"OKS sigmas must be positive numbers, but got {list(self.sigmas)}")

    @property
    def num_keypoints(self) -> int:
        """Number of keypoints K."""
        return len(self.keypoint_names)

    @property
    def flip_indices(self) -> list[int]:
        """For every keypoint the index of its mirror image (its own for those in the middle): K ints."""
        index = {name: i for i, name in enumerate(self.keypoint_names)}
        mirror = {left: right for left, right in self.flip_pairs} | {right: left for left, right in self.flip_pairs}
        return [index[mirror.get(name, name)] for name in self.keypoint_names]

    @property
    def sides(self) -> tuple[str, ...]:
        """For every keypoint "left", "right" or "middle", by the flip pairs: K strings."""
        side = {name: s for pair in self.flip_pairs for name, s in zip(pair, ("left", "right"), strict=True)}
        return tuple(side.get(name, "middle") for name in self.keypoint_names)

    def limb_side(self, i: int, j: int) -> str:
        """The side of the limb from keypoint i to j: "middle" if the ends are on two sides or both in the middle."""
        sides = {self.sides[i], self.sides[j]} - {"middle"}
        return sides.pop() if len(sides) == 1 else "middle"

    def flip_warning(self) -> str | None:
        """A sentence if a horizontal flip would be wrong: names with sides not in `flip_pairs`, or no pairs at all."""
        given = {frozenset(pair) for pair in self.flip_pairs}
        guessed = [pair for pair in flip_pairs_by_name(self.keypoint_names) if frozenset(pair) not in given]
        off = "" if given else "; until then horizontal flip is off"
        if guessed:
            pairs = ", ".join(f"{left}/{right}" for left, right in guessed)
            return f"the names suggest flip pairs that the skeleton does not have: {pairs}; if right, add them{off}"
        if given or self.num_keypoints == 1:
            return None
        where = "give `flip_pairs` in the file's category, or MODEL.QUERYPOSE.SKELETON"
        return f"the keypoint names do not tell left from right; {where}{off}"

    @classmethod
    def from_metadata(cls, metadata: Any, sigmas: Sequence[float] | None = None) -> Skeleton:
        """Build the skeleton from a Detectron2 `Metadata`; `sigmas` replace its `keypoint_oks_sigmas`."""
        names = list(getattr(metadata, "keypoint_names", None) or ())
        if not names:
            known = "use a keypoint data set, such as keypoints_coco_2017_train or FILE.json@IMAGE_FOLDER"
            raise UserError(f"the data set {getattr(metadata, 'name', '?')!r} has no keypoint names; {known}")
        swap = getattr(metadata, "keypoint_flip_map", None) or ()
        pairs = [pair[::-1] if split_sides(pair)[0][0] == "right" else pair for pair in swap if pair[0] != pair[1]]
        rules = getattr(metadata, "keypoint_connection_rules", None) or ()
        # as in Detectron2's drawings, those of other keypoints do not count
        limbs = [(names.index(a), names.index(b)) for a, b, _ in rules if a in names and b in names]
        given = sigmas, getattr(metadata, "keypoint_oks_sigmas", None), known_sigmas(names)
        return cls(names, pairs, limbs, next(each for each in given if each is not None and len(each)))

    @classmethod
    def from_coco_category(cls, category: Mapping[str, Any], sigmas: Sequence[float] | None = None) -> Skeleton:
        """Build it from a category of a COCO-format file, or by the names; `sigmas` replace the category's."""
        try:
            names, pairs = category["keypoints"], category.get("flip_pairs")
            limbs: Sequence[tuple[int, int]] = [(i - 1, j - 1) for i, j in category.get("skeleton") or ()]
            # CrowdPose's official files have COCO's limbs with their own 14 keypoints: none can be trusted
            if any(not 0 <= i < len(names) for limb in limbs for i in limb):
                name, last = category.get("name"), len(names)
                logger.warning(
                    "`skeleton` of %r has indices outside of 1 to %d; limbs follow from the names", name, last
                )
                limbs = ()
            limbs = limbs or limbs_by_name(names)
            pairs = flip_pairs_by_name(names) if pairs is None else pairs
            given = sigmas, category.get("sigmas"), known_sigmas(names)
            return cls(names, pairs, limbs, next(each for each in given if each is not None and len(each)))
        except (KeyError, TypeError, ValueError) as error:
            optional = "`skeleton` as pairs of indices from 1, `flip_pairs` as pairs of names, `sigmas` as numbers"
            needs = f"needs a list `keypoints` of names and may give {optional} ({error})"
            raise UserError(f"the category {category.get('name', '?')!r} {needs}") from error

    def to_metadata(self) -> dict[str, Any]:
        """Return Detectron2's metadata attributes: a dict for `MetadataCatalog.get(name).set(**...)`."""
        names = self.keypoint_names
        rules = tuple((names[i], names[j], SIDE_COLORS[self.limb_side(i, j)]) for i, j in self.limbs)
        pairs = {"keypoint_flip_map": self.flip_pairs, "keypoint_connection_rules": rules}
        return {"keypoint_names": names, **pairs, "keypoint_oks_sigmas": self.sigmas}


def flip_pairs_by_name(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs (left, right) of names that differ in the side alone, ordered by the left."""
    split = list(zip(split_sides(names), names, strict=True))
    rights = {base: name for (side, base), name in split if side == "right"}
    return tuple((name, rights[base]) for (side, base), name in split if side == "left" and base in rights)


def known_sigmas(names: Sequence[str]) -> tuple[float, ...]:
    """Return each keypoint's OKS sigma: COCO's or CrowdPose's where they have it, else 0.05, between eyes and hips."""
    return tuple(_KNOWN_SIGMAS.get(base, 0.05) for _, base in split_sides(names))


def limbs_by_name(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return the limbs (i, j) of a person between those joints that `names` holds."""
    index = {f"{side}_{base}".removeprefix("middle_"): i for i, (side, base) in enumerate(split_sides(names))}
    limbs = dict.fromkeys(limb.replace("*", side) for limb in _LIMBS for side in ("left", "right"))
    pairs = map(str.split, limbs)
    return tuple((index[a], index[b]) for a, b in pairs if a in index and b in index)
