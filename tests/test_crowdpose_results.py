"""CrowdPose's rules: the official annotations against an independent computation, closed forms, crowd classes."""

import json
import math
import sys
import types

import numpy as np
import pytest
from crowdpose_reference import CrowdPoseEval, made_up_detections, nine_numbers
from pycocotools.coco import COCO

from querypose.data.crowdpose import CROWDPOSE_SKELETON
from querypose.errors import UserError
from querypose.evaluation import BACKENDS, CROWDPOSE_METRICS, evaluate_coco_results

natively = pytest.mark.parametrize("backend", BACKENDS[:2])


def crowd_of(indices, persons=3, seed=0):
    """Images of those crowd indices, each with some persons; as in the official files there is no `area`."""
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
            entry["keypoints"] = keypoints.flatten().tolist()
            annotations.append({**entry, "num_keypoints": int((keypoints[:12, 2] > 0).sum())})
    category = {"id": 1, "name": "person", "keypoints": list(CROWDPOSE_SKELETON.keypoint_names)}
    return {"images": images, "annotations": annotations, "categories": [category]}


def pose(image_id, keypoints, score=0.5):
    return {"image_id": image_id, "category_id": 1, "score": score, "keypoints": keypoints}


def evaluate(content, results, backend="faster-coco-eval", **options):
    return evaluate_coco_results(content, results, tasks=("keypoints",), backend=backend, **options)["keypoints"]


def test_official_annotations_against_an_independent_computation(shared_folder):
    path = shared_folder / "data" / "crowdpose_mini" / "crowdpose_val.json"
    content = json.loads(path.read_text())
    content["images"] = content["images"][::3]
    used = {image["id"] for image in content["images"]}
    content["annotations"] = [person for person in content["annotations"] if person["image_id"] in used]
    results = made_up_detections(content)
    expected = [100 * number for number in nine_numbers(content, results)]
    assert min(expected) > 10 and max(expected) < 95 and len(set(np.round(expected, 1))) == 9
    metrics = evaluate(content, results)
    assert tuple(metrics) == CROWDPOSE_METRICS
    assert list(metrics.values())[:6] == pytest.approx(expected[:6], abs=1e-9)
    # the official tool rounds these to four decimals of 1
    assert list(metrics.values())[6:] == pytest.approx(expected[6:], abs=0.005 + 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_backends_agree_whatever_the_order_of_the_images_in_the_file(seed):
    rng = np.random.default_rng(seed)
    content = crowd_of(rng.uniform(0, 1.2, 12), persons=6, seed=seed)
    for annotation in content["annotations"][::5]:
        annotation["iscrowd"] = 1
    for annotation in content["annotations"][1::7]:  # head and neck alone
        annotation["keypoints"][:36], annotation["num_keypoints"] = [0] * 36, 0
    for annotation in content["annotations"][2::9]:
        annotation["keypoints"], annotation["num_keypoints"] = [0] * 42, 0
    results = made_up_detections(content, seed)
    expected = [100 * number for number in nine_numbers(content, results)]
    assert len(set(expected[6:])) == 3
    for backend in BACKENDS[:2]:
        metrics = evaluate(content, results, backend)
        assert list(metrics.values()) == pytest.approx(expected, abs=0.005 + 1e-9)
        assert list(metrics.values())[:6] == pytest.approx(expected[:6], abs=1e-9)
        assert evaluate({**content, "images": content["images"][::-1]}, results, backend) == metrics


@natively
@pytest.mark.parametrize(("oks", "ap"), [(0.999, 100), (0.77, 60), (0.501, 10), (0.499, 0)])
def test_area_is_053_of_the_box_whatever_the_file_says(backend, oks, ap):
    content = crowd_of([0.5], persons=1)
    keypoints = [50.0, 50.0, 2, *[0] * 39]
    content["annotations"][0].update(bbox=[0, 0, 200, 100], keypoints=keypoints, num_keypoints=1, area=7.0)
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
    del bystander["num_keypoints"], person["num_keypoints"]
    first = pose(10, person["keypoints"])
    assert evaluate(content, [first], backend)["AR"] == pytest.approx(100)
    # detecting the bystander is not punished, detecting no one is
    found = pose(10, [300.0, 115.0, 1] * 12 + bystander["keypoints"][36:], score=0.9)
    assert evaluate(content, [first, found], backend)["AP"] == pytest.approx(100)
    assert evaluate(content, [first, pose(10, [900.0] * 42, score=0.9)], backend)["AP"] == pytest.approx(50)


def test_the_protocol_follows_from_the_file_or_is_asked_for():
    content = crowd_of([0.1, 0.5, 0.9])
    results = made_up_detections(content)
    both = evaluate_coco_results(content, results)
    assert "APs" in both["bbox"] and tuple(both["keypoints"]) == CROWDPOSE_METRICS
    assert "APl" in evaluate(content, results, protocol="coco")
    del content["images"][1]["crowdIndex"]
    assert "APl" in evaluate(content, results)
    with pytest.raises(UserError, match="1 images of .* have no `crowdIndex`.*protocol coco"):
        evaluate(content, results, protocol="crowdpose")
    with pytest.raises(UserError, match="protocol is 'voc'; it must be one of coco, crowdpose"):
        evaluate(content, results, protocol="voc")


def official_tool(monkeypatch, stats_of):
    """A stand-in with the official tool's interface, which computes what tests/crowdpose_reference.py does."""

    class Annotations(COCO):
        def __init__(self, path=None):
            super().__init__(path)
            self.anno_file = [path]

    class Evaluation(CrowdPoseEval):
        def __init__(self, annotations, detections, kind):
            assert kind == "keypoints"
            # the official tool makes its thresholds so
            assert len(np.linspace(0.5, 0.95, np.round((0.95 - 0.5) / 0.05) + 1)) == 10 and np.float is float
            super().__init__(annotations, detections, annotations.getImgIds())
            self.content = json.loads(open(annotations.anno_file[0]).read())
            self.results = [dict(d) for d in detections.dataset["annotations"]]

        def summarize(self):
            self.stats = stats_of(nine_numbers(self.content, self.results))

    for name, content in (("", {}), (".coco", {"COCO": Annotations}), (".cocoeval", {"COCOeval": Evaluation})):
        module = types.ModuleType(f"crowdposetools{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("stats_of", [list, lambda nine: [*nine[:3], 0, 0, *nine[3:]]])
def test_the_official_tool_is_used_where_it_is_installed(monkeypatch, stats_of):
    official_tool(monkeypatch, stats_of)
    content = crowd_of([0.1, 0.5, 0.9], persons=5)
    results = made_up_detections(content)
    found, expected = (evaluate_coco_results(content, results, backend=backend) for backend in BACKENDS[::-2])
    assert found["keypoints"] == pytest.approx(expected["keypoints"], abs=0.005 + 1e-9)
    assert found["bbox"] == pytest.approx(expected["bbox"], nan_ok=True)
    assert evaluate(content, [], "crowdposetools")["AP"] == 0 and not hasattr(np, "float")


def test_the_official_tool_may_be_absent_and_is_for_crowdpose_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "crowdposetools", None)
    content = crowd_of([0.1, 0.5, 0.9])
    with pytest.raises(UserError, match="crowdposetools cannot be imported.*faster-coco-eval"):
        evaluate(content, made_up_detections(content), "crowdposetools")
    with pytest.raises(UserError, match="'crowdposetools'; for coco it must be one of"):
        evaluate(content, [], "crowdposetools", protocol="coco")
