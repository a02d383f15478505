"""CrowdPose's nine numbers computed apart from the project: pycocotools with the rules changed, and nothing else."""

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIGMAS = np.array([0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89, 0.79, 0.79]) / 10


class CrowdPoseEval(COCOeval):
    """OKS with 0.53 of the box as the person's area; no size classes."""

    def __init__(self, annotations, detections, image_ids):
        super().__init__(annotations, detections, "keypoints")
        self.params.imgIds = list(image_ids)
        self.params.areaRng, self.params.areaRngLbl = [[0, 1e10]], ["all"]

    def computeOks(self, imgId, catId):
        return similarities(self._gts[imgId, catId], self._dts[imgId, catId])


def similarities(persons, found):
    """OKS (poses, persons) of the 20 best poses."""
    found = sorted(found, key=lambda pose: -pose["score"])[:20]
    if not persons or not found:
        return []
    oks = np.zeros((len(found), len(persons)))
    for row, pose in enumerate(found):
        x, y = np.array(pose["keypoints"][0::3]), np.array(pose["keypoints"][1::3])
        for column, person in enumerate(persons):
            left, top, width, height = person["bbox"]
            given_x, given_y, labels = np.array(person["keypoints"], dtype=float).reshape(-1, 3).T
            counted = labels > 0
            squares = (x - given_x) ** 2 + (y - given_y) ** 2
            if not counted.any():  # distance to the box, doubled in size
                squares = np.maximum(0, np.maximum(left - width - x, x - left - 2 * width)) ** 2
                squares += np.maximum(0, np.maximum(top - height - y, y - top - 2 * height)) ** 2
                counted = ~counted
            oks[row, column] = np.exp(-squares / (2 * 0.53 * width * height * (2 * SIGMAS) ** 2))[counted].mean()
    return oks


def nine_numbers(content, results):
    """AP, AP50, AP75, AR, AR50, AR75, AP easy, medium and hard of official annotations, between 0 and 1."""
    annotations = COCO()
    # the area that size classes go by is of no importance, but must be there
    annotations.dataset = {**content, "annotations": [{**person, "area": 1.0} for person in content["annotations"]]}
    annotations.createIndex()
    detections = annotations.loadRes([{k: v for k, v in result.items() if k != "bbox"} for result in results])

    def evaluate(image_ids):
        evaluation = CrowdPoseEval(annotations, detections, image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        # thresholds x recalls, thresholds
        return evaluation.eval["precision"][:, :, 0, 0, 0], evaluation.eval["recall"][:, 0, 0, 0]

    index = {image["id"]: image["crowdIndex"] for image in content["images"]}
    precision, recall = evaluate(index)
    limits = ((-np.inf, 0.2), (0.2, 0.8), (0.8, np.inf))
    by_class = [evaluate(i for i, c in index.items() if low <= c < high)[0].mean() for low, high in limits]
    return [precision.mean(), precision[0].mean(), precision[5].mean(), recall.mean(), recall[0], recall[5], *by_class]


def made_up_detections(content, seed=0):
    """Noisy, missed, doubled and false poses for official annotations, many of equal score: with boxes."""
    rng = np.random.default_rng(seed)
    results = []
    for person in content["annotations"]:
        left, top, width, height = person["bbox"]
        given = np.array(person["keypoints"], dtype=float).reshape(-1, 3)[:, :2]
        given[given.sum(axis=1) == 0] = left + width / 2, top + height / 2  # an unlabeled keypoint is predicted, too
        scale = rng.choice([0.01, 0.03, 0.06, 0.12, 0.3])
        for number in range(rng.choice(3, p=[0.15, 0.65, 0.2])):
            noise = (1 + number) * scale * np.sqrt(width * height)
            shift = (rng.random() < 0.1) * rng.uniform(-1, 1, 2) * [width, height]
            keypoints = np.column_stack([given + rng.normal(0, noise, (14, 2)) + shift, rng.uniform(0, 1, 14)])
            score = round(np.clip(rng.normal(0.8 - scale - 0.3 * number, 0.15), 0, 1), 2)
            result = {"image_id": person["image_id"], "category_id": 1, "score": float(score)}
            box = (np.array(person["bbox"]) + rng.normal(0, 1, 4)).tolist()
            results.append({**result, "keypoints": keypoints.flatten().tolist(), "bbox": box})
    return [results[i] for i in rng.permutation(len(results))]
