"""How the persons of a picture are drawn: one choice for all pictures of a run."""

from dataclasses import dataclass

import numpy as np

from querypose.errors import UserError
from querypose.modeling import KEYPOINT_STAGE_REGISTRY, PART_EMBEDDING_REGISTRY
from querypose.structures import Persons
from querypose.visualization import draw_poses, overlay_attention


@dataclass(frozen=True)
class Drawing:
    """Draws persons on an image: call it with both.

    Attributes:
        score_threshold, keypoint_threshold, color_by, confidence: as of `draw_poses`.
        show_boxes: whether boxes and scores are drawn.
        attention: whether the attention of the parts is overlaid below the poses; persons then need the fields
            of `PosePredictor.with_attention`.
    """

    score_threshold: float = 0.3
    keypoint_threshold: float = 0.5
    show_boxes: bool = True
    color_by: str = "side"
    confidence: str = "both"
    attention: bool = False

    def __call__(self, image: np.ndarray, persons: Persons, scale: float | None = None) -> np.ndarray:
        """The picture of an (H, W, 3) uint8 RGB image with its persons; scale as of `draw_poses`."""
        if self.attention:
            image = overlay_attention(image, persons.part_attention, persons.attention_boxes.tensor)
        return draw_poses(
            image,
            persons,
            persons.skeleton,
            score_threshold=self.score_threshold,
            keypoint_threshold=self.keypoint_threshold,
            show_boxes=self.show_boxes,
            show_scores=self.show_boxes,
            color_by=self.color_by,
            confidence=self.confidence,
            scale=scale,
        )


def check_attention(cfg) -> None:
    """Raise a `UserError` if the config's model makes no attention maps to draw."""
    config = cfg.MODEL.QUERYPOSE
    for key, makes in (
        ("KEYPOINT_STAGE", KEYPOINT_STAGE_REGISTRY.get(config.KEYPOINT_STAGE).has_parts),
        ("PART_EMBEDDING", PART_EMBEDDING_REGISTRY.get(config.PART_EMBEDDING).makes_attention),
    ):
        if not makes:
            raise UserError(
                f"there is no attention to draw: MODEL.QUERYPOSE.{key} '{config[key]}' makes no attention maps; leave "
                "out --attention, or take a model with an SPEGM."
            )
