"""PosePredictor: its input and persons, batches, precision, mistakes; and the forms that Persons turn into."""

import copy
import pickle
import sys

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from hands import HANDS, two_persons
from PIL import Image
from tiny_model import spread, tiny_config, tiny_model
from torch import nn

from querypose import Persons, PosePredictor
from querypose.data import skeleton_of
from querypose.errors import UserError
from querypose.structures import SCORE_THRESHOLD, record_columns

OPTS = ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 128]


@pytest.fixture(scope="module")
def make():
    """make(*config, **options): predictors of one small model, whose queries have boxes of their own."""
    model = spread(tiny_model("light", *OPTS))

    def predictor(*opts, **options):
        cfg = tiny_config("light", *OPTS, *opts)
        return PosePredictor.from_model(model, cfg, skeleton_of(cfg), **{"score_threshold": 0.0, **options})

    return predictor


@pytest.fixture(scope="module")
def images():
    """Images of noise: two are padded to one size, two to another, and one is alone."""
    rng = np.random.default_rng(0)
    sizes = [(60, 90), (90, 60), (62, 90), (88, 60), (50, 50)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture
def files(tmp_path, request):
    """Config and weights of that small model, or of the variant that the test gives."""
    variant = getattr(request, "param", "light")
    (tmp_path / "config.yaml").write_text(tiny_config(variant, *OPTS).dump())
    torch.save({"model": spread(tiny_model(variant, *OPTS)).state_dict()}, tmp_path / "weights.pth")
    return tmp_path / "config.yaml", tmp_path / "weights.pth"


def assert_same(found, expected):
    assert len(found) == len(expected) and found.image_size == expected.image_size
    for name in ("scores", "pred_keypoints"):
        torch.testing.assert_close(found.get(name), expected.get(name), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=1e-4, atol=1e-4)


class ThreePersons(nn.Linear):
    """A model that finds three persons, not ordered by score."""

    def forward(self, inputs):
        assert not self.training and not torch.is_grad_enabled()
        scores = torch.tensor([0.2, 0.9, 0.5])
        found = Instances((inputs[0]["height"], inputs[0]["width"]), scores=scores)
        found.pred_boxes = Boxes(scores[:, None] * torch.tensor([10.0, 20.0, 100.0, 200.0]))
        found.pred_keypoints = scores[:, None, None].expand(-1, 2, 3) * torch.tensor([100.0, 50.0, 1.0])
        return [{"instances": found}]


def test_persons_come_best_first_above_the_threshold_as_ordinary_tensors(images):
    predictor = PosePredictor.from_model(ThreePersons(1, 1), tiny_config(), HANDS, score_threshold=0.5)
    found = predictor(images[0])
    best = PosePredictor.from_model(ThreePersons(1, 1), tiny_config(), HANDS, top_k=np.int64(1))(images[0])
    assert best.scores.tolist() == found.scores[:1].tolist()
    assert found.image_size == (60, 90) and not found.pred_keypoints.is_inference()
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.pred_boxes.tensor[:, 0].tolist() == pytest.approx([9.0, 5.0])
    assert found.pred_keypoints[:, 0].numpy() == pytest.approx(np.array([[90, 45, 0.9], [50, 25, 0.5]]))


def test_the_model_sees_float_channels_in_its_own_order(make, images):
    rgb, bgr, pil = images[4], images[4][:, :, ::-1], Image.fromarray(images[4])
    cases = ("RGB", "RGB", rgb), ("RGB", "BGR", bgr), ("BGR", "RGB", rgb), ("BGR", "BGR", pil)
    for model_format, image_format, image in cases:
        predictor = make("INPUT.MIN_SIZE_TEST", 0, "INPUT.FORMAT", model_format, image_format=image_format)
        given = predictor.network_input(image)["image"]
        expected = rgb if model_format == "RGB" else bgr
        assert given.dtype == torch.float32 and np.array_equal(given.numpy(), expected.transpose(2, 0, 1))


def test_a_batch_gives_what_its_images_give_alone(make, images):
    predictor, sizes = make(), []
    alone = [predictor(image) for image in images]
    assert len({len(persons) for persons in alone}) == 1 and len(alone[0]) == 6
    assert not torch.allclose(alone[0].pred_keypoints, alone[2].pred_keypoints), "the images differ"
    hook = predictor.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    for batch_size in (1, 2, 5, 8):
        together = predictor(images, batch_size=batch_size)
        for found, expected in zip(together, alone, strict=True):
            assert_same(found, expected)
    hook.remove()
    assert sorted(sizes[-3:]) == [1, 2, 2], "images of equal padding share a pass"
    assert predictor([]) == []


def test_a_stream_reads_ahead_by_two_batches_at_most(make, images):
    read = []
    stream = make().stream((read.append(1) or images[0] for _ in range(20)), batch_size=2)
    for number in range(1, 8):
        assert len(next(stream)) == 6
        assert len(read) <= number + 4
    stream.close()


def test_stacks_lists_and_folders_are_batches_and_bad_images_can_be_skipped(make, images, tmp_path):
    predictor, expected = make(), make()(images[0])
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    Image.fromarray(images[1]).save(tmp_path / "B.PNG")
    (tmp_path / "notes.txt").write_text("")
    for found in (predictor(tmp_path), predictor.stream(tmp_path)):
        assert [persons.image_size for persons in found] == [(90, 60), (60, 90)], "by name"
    (tmp_path / "b.png").write_text("no image")
    with open(tmp_path / "a.png", "rb") as file:
        found = predictor(iter([tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(images[0]), file]))
    stack = np.stack([images[0]] * 2)
    found += [*predictor(stack), *predictor(torch.from_numpy(stack).permute(0, 3, 1, 2))]
    found += predictor.stream(tmp_path / "a.png")
    assert len(found) == 9
    for persons in found:
        assert_same(persons, expected)
    with pytest.raises(UserError, match="absent.png does not exist"):
        predictor([images[0], tmp_path / "absent.png"])
    files = [tmp_path / "b.png", tmp_path / "a.png"]
    found = list(predictor.stream(files, batch_size=2, on_error=lambda image, error: {"failed": image}))
    assert found[0] == {"failed": files[0]}
    assert_same(found[1], expected)


def test_half_precision_is_close_and_comes_back_in_float32(make, images):
    exact, half = make()(images[0]), make(precision="bfloat16")(images[0])
    assert half.pred_keypoints.dtype == half.scores.dtype == torch.float32
    assert not torch.equal(half.scores, exact.scores), "nothing was computed in bfloat16"
    torch.testing.assert_close(half.scores, exact.scores, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("files", ["light", "branched", "full"], indirect=True)
def test_the_threshold_saves_keypoint_stages_and_changes_no_person(images, files):
    predictor = PosePredictor(*files, device="cpu", precision="float32")
    rows = []
    predictor.model.decoder.keypoint_stages[-1].register_forward_hook(lambda _, args, out: rows.append(len(args[0])))
    for seed in range(4):
        torch.manual_seed(seed)
        torch.nn.init.normal_(predictor.model.decoder.box_stages[-1].class_logit.weight, std=1.0)
        for image in images[:2]:
            predictor.score_threshold = 0.0
            everyone = predictor(image)
            probabilities = everyone.scores / everyone.pred_keypoints[..., 2].mean(dim=1)
            between = (everyone.scores[:-1] + everyone.scores[1:]) / 2
            for threshold in (*between.tolist(), 0.3, 1.0):
                predictor.score_threshold = threshold
                assert_same(predictor(image), everyone[everyone.scores >= threshold])
                assert rows[-1] == (probabilities >= threshold).sum()


def test_a_predictor_from_files(files, images):
    def add_config(cfg):
        cfg.MODEL.EXTRA = 3

    opts = ["INPUT.MIN_SIZE_TEST", 48, "INPUT.MAX_SIZE_TEST", 56, "MODEL.EXTRA", 4]
    predictor = PosePredictor(*files, device="cpu", precision="float32", add_config=add_config, opts=opts)
    assert predictor.cfg.MODEL.EXTRA == 4 and predictor.score_threshold == SCORE_THRESHOLD
    assert predictor.skeleton == skeleton_of(predictor.cfg)
    inputs = predictor.network_input(images[0])
    assert inputs["image"].shape == (3, 37, 56) and (inputs["height"], inputs["width"]) == (60, 90)
    expected = PosePredictor.from_model(spread(tiny_model("light", *OPTS)), predictor.cfg, predictor.skeleton)
    assert_same(predictor(images[0]), expected(images[0]))


def test_mistakes_are_reported(files, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options, words in (
        ({"weights": "absent.pth"}, "there is no weights file 'absent.pth'"),
        ({"weights": None, "opts": ["MODEL.WEIGHTS", ""]}, "no weights file ''; set MODEL.WEIGHTS"),
        ({"device": "cuda"}, "nothing on the device cuda here"),
        ({"device": torch.device("meta")}, "nothing on the device meta here"),
        ({"image_format": "rgb"}, "RGB or BGR, not rgb"),
        ({"precision": "int8"}, "auto or one of float32, bfloat16, float16, not int8"),
        *[({"top_k": number}, f"top_k must be .* at least 1, or None .*, not {number}") for number in (0, 2.5)],
        *[({"score_threshold": s}, "score threshold must be from 0 to 1, not") for s in (float("nan"), -0.1, 30)],
    ):
        with pytest.raises(UserError, match=words):
            PosePredictor(files[0], **{"weights": files[1], "precision": "float32", **options})


def test_persons_stay_persons():
    persons = two_persons()
    same = persons[[0, 1]], persons[persons.scores > 0], persons.to("cpu"), Persons.cat([persons[[0]], persons[[1]]])
    for each in (*same, copy.deepcopy(persons), pickle.loads(pickle.dumps(persons))):
        assert type(each) is Persons and each.skeleton == persons.skeleton
        assert torch.equal(each.scores, persons.scores)
    assert len(persons[0]) == 1 and isinstance(persons, Instances)


def test_records_and_coco_results_are_numbers():
    persons = two_persons()
    first, second = persons.to_records()
    assert list(first) == record_columns(persons.skeleton)
    assert first == {
        "person": 0, "score": 0.75, "x0": 5.0, "y0": 10.0, "x1": 55.0, "y1": 40.0,
        "left_hand_x": 10.5, "left_hand_y": 20.5, "left_hand_confidence": 1.0,
        "right_hand_x": 50.5, "right_hand_y": 20.5, "right_hand_confidence": 0.75,
    }  # fmt: skip
    assert second["person"] == 1 and second["right_hand_y"] == 2.0
    for _ in range(2):  # COCO's keypoints are half a pixel less, and the persons stay as they are
        assert persons.to_coco(42)[0] == {
            "image_id": 42, "category_id": 1, "score": 0.75, "bbox": [5.0, 10.0, 50.0, 30.0],
            "keypoints": [10.0, 20.0, 1.0, 50.0, 20.0, 0.75],
        }  # fmt: skip
    assert persons[[]].to_records() == persons[[]].to_coco(42) == []
    persons.pred_keypoint_sigmas = torch.tensor([[[1.5, 2.0], [3.0, 4.0]]] * 2)
    record = persons.to_records()[1]
    assert list(record)[-4:] == [f"{side}_hand_sigma_{axis}" for side in ("left", "right") for axis in "xy"]
    assert list(record.values())[-4:] == [1.5, 2.0, 3.0, 4.0] == persons.to_coco(7)[1]["keypoint_sigmas"]


def test_a_dataframe_has_its_columns_even_without_persons(monkeypatch):
    pytest.importorskip("pandas")
    persons = two_persons()
    frame = persons.to_dataframe()
    assert frame.shape == (2, 12) and frame["left_hand_x"].tolist() == [10.5, 1.0]
    assert list(persons[[]].to_dataframe().columns) == list(frame.columns)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        persons.to_dataframe()


def test_supervision_gets_copies_of_the_numbers():
    pytest.importorskip("supervision")
    assert not two_persons().to_supervision().data, "no sigmas"
    persons = two_persons(pred_keypoint_sigmas=torch.rand(2, 2, 2), track_ids=torch.tensor([4, -1]))
    for found in (persons[[]], persons):
        keypoints, detections = found.to_supervision(), found.to_detections()
        assert np.array_equal(keypoints.xy, found.pred_keypoints[..., :2])
        assert np.array_equal(keypoints.keypoint_confidence, found.pred_keypoints[..., 2])
        assert np.array_equal(keypoints.detection_confidence, found.scores)
        assert np.array_equal(keypoints.data["pred_keypoint_sigmas"], found.pred_keypoint_sigmas)
        assert np.array_equal(detections.xyxy, found.pred_boxes.tensor)
        assert np.array_equal(detections.confidence, found.scores)
        assert np.array_equal(detections.tracker_id, found.track_ids)
    keypoints.xy[:] = detections.xyxy[:] = 99
    assert persons.pred_keypoints.max() < 99 and persons.pred_boxes.tensor.max() < 99
