"""CrowdPose's nine numbers computed apart from the project: pycocotools with the rules changed, and nothing else."""

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIGMAS = np.array([0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89, 0.79, 0.79]) / 10


class CrowdPoseEval(COCOeval):
    """OKS with 0.53 of the box as the person's area; no size classes."""

    def __init__(self, annotations, detections, image_ids, known=None):
        """known: dict of similarities by image and category, to be used again."""
        super().__init__(annotations, detections, "keypoints")
        self.known = {} if known is None else known
        self.params.imgIds = list(image_ids)
        self.params.areaRng, self.params.areaRngLbl = [[0, 1e10]], ["all"]

    def computeOks(self, imgId, catId):
        if (imgId, catId) not in self.known:
            self.known[imgId, catId] = self.similarities(imgId, catId)
        return self.known[imgId, catId]

    def similarities(self, imgId, catId):
        persons, found = self._gts[imgId, catId], self._dts[imgId, catId]
        found = sorted(found, key=lambda pose: -pose["score"])[:20]
        if not persons or not found:
            return []
        similarities = np.zeros((len(found), len(persons)))
        for row, pose in enumerate(found):
            x, y = np.array(pose["keypoints"][0::3]), np.array(pose["keypoints"][1::3])
            for column, person in enumerate(persons):
                left, top, width, height = person["bbox"]
                given_x, given_y, labels = np.array(person["keypoints"], dtype=float).reshape(-1, 3).T
                if (labels > 0).any():
                    squares = (x - given_x) ** 2 + (y - given_y) ** 2
                else:  # distance to the box, doubled in size
                    squares = np.maximum(0, np.maximum(left - width - x, x - left - 2 * width)) ** 2
                    squares = squares + np.maximum(0, np.maximum(top - height - y, y - top - 2 * height)) ** 2
                exponents = squares / (2 * 0.53 * width * height * (2 * SIGMAS) ** 2)
                counted = labels > 0 if (labels > 0).any() else np.ones(14, dtype=bool)
                similarities[row, column] = np.exp(-exponents[counted]).mean()
        return similarities


def nine_numbers(content, results):
    """AP, AP50, AP75, AR, AR50, AR75, AP easy, medium and hard of official annotations, between 0 and 1."""
    annotations = COCO()
    # the area that size classes go by is of no importance, but must be there
    persons = [{**person, "area": 1.0} for person in content["annotations"]]
    annotations.dataset = {**content, "annotations": persons}
    annotations.createIndex()
    detections = annotations.loadRes([{k: v for k, v in result.items() if k != "bbox"} for result in results])

    known = {}

    def evaluate(image_ids):
        evaluation = CrowdPoseEval(annotations, detections, image_ids, known)
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
    """Noisy, missed, doubled and false poses for official annotations: COCO-format results with boxes."""
    rng = np.random.default_rng(seed)
    results = []
    for person in content["annotations"]:
        left, top, width, height = person["bbox"]
        given = np.array(person["keypoints"], dtype=float).reshape(-1, 3)
        # an unlabeled keypoint is predicted, too
        unknown = given[:, 2] == 0
        given[unknown, :2] = rng.uniform(0, 1, (unknown.sum(), 2)) * [width, height] + [left, top]

        scale = rng.choice([0.01, 0.03, 0.06, 0.12, 0.3])
        poses = []  # noise, shift, score
        if rng.random() < 0.85:  # the rest is missed; scores in steps, so that many are equal
            poses.append((scale, 0, round(np.clip(rng.normal(0.8 - scale, 0.15), 0, 1), 2)))
        if rng.random() < 0.3:
            poses += [(1.5 * scale, 0, rng.uniform(0, 0.7)) for _ in range(rng.integers(0, 3))]
        if rng.random() < 0.2:
            poses.append((0.05, 1, rng.uniform(0, 0.9)))
        for noise, shift, score in poses:
            keypoints = given.copy()
            keypoints[:, :2] += rng.normal(0, noise * np.sqrt(width * height), (14, 2))
            keypoints[:, :2] += shift * rng.uniform(-1, 1, 2) * [width, height]
            keypoints[:, 2] = rng.uniform(0, 1, 14)
            box = np.array(person["bbox"]) + rng.normal(0, 0.03, 4) * [width, height, width, height]
            result = {"image_id": person["image_id"], "category_id": 1, "score": float(score)}
            box = np.maximum(box, [-1e9, -1e9, 1, 1]).tolist()
            results.append({**result, "keypoints": keypoints.flatten().tolist(), "bbox": box})
    return [results[i] for i in rng.permutation(len(results))]
