"""Flip testing, with a detector whose persons in the image and in its mirror image are known."""

from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances
from tiny_model import spread, tiny_batch, tiny_config, tiny_model

from querypose import PosePredictor
from querypose.errors import UserError
from querypose.export import export_onnx
from querypose.modeling.flip_testing import FlipTesting, oks
from querypose.skeleton import Skeleton

WIDTH, HEIGHT = 100, 80
HANDS = Skeleton(("head", "left_hand", "right_hand"), (("left_hand", "right_hand"),), (), (0.05,) * 3)
BODY = FlipTesting(HANDS)


def persons(*rows):
    """Each a score, a box and keypoints (x, y, confidence)."""
    scores, boxes, keypoints = zip(*rows, strict=True) if rows else ([], torch.zeros(0, 4), torch.zeros(0, 3, 3))
    return Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.as_tensor(boxes, dtype=torch.float32)),
        scores=torch.tensor(scores),
        pred_classes=torch.zeros(len(scores), dtype=torch.long),
        pred_keypoints=torch.as_tensor(keypoints, dtype=torch.float32),
    )


ADA = (0.8, [10.0, 10, 50, 70], [[30.0, 15, 0.9], [45, 40, 0.6], [12, 42, 0.3]])
BEN = (0.6, [60.0, 20, 95, 75], [[80.0, 25, 0.5], [90, 50, 0.5], [65, 50, 0.5]])


def assert_same(first, second):
    assert first.get_fields().keys() == second.get_fields().keys()
    torch.testing.assert_close(first.pred_boxes.tensor, second.pred_boxes.tensor)
    for name in ("scores", "pred_classes", "pred_keypoints"):
        torch.testing.assert_close(first.get(name), second.get(name))


def test_mirroring_exchanges_sides_and_twice_is_nothing():
    mirrored = BODY.mirror(persons(ADA))
    assert mirrored.pred_boxes.tensor.tolist() == [[50, 10, 90, 70]]
    expected = torch.tensor([[[70, 15, 0.9], [88, 42, 0.3], [55, 40, 0.6]]])
    torch.testing.assert_close(mirrored.pred_keypoints, expected)
    assert_same(BODY.mirror(mirrored), persons(ADA))


def test_a_symmetric_detector_finds_what_it_found():
    def detect(inputs):
        is_mirrored = bool(inputs[0]["image"][0, 0, 0])  # the bright pixel is at the right
        return [BODY.mirror(persons(BEN, ADA)) if is_mirrored else persons(ADA, BEN)]

    image = torch.zeros(3, HEIGHT, WIDTH)
    image[:, 0, -1] = 255
    assert_same(BODY(detect, [{"image": image}])[0], persons(ADA, BEN))


def test_pairs_are_averaged_by_confidence_and_others_stay():
    moved = (0.4, [12.0, 10, 52, 70], [[31.0, 15, 0.3], [46, 40, 0.2], [13, 42, 0.9]])
    merged = BODY.merge(persons(ADA), BODY.mirror(persons(BEN, moved)))
    torch.testing.assert_close(merged.scores, torch.tensor([0.6, 0.6]))
    torch.testing.assert_close(merged.pred_boxes.tensor[0], torch.tensor([10 + 2 / 3, 10, 50 + 2 / 3, 70]))
    expected = torch.tensor([[30.25, 15, 0.6], [45.25, 40, 0.4], [12.75, 42, 0.6]])
    torch.testing.assert_close(merged.pred_keypoints[0], expected)
    assert_same(merged[1:], persons(BEN))
    assert_same(BODY.merge(persons(BEN), persons()), persons(BEN))
    assert_same(BODY.merge(persons(), BODY.mirror(persons(BEN))), persons(BEN))
    assert len(FlipTesting(HANDS, 1).merge(persons(ADA), BODY.mirror(persons(BEN)))) == 1


def test_a_duplicate_of_low_score_takes_no_pair():
    worse = (0.7, ADA[1], [[x + 0.5, y, c] for x, y, c in ADA[2]])
    merged = BODY.merge(persons(ADA), BODY.mirror(persons(worse, (0.05, *ADA[1:]))))
    torch.testing.assert_close(merged.scores, torch.tensor([0.75, 0.05]))


def test_oks_is_cocos():
    """exp(-d^2 / (2 area (2 sigma)^2)): at d = 2 sigma sqrt(2 area) it is 1 / e."""
    area, sigma = 400.0, 0.1
    points = torch.zeros(1, 1, 2)
    away = points + torch.tensor([2 * sigma * (2 * area) ** 0.5, 0])
    assert oks(points, away, torch.tensor([area]), [sigma]).item() == pytest.approx(torch.e**-1)


def test_the_models_persons_follow_a_mirror():
    """Flip testing treats an image and its mirror image alike; the network alone does not."""
    model = spread(tiny_model("full", "TEST.FLIP", True)).eval()
    inputs = [{"image": item["image"]} for item in tiny_batch(sizes=((64, 96), (64, 96)))]
    mirrored = [{"image": item["image"].flip(-1)} for item in inputs]
    with torch.inference_mode():
        torch.testing.assert_close(model(inputs, False)[0].scores, model(mirrored, False)[0].scores)
        assert (model.detect(inputs)[0].scores - model.detect(mirrored)[0].scores).abs().max() > 1e-4


def test_the_score_threshold_is_of_the_mean():
    root, options = Path(__file__).resolve().parents[1], {"opts": ["TEST.FLIP", True], "precision": "float32"}
    find = PosePredictor(root / "configs/quickstart.yaml", root / "weights/quickstart.pth", **options)
    scores, kept = (find(root / "docs/images/synthetic_people.jpg").scores for find.score_threshold in (0.0, 0.03))
    torch.testing.assert_close(kept, scores[scores >= 0.03])


def test_skeletons():
    FlipTesting(Skeleton(("1",), (), (), (0.1,)))
    with pytest.raises(UserError, match="TEST.FLIP needs flip pairs"):
        FlipTesting(Skeleton(("1", "2"), (), (), (0.1, 0.1)))


def test_export_is_refused(tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(UserError, match="set TEST.FLIP False"):
        export_onnx(tiny_model("light", "TEST.FLIP", True), tiny_config(), HANDS, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
