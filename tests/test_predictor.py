"""PosePredictor: the model's input, the persons returned, and the messages about mistakes."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances
from hands import HANDS
from PIL import Image
from torch import nn

from querypose import PosePredictor, add_querypose_config
from querypose import predictor as predictor_module
from querypose.errors import UserError
from querypose.predictor import load_weights
from querypose.structures import SCORE_THRESHOLD


class StubModel(nn.Module):
    """Keeps its inputs and returns three persons, not ordered by score."""

    scores = (0.2, 0.9, 0.5)

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 3)
        self.inputs = []
        self.grad_modes = []

    def forward(self, batched_inputs):
        self.inputs += batched_inputs
        self.grad_modes.append(torch.is_grad_enabled())
        assert not self.training
        scores = torch.tensor(self.scores)
        instances = Instances((batched_inputs[0]["height"], batched_inputs[0]["width"]))
        instances.scores = scores
        instances.pred_classes = torch.zeros(len(scores), dtype=torch.int64)
        instances.pred_boxes = Boxes(scores[:, None] * torch.tensor([10.0, 20.0, 100.0, 200.0]))
        instances.pred_keypoints = scores[:, None, None].expand(-1, 2, 3) * torch.tensor([100.0, 50.0, 1.0])
        return [{"instances": instances}]


def make_cfg(min_size=0, max_size=1000, model_format="RGB"):
    cfg = get_cfg()
    add_querypose_config(cfg)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT = min_size, max_size, model_format
    return cfg


def make_predictor(*, score_threshold=0.0, image_format="RGB", **cfg_options):
    options = {"score_threshold": score_threshold, "image_format": image_format}
    return PosePredictor.from_model(StubModel().train(), make_cfg(**cfg_options), HANDS, **options)


@pytest.fixture
def photograph():
    """(6, 8, 3) RGB in which every channel of every pixel differs from the others."""
    return np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def test_persons_come_best_first_in_the_images_pixels_and_above_the_threshold(photograph):
    instances = make_predictor(score_threshold=0.5)(photograph)
    assert instances.image_size == (6, 8)
    assert instances.scores.tolist() == pytest.approx([0.9, 0.5])
    assert instances.pred_boxes.tensor[:, 0].tolist() == pytest.approx([9.0, 5.0])
    assert instances.pred_keypoints[:, 0].numpy() == pytest.approx(np.array([[90, 45, 0.9], [50, 25, 0.5]]))
    assert len(make_predictor()(photograph)) == 3
    assert len(make_predictor(score_threshold=0.95)(photograph)) == 0


def test_a_model_that_returns_a_limited_number_says_so_once(photograph, messages):
    for limit, warnings in ((0, 0), (4, 0), (3, 1), (3, 1)):
        predictor = make_predictor()
        predictor.model.topk_poses = limit
        predictor(photograph)
        assert messages().count("only the 3 best persons are returned") == warnings


def test_the_output_is_made_of_ordinary_tensors(photograph):
    predictor = make_predictor()
    instances = predictor(photograph)
    instances.pred_keypoints[:, :, 0] += 1
    assert not instances.pred_keypoints.is_inference() and predictor.model.grad_modes == [False]


def test_the_model_sees_float_channels_in_its_own_order(photograph):
    bgr, pil = photograph[:, :, ::-1], Image.fromarray(photograph)
    cases = ("RGB", "RGB", photograph), ("RGB", "BGR", bgr), ("BGR", "RGB", photograph), ("BGR", "BGR", pil)
    for model_format, image_format, image in cases:
        predictor = make_predictor(model_format=model_format, image_format=image_format)
        predictor(image)
        (given,) = predictor.model.inputs
        expected = photograph if model_format == "RGB" else photograph[:, :, ::-1]
        assert given["image"].dtype == torch.float32
        assert np.array_equal(given["image"].numpy(), expected.transpose(2, 0, 1))
        assert (given["height"], given["width"]) == (6, 8)


@pytest.mark.parametrize("height, width, expected", [(60, 120, (80, 160)), (60, 240, (50, 200)), (240, 120, (160, 80))])
def test_the_short_side_is_resized_unless_the_long_one_would_be_too_long(height, width, expected):
    predictor = make_predictor(min_size=80, max_size=200)
    predictor(np.zeros((height, width, 3), np.uint8))
    given = predictor.model.inputs[0]
    assert given["image"].shape == (3, *expected) and (given["height"], given["width"]) == (height, width)


def test_weights_may_come_without_the_losses(tmp_path):
    saved, model = StubModel(), StubModel()
    torch.save({"model": saved.state_dict()}, tmp_path / "no_losses.pth")
    model.criterion = nn.Linear(2, 2)
    load_weights(model, str(tmp_path / "no_losses.pth"))
    assert torch.equal(model.head.weight, saved.head.weight)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    torch.save({"model": {"head.weight": torch.zeros(3, 2)}}, tmp_path / "half.pth")
    with pytest.raises(UserError, match="lack 1 of the model's 2 parameters, first head.bias"):
        load_weights(StubModel(), str(tmp_path / "half.pth"))
    torch.save({"model": {"head.weight": torch.zeros(5, 2), "head.bias": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"first head.weight, \(5, 2\) instead of \(3, 2\)"):
        load_weights(StubModel(), str(tmp_path / "other.pth"))


@pytest.fixture
def config_that_builds_the_stub(monkeypatch, tmp_path):
    """A config file, with the stub in the place of the model that it would build."""
    from querypose import setup_config

    monkeypatch.setattr(predictor_module, "build_model", lambda cfg: StubModel().to(cfg.MODEL.DEVICE))
    monkeypatch.setattr(predictor_module, "fastest_precision", lambda device: "float32")
    for module in (predictor_module, setup_config):
        monkeypatch.setattr(module, "skeleton_of", lambda cfg: HANDS)
    torch.save({"model": StubModel().state_dict()}, tmp_path / "weights.pth")
    config = tmp_path / "config.yaml"
    config.write_text(f"MODEL:\n  WEIGHTS: {tmp_path / 'weights.pth'}\nINPUT:\n  MIN_SIZE_TEST: 48\n")
    return config


def test_a_predictor_from_a_config_file(config_that_builds_the_stub, photograph, tmp_path):
    predictor = PosePredictor(config_that_builds_the_stub, device="cpu", opts=["INPUT.MAX_SIZE_TEST", 56])
    assert predictor.skeleton == HANDS and not predictor.model.training
    assert len(predictor(photograph)) == 3 and predictor.score_threshold == SCORE_THRESHOLD
    assert predictor.model.inputs[0]["image"].shape == (3, 42, 56)
    other = StubModel()
    torch.save({"model": other.state_dict()}, tmp_path / "other.pth")
    predictor = PosePredictor(config_that_builds_the_stub, tmp_path / "other.pth")
    assert torch.equal(predictor.model.head.weight.cpu(), other.head.weight)


def test_missing_weights_and_devices_are_reported(config_that_builds_the_stub, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options, words in (
        ({"weights": "absent.pth"}, "there is no weights file 'absent.pth'"),
        ({"opts": ["MODEL.WEIGHTS", ""]}, "no weights file ''; set MODEL.WEIGHTS"),
        ({"device": "cuda"}, "device cuda was asked for"),
        ({"image_format": "rgb"}, "RGB or BGR, not rgb"),
    ):
        with pytest.raises(UserError, match=words):
            PosePredictor(config_that_builds_the_stub, **options)
    assert PosePredictor(config_that_builds_the_stub).cfg.MODEL.DEVICE == "cpu"


def test_an_extension_adds_its_own_config_keys(config_that_builds_the_stub):
    def add_config(cfg):
        cfg.MODEL.EXTRA = 3

    options = {"add_config": add_config, "opts": ["MODEL.EXTRA", 4]}
    assert PosePredictor(config_that_builds_the_stub, **options).cfg.MODEL.EXTRA == 4
