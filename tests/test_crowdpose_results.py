"""CrowdPose's rules: an independent computation, and the official tool where it is."""

import copy
import json

import numpy as np
import pytest
from evaluation_data import results_near
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from querypose.data.crowdpose import CROWDPOSE_SKELETON
from querypose.errors import UserError
from querypose.evaluation import BACKENDS, CROWDPOSE_METRICS, evaluate_coco_results


def crowd_of(indices, persons=3, seed=0):
    """Images of those crowd indices, each with some persons, whose `area` and `num_keypoints` are of no importance."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for number, index in enumerate(indices):
        size = {"width": 600, "height": 500}
        images.append({"id": 10 + number, "file_name": f"{number}.jpg", **size, "crowdIndex": index})
        for _ in range(persons):
            box = [*rng.uniform(0, 200, 2), *rng.uniform(60, 250, 2)]
            keypoints = np.column_stack([rng.uniform(0, 1, (14, 2)) * box[2:] + box[:2], rng.integers(0, 3, 14)])
            keypoints[keypoints[:, 2] == 0] = 0
            entry = {"id": len(annotations) + 1, "image_id": 10 + number, "category_id": 1, "iscrowd": 0, "bbox": box}
            annotations.append({**entry, "keypoints": keypoints.flatten().tolist(), "area": 7.0, "num_keypoints": 14})
    category = {"id": 1, "name": "person", "keypoints": list(CROWDPOSE_SKELETON.keypoint_names)}
    return {"images": images, "annotations": annotations, "categories": [category]}


def noisy_poses(content):
    """Poses near the persons, and as many of lower scores farther away."""
    persons = [{**person, "area": person["bbox"][2] * person["bbox"][3]} for person in content["annotations"]]
    near, far = (results_near({"annotations": persons}, noise, seed) for seed, noise in enumerate((0.06, 0.15)))
    return [{**result, "score": round(result["score"], 1)} for result in near + far]  # many are equal


def evaluate(content, results, backend="faster-coco-eval", **options):
    return evaluate_coco_results(content, results, tasks=("keypoints",), backend=backend, **options)["keypoints"]


class CrowdPoseEval(COCOeval):
    """CrowdPose's rules once more: OKS with 0.53 of the box as the person's area, no size classes."""

    SIGMAS = np.array([0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89, 0.79, 0.79]) / 10

    def computeOks(self, image, category):
        persons, found = self._gts[image, category], self._dts[image, category]
        found = sorted(found, key=lambda entry: -entry["score"])[:20]
        if not persons or not found:
            return []
        # (poses, persons, 14, x and y), as all that follows
        places = np.array([pose["keypoints"] for pose in found], float).reshape(-1, 1, 14, 3)[..., :2]
        given = np.array([person["keypoints"] for person in persons], float).reshape(-1, 14, 3)
        corner, size = np.split(np.array([person["bbox"] for person in persons])[:, None], 2, axis=-1)
        away, labeled = places - given[..., :2], given[..., 2] > 0
        # of a person without labels: the distance to the box, doubled in size
        outside = np.maximum(corner - size - places, places - corner - 2 * size).clip(0)
        bare = ~labeled.any(axis=1, keepdims=True)
        squares = (np.where(bare[..., None], outside, away) ** 2).sum(axis=-1)
        similar = np.exp(-squares / (2 * 0.53 * size.prod(axis=-1) * (2 * self.SIGMAS) ** 2))
        return np.average(similar, axis=2, weights=np.broadcast_to(labeled | bare, similar.shape))


def nine_numbers(content, results):
    """The numbers of CROWDPOSE_METRICS in percent, computed apart from the project."""
    annotations = COCO()
    annotations.dataset = copy.deepcopy(content)
    for person in annotations.dataset["annotations"]:
        person |= {"area": 1, "num_keypoints": sum(v > 0 for v in person["keypoints"][2:36:3])}
    annotations.createIndex()
    evaluation = CrowdPoseEval(annotations, annotations.loadRes(results), "keypoints")
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]

    def by_threshold(low, high):
        evaluation.params.imgIds = [image["id"] for image in content["images"] if low <= image["crowdIndex"] < high]
        evaluation.evaluate()
        evaluation.accumulate()
        return (evaluation.eval[key].reshape(10, -1).mean(axis=1) for key in ("precision", "recall"))

    (ap, ar), limits = by_threshold(-1, 100), ((-1, 0.2), (0.2, 0.8), (0.8, 100))
    by_class = [next(by_threshold(*pair)).mean() for pair in limits]
    return 100 * np.array([ap.mean(), ap[0], ap[5], ar.mean(), ar[0], ar[5], *by_class])


@pytest.mark.parametrize("seed", [0, 1, None])
def test_against_an_independent_computation(seed, request):
    if seed is None:  # the official annotations
        folder = request.getfixturevalue("shared_folder") / "data" / "crowdpose_mini"
        content = json.loads((folder / "crowdpose_val_subset.json").read_text())
    else:
        # 0.2 is medium, 0.8 is hard
        content = crowd_of([0, 0.1, 0.1999, 0.2, 0.3, 0.5, 0.7, 0.7999, 0.8, 0.9, 1.5, 3], persons=6, seed=seed)
        for person in content["annotations"][::5]:
            person["iscrowd"] = 1
        for person in content["annotations"][1::7]:  # head and neck alone: ignored
            person["keypoints"][:36] = [0] * 36
        for person in content["annotations"][2::9]:
            person["keypoints"] = [0] * 42
        content["images"].reverse()
    results = noisy_poses(content)
    expected = nine_numbers(content, results)
    assert min(expected) > 5 and expected[0] < 95 and len(set(expected)) == 9, "else there would be little to compare"
    for backend in BACKENDS:
        metrics = evaluate(content, results, backend)
        assert tuple(metrics) == CROWDPOSE_METRICS and set(evaluate(content, [], backend).values()) == {0}
        found = np.array(list(metrics.values()))
        np.testing.assert_allclose(found[:6], expected[:6], atol=1e-9)
        # the official tool rounds these to four decimals of 1
        np.testing.assert_allclose(found[6:], expected[6:], atol=0.005 + 1e-9)


def test_the_protocol_follows_from_the_file_or_is_asked_for():
    content = crowd_of([0.1, 0.5, 0.9])
    results = noisy_poses(content)
    both = evaluate_coco_results(content, results)
    assert "APs" in both["bbox"] and tuple(both["keypoints"]) == CROWDPOSE_METRICS
    assert "APl" in evaluate(content, results, protocol="coco")
    del content["images"][1]["crowdIndex"]
    assert "APl" in evaluate(content, results)
    with pytest.raises(UserError, match="1 images of .* have no `crowdIndex`.*protocol coco"):
        evaluate(content, results, protocol="crowdpose")
    with pytest.raises(UserError, match="protocol is 'voc'; it must be one of coco, crowdpose"):
        evaluate(content, results, protocol="voc")
