"""Made-up annotations and detections for the tests of the evaluation."""

import math

import numpy as np
import pytest

NAMES = ["head", "left_hand", "right_hand"]
SIGMAS = [0.05, 0.1, 0.1]
COCO_BACKENDS = ("faster-coco-eval", "pycocotools")


def ground_truth_of(num_images=1, num_persons=1, seed=0, extra=1.0):
    """Random persons, `extra` the scale of their size; every fifth a crowd, every seventh unlabeled."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image_id in range(1, num_images + 1):
        for _ in range(num_persons):
            number = len(annotations) + 1
            width, height = rng.uniform(20, 150, 2) * extra
            x, y = rng.uniform(0, 300, 2)
            keypoints = np.zeros((len(NAMES), 3))
            keypoints[:, 0], keypoints[:, 1] = x + rng.uniform(0, width, 3), y + rng.uniform(0, height, 3)
            keypoints[:, 2] = 0 if number % 7 == 0 else rng.integers(1, 3, 3)
            person = {"id": number, "image_id": image_id, "category_id": 1, "iscrowd": int(number % 5 == 0)}
            person |= {"bbox": [x, y, width, height], "area": 0.5 * width * height}
            person |= {"keypoints": keypoints.flatten().tolist(), "num_keypoints": int((keypoints[:, 2] > 0).sum())}
            annotations.append(person)
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 500, "height": 500} for i in range(1, num_images + 1)]
    categories = [{"id": 1, "name": "person", "keypoints": NAMES, "sigmas": SIGMAS}]
    return {"images": images, "annotations": annotations, "categories": categories}


def results_near(ground_truth, noise, seed=0):
    rng = np.random.default_rng(seed)
    results = []
    for person in ground_truth["annotations"]:
        scale = noise * math.sqrt(person["area"])
        keypoints = np.array(person["keypoints"], dtype=float).reshape(-1, 3)
        keypoints[:, :2] += rng.normal(0, scale, (len(keypoints), 2))
        keypoints[:, 2] = rng.uniform(0, 1, len(keypoints))
        box = (np.array(person["bbox"]) + rng.normal(0, 0.3 * scale, 4)).tolist()
        result = {"image_id": person["image_id"], "category_id": 1, "bbox": box, "score": float(rng.uniform())}
        results.append({**result, "keypoints": keypoints.flatten().tolist()})
    return results


def one_person(shift=0.0):
    """One person whose head alone is labeled, and a detection `shift` pixels beside it."""
    ground_truth = ground_truth_of()
    box, keypoints = [0.0, 0.0, 100.0, 100.0], [50.0, 50.0, 2, 0, 0, 0, 0, 0, 0]
    ground_truth["annotations"][0].update(bbox=box, area=1e4, keypoints=keypoints, num_keypoints=1)
    result = {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5}
    return ground_truth, [{**result, "keypoints": [50.0 + shift, 50.0, 0.9, 7, 7, 0.1, 8, 8, 0.1]}]


def assert_same(metrics, expected):
    assert metrics.keys() == expected.keys()
    for task in expected:
        assert metrics[task] == pytest.approx(expected[task], abs=1e-6, nan_ok=True)
