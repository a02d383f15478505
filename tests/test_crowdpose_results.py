"""CrowdPose's rules: closed forms, crowd classes, agreement of the backends, and the official tool where it is."""

import json
import math
import sys
import types

import numpy as np
import pytest
from evaluation_data import results_near

from querypose.data.crowdpose import CROWDPOSE_SKELETON
from querypose.errors import UserError
from querypose.evaluation import BACKENDS, CROWDPOSE_METRICS, evaluate_coco_results

natively = pytest.mark.parametrize("backend", BACKENDS[:2])


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


def pose(image_id, keypoints, score=0.5):
    return {"image_id": image_id, "category_id": 1, "score": score, "keypoints": keypoints}


def noisy_poses(content):
    """Poses near the persons, and as many of lower scores farther away."""
    persons = [{**person, "area": person["bbox"][2] * person["bbox"][3]} for person in content["annotations"]]
    near, far = (results_near({"annotations": persons}, noise, seed) for seed, noise in enumerate((0.06, 0.15)))
    return [{**result, "score": round(result["score"], 1)} for result in near + far]  # many are equal


def evaluate(content, results, backend="faster-coco-eval", **options):
    return evaluate_coco_results(content, results, tasks=("keypoints",), backend=backend, **options)["keypoints"]


@pytest.mark.parametrize("seed", range(3))
def test_backends_agree(seed):
    content = crowd_of(np.random.default_rng(seed).uniform(0, 1.2, 12), persons=6, seed=seed)
    for person in content["annotations"][::5]:
        person["iscrowd"] = 1
    for person in content["annotations"][1::7]:  # head and neck alone
        person["keypoints"][:36] = [0] * 36
    for person in content["annotations"][2::9]:
        person["keypoints"] = [0] * 42
    content["images"].reverse()
    results = noisy_poses(content)
    fast, official = (evaluate(content, results, backend) for backend in BACKENDS[:2])
    assert tuple(fast) == tuple(official) == CROWDPOSE_METRICS
    assert list(fast.values())[:6] == pytest.approx(list(official.values())[:6], abs=1e-9)
    # the official tool rounds these to four decimals of 1
    assert list(fast.values())[6:] == pytest.approx(list(official.values())[6:], abs=0.01)
    assert 5 < fast["AP"] < 95 and len(set(fast.values())) == 9, "else there would be little to agree about"


@natively
@pytest.mark.parametrize(("oks", "ap"), [(0.999, 100), (0.77, 60), (0.501, 10), (0.499, 0)])
def test_area_is_053_of_the_box_whatever_the_file_says(backend, oks, ap):
    content = crowd_of([0.5], persons=1)
    content["annotations"][0].update(bbox=[0, 0, 200, 100], keypoints=[50.0, 50.0, 2, *[0] * 39])
    # OKS of one keypoint is exp(-d^2 / (2 area (2 sigma)^2))
    shift = math.sqrt(-2 * math.log(oks) * 0.53 * 200 * 100) * 2 * 0.079
    metrics = evaluate(content, [pose(10, [50.0 + shift, 50.0, 0.9, *[7.0] * 39])], backend)
    assert metrics["AP"] == pytest.approx(ap) and metrics["APM"] == pytest.approx(ap)
    assert math.isnan(metrics["APE"]) and math.isnan(metrics["APH"])


@natively
def test_classes_by_crowd_index(backend):
    # 0.2 is medium, 0.8 is hard
    content = crowd_of([0.0, 0.1999, 0.2, 0.5, 0.7999, 0.8, 3.0])
    perfect = [pose(person["image_id"], person["keypoints"]) for person in content["annotations"]]
    for images, expected in (({10, 11}, (100, 0, 0)), ({12, 13, 14}, (0, 100, 0)), ({15, 16}, (0, 0, 100))):
        metrics = evaluate(content, [pose for pose in perfect if pose["image_id"] in images], backend)
        assert (metrics["APE"], metrics["APM"], metrics["APH"]) == pytest.approx(expected, abs=0.01)
    assert set(evaluate(content, [], backend).values()) == {0}


@natively
def test_persons_with_head_and_neck_alone_are_ignored(backend):
    content = crowd_of([0.5], persons=2)
    person, bystander = content["annotations"]
    bystander["keypoints"] = [0] * 36 + [300.0, 100.0, 1, 300.0, 130.0, 2]
    first = pose(10, person["keypoints"])
    assert evaluate(content, [first], backend)["AR"] == pytest.approx(100)
    # detecting the bystander is not punished, detecting no one is
    found = pose(10, [300.0, 115.0, 1] * 12 + bystander["keypoints"][36:], score=0.9)
    assert evaluate(content, [first, found], backend)["AP"] == pytest.approx(100)
    assert evaluate(content, [first, pose(10, [900.0] * 42, score=0.9)], backend)["AP"] == pytest.approx(50)


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


@pytest.mark.parametrize("stats", [range(9), [0, 1, 2, -1, -1, 3, 4, 5, 6, 7, 8]])
def test_the_official_tool_is_used_where_it_is_installed(monkeypatch, stats):
    content = crowd_of([0.1, 0.5, 0.9])
    results = noisy_poses(content)

    class COCO:
        def __init__(self, path):
            self.content = json.loads(open(path).read())

        def loadRes(self, path):
            return json.loads(open(path).read())

    class COCOeval:
        def __init__(self, annotations, detections, kind):
            assert kind == "keypoints" and len(detections) == len(results) and "bbox" not in detections[0]
            assert [image["crowdIndex"] for image in annotations.content["images"]] == [0.1, 0.5, 0.9]
            # the official tool makes its thresholds so
            assert len(np.linspace(0.5, 0.95, np.round((0.95 - 0.5) / 0.05) + 1)) == 10 and np.float is float

        def evaluate(self):
            self.stats = np.array(stats)

        accumulate = summarize = evaluate

    for name, names in (("", {}), (".coco", {"COCO": COCO}), (".cocoeval", {"COCOeval": COCOeval})):
        module = types.ModuleType(f"crowdposetools{name}")
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    found = evaluate_coco_results(content, results, backend="crowdposetools")
    assert list(found["keypoints"].values()) == [100 * number for number in range(9)]
    assert found["bbox"] == pytest.approx(evaluate_coco_results(content, results)["bbox"], nan_ok=True)
    assert evaluate(content, [], "crowdposetools")["AP"] == 0 and not hasattr(np, "float")


def test_the_official_tool_may_be_absent_and_is_for_crowdpose_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "crowdposetools", None)
    content = crowd_of([0.1, 0.5, 0.9])
    with pytest.raises(UserError, match="crowdposetools cannot be imported.*faster-coco-eval"):
        evaluate(content, noisy_poses(content), "crowdposetools")
    with pytest.raises(UserError, match="'crowdposetools'; for coco it must be one of"):
        evaluate(content, [], "crowdposetools", protocol="coco")
