"""The persons found in an image, and the forms in which other programs want them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from querypose.errors import imported
from querypose.skeleton import Skeleton

if TYPE_CHECKING:
    import pandas
    import supervision

SCORE_THRESHOLD = 0.2  # persons below it are left out by default; a score is the product of two probabilities


class Persons(Instances):
    """Detectron2's `Instances` of n persons that also know their skeleton.

    Fields, on the CPU and in pixels of the image, best score first: `pred_boxes` (`Boxes` of n x 4, XYXY), `scores`
    (n,) in [0, 1], `pred_classes` (n,) zeros, `pred_keypoints` (n, K, 3): x, y and a confidence in [0, 1]; of a model
    whose keypoint loss uses sigma (RLE) also `pred_keypoint_sigmas` (n, K, 2), the uncertainty of x and y, see
    `docs/UNCERTAINTY.md`. The center of the first pixel is (0.5, 0.5). Indexing and `to` keep the class.
    """

    def __init__(self, image_size: tuple[int, int], skeleton: Skeleton, **fields: Any):
        """image_size: height, width in pixels."""
        super().__init__(image_size, **fields)
        self._skeleton = skeleton

    @classmethod
    def from_instances(cls, instances: Instances, skeleton: Skeleton) -> Persons:
        """The same fields, not copied, with a skeleton."""
        return cls(instances.image_size, skeleton, **instances.get_fields())

    @property
    def skeleton(self) -> Skeleton:
        return self._skeleton

    def to(self, *args: Any, **kwargs: Any) -> Persons:
        return self.from_instances(super().to(*args, **kwargs), self._skeleton)

    def __getitem__(self, item: Any) -> Persons:
        return self.from_instances(super().__getitem__(item), self._skeleton)

    @staticmethod
    def cat(instance_lists: list[Persons]) -> Persons:
        return Persons.from_instances(Instances.cat(instance_lists), instance_lists[0].skeleton)

    def to_coco(self, image_id: int, *, category_id: int = 1) -> list[dict[str, Any]]:
        """COCO results, which any COCO evaluator reads.

        Boxes become (x, y, width, height). Keypoints become 3K numbers x, y, confidence and lose the half pixel that
        Detectron2 adds to COCO's keypoints when it loads them. Sigmas become 2K numbers `keypoint_sigmas`.
        """
        persons = self.to("cpu")
        persons.pred_keypoints = self.pred_keypoints.clone()  # Detectron2 subtracts the half pixel in place
        results: list[dict[str, Any]] = instances_to_coco_json(persons, image_id)
        for number, result in enumerate(results):
            result["category_id"] = category_id
            if self.has("track_ids"):
                result["track_id"] = int(self.track_ids[number])
            if self.has("pred_keypoint_sigmas"):
                result["keypoint_sigmas"] = self.pred_keypoint_sigmas[number].flatten().tolist()
        return results

    def to_records(self) -> list[dict[str, Any]]:
        """One flat dict of plain numbers per person, for tables: `track_id` if tracked, and `record_columns`."""
        names = record_columns(self._skeleton, sigmas=self.has("pred_keypoint_sigmas"))
        ids = [{"track_id": i} for i in self.track_ids.tolist()] if self.has("track_ids") else [{}] * len(self)
        fields = [self.scores[:, None], self.pred_boxes.tensor, self.pred_keypoints.flatten(1)]
        if self.has("pred_keypoint_sigmas"):
            fields.append(self.pred_keypoint_sigmas.flatten(1))
        rows = zip(ids, *(field.tolist() for field in fields), strict=True)
        return [
            {**track, **dict(zip(names, [person, *itertools.chain(*numbers)], strict=True))}
            for person, (track, *numbers) in enumerate(rows)
        ]

    def to_dataframe(self) -> pandas.DataFrame:
        """The table of `to_records` as a pandas `DataFrame`, with its columns even without persons."""
        names = ["track_id"] if self.has("track_ids") else []
        names += record_columns(self._skeleton, sigmas=self.has("pred_keypoint_sigmas"))
        return imported("pandas", "pandas").DataFrame(self.to_records(), columns=names)

    def to_supervision(self) -> supervision.KeyPoints:
        """`supervision.KeyPoints` of the persons, for its annotators and trackers; `to_detections` has their boxes.

        Sigmas, if there are any, are `data["pred_keypoint_sigmas"]` (n, K, 2).
        """
        keypoints = self.pred_keypoints.numpy()
        return imported("supervision", "'supervision>=0.29'").KeyPoints(
            xy=keypoints[..., :2].copy(),
            class_id=self.pred_classes.numpy().copy(),
            keypoint_confidence=keypoints[..., 2].copy(),
            detection_confidence=self.scores.numpy().copy(),
            data={name: self.get(name).numpy().copy() for name in ("pred_keypoint_sigmas",) if self.has(name)},
        )

    def to_detections(self) -> supervision.Detections:
        """`supervision.Detections` of the persons' boxes, in the order of `to_supervision`."""
        return imported("supervision", "'supervision>=0.29'").Detections(
            xyxy=self.pred_boxes.tensor.numpy().copy(),
            confidence=self.scores.numpy().copy(),
            class_id=self.pred_classes.numpy().copy(),
            tracker_id=self.track_ids.numpy().copy() if self.has("track_ids") else None,
        )


def record_columns(skeleton: Skeleton, *, sigmas: bool = False) -> list[str]:
    """The keys of a person's record: `person` (0 is the best), `score`, the box's corners `x0 y0 x1 y1`, for every
    keypoint `<keypoint>_x`, `_y` and `_confidence`, then, with `sigmas`, `_sigma_x` and `_sigma_y`; in pixels.
    """
    groups = [("x", "y", "confidence"), ("sigma_x", "sigma_y") if sigmas else ()]
    return ["person", "score", "x0", "y0", "x1", "y1"] + [
        f"{name}_{column}" for columns in groups for name in skeleton.keypoint_names for column in columns
    ]
