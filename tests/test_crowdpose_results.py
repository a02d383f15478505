"""CrowdPose's rules: the official annotations against an independent computation, closed forms, crowd classes."""

import json
import sys
import types

import numpy as np
import pytest
from crowdpose_reference import CrowdPoseEval, made_up_detections, nine_numbers
from pycocotools.coco import COCO

from querypose.data.crowdpose import CROWDPOSE_SKELETON
from querypose.errors import UserError
from querypose.evaluation import BACKENDS, CROWDPOSE_METRICS, evaluate_coco_results


def crowd_of(indices, persons=3, seed=0):
    """Images of those crowd indices, each with some persons."""
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
            annotations.append({**entry, "keypoints": keypoints.flatten().tolist()})
    category = {"id": 1, "name": "person", "keypoints": list(CROWDPOSE_SKELETON.keypoint_names)}
    return {"images": images, "annotations": annotations, "categories": [category]}


def as_official(content):
    """With the `num_keypoints` of the official files, which leave out head and neck."""
    persons = [{**p, "num_keypoints": sum(v > 0 for v in p["keypoints"][2:36:3])} for p in content["annotations"]]
    return {**content, "annotations": persons}


def evaluate(content, results, backend="faster-coco-eval", **options):
    return evaluate_coco_results(content, results, tasks=("keypoints",), backend=backend, **options)["keypoints"]


def check(content, results, expected, backend):
    metrics = evaluate(content, results, backend)
    assert tuple(metrics) == CROWDPOSE_METRICS
    assert list(metrics.values())[:6] == pytest.approx([100 * number for number in expected[:6]], abs=1e-9)
    # the official tool rounds these to four decimals
    assert list(metrics.values())[6:] == pytest.approx([100 * number for number in expected[6:]], abs=0.005 + 1e-9)


def test_official_annotations_against_an_independent_computation(shared_folder):
    path = shared_folder / "data" / "crowdpose_mini" / "crowdpose_val.json"
    content = json.loads(path.read_text())
    content["images"] = content["images"][::3]
    used = {image["id"] for image in content["images"]}
    content["annotations"] = [person for person in content["annotations"] if person["image_id"] in used]
    results = made_up_detections(content)
    expected = nine_numbers(content, results)
    assert min(expected) > 0.1 and max(expected) < 0.95 and len(set(np.round(expected, 3))) == 9
    check(content, results, expected, "faster-coco-eval")


@pytest.mark.parametrize("seed", range(3))
def test_backends_agree_whatever_the_file_says(seed):
    """Areas and numbers of keypoints in the file, and the order of its images, are of no importance."""
    # 0.2 is medium, 0.8 is hard
    content = crowd_of([0.2, 0.8, *np.random.default_rng(seed).uniform(0, 1.2, 12)], persons=6, seed=seed)
    for person in content["annotations"][::5]:
        person["iscrowd"] = 1
    for person in content["annotations"][1::7]:  # head and neck alone, which is not counted
        person["keypoints"][:36] = [0] * 36
    for person in content["annotations"][2::9]:
        person["keypoints"] = [0] * 42
    results = made_up_detections(content, seed)
    expected = nine_numbers(as_official(content), results)
    assert len(set(np.round(expected[6:], 3))) == 3
    other = {**content, "images": content["images"][::-1]}
    other["annotations"] = [{**person, "area": 7.0, "num_keypoints": 14} for person in content["annotations"]]
    for backend in BACKENDS[:2]:
        check(content, results, expected, backend)
        check(other, results, expected, backend)


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_classes_without_persons_are_nan_and_without_detections_all_is_zero(backend):
    assert set(evaluate(crowd_of([0.1, 0.5, 0.9]), [], backend).values()) == {0}
    metrics = evaluate(crowd_of([0.5]), [], backend)
    assert metrics["APM"] == 0 and np.isnan(metrics["APE"]) and np.isnan(metrics["APH"])


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
            self.stats = stats_of(nine_numbers(as_official(self.content), self.results))

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
