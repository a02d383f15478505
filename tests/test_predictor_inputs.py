"""PosePredictor with a real model: batches, tensors, threads, precision; and the forms that Persons turn into."""

import copy
import pickle
import sys

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from hands import two_persons
from PIL import Image
from tiny_model import spread, tiny_config, tiny_model

from querypose import Persons, PosePredictor
from querypose.data import skeleton_of
from querypose.errors import UserError
from querypose.image_io import image_files
from querypose.structures import record_columns

OPTS = ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 128]


@pytest.fixture(scope="module")
def make():
    """A function that makes predictors of one small model, whose queries have boxes of their own."""
    cfg = tiny_config("light", *OPTS)
    model = spread(tiny_model("light", *OPTS))
    return lambda **options: PosePredictor.from_model(
        model, cfg, skeleton_of(cfg), **{"score_threshold": 0.0, **options}
    )


@pytest.fixture(scope="module")
def images():
    """Images of noise: two are padded to one size, two to another, and one is alone."""
    rng = np.random.default_rng(0)
    sizes = [(60, 90), (90, 60), (62, 90), (88, 60), (50, 50)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def assert_same(found, expected, tolerance=1e-4):
    assert len(found) == len(expected) and found.image_size == expected.image_size
    for name in ("scores", "pred_keypoints"):
        torch.testing.assert_close(found.get(name), expected.get(name), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=tolerance, atol=tolerance)


def test_a_batch_gives_what_its_images_give_alone(make, images):
    predictor = make()
    alone = [predictor(image) for image in images]
    assert len({len(persons) for persons in alone}) == 1 and len(alone[0]) == 6
    assert not torch.allclose(alone[0].pred_keypoints, alone[2].pred_keypoints), "the images differ"
    for batch_size in (1, 2, 5, 8):
        together = predictor(images, batch_size=batch_size)
        for found, expected in zip(together, alone, strict=True):
            assert_same(found, expected)
    assert predictor([]) == []
    assert len(predictor(iter(images[:3]), batch_size=2)) == 3


def test_a_stream_reads_ahead_by_two_batches_at_most(make, images):
    read = []
    stream = make().stream((read.append(1) or images[0] for _ in range(20)), batch_size=2)
    for number in range(1, 8):
        assert_same(next(stream), make()(images[0]))
        assert len(read) <= number + 4
    stream.close()


def test_images_of_equal_padding_share_a_pass(make, images, monkeypatch):
    predictor, sizes = make(), []
    monkeypatch.setattr(predictor, "_run", lambda inputs, run=predictor._run: sizes.append(len(inputs)) or run(inputs))
    predictor(images)
    assert sorted(sizes) == [1, 2, 2]


def test_stacked_arrays_and_tensors_are_batches(make, images):
    predictor, expected = make(), make()(images[0])
    array = np.stack([images[0]] * 2)
    for several in (array, torch.from_numpy(array).permute(0, 3, 1, 2)):
        found = predictor(several)
        assert len(found) == 2
        assert_same(found[1], expected)


def test_top_k_keeps_the_best(make, images):
    everyone = make()(images[0])
    assert_same(make(top_k=2)(images[0]), everyone[:2])
    assert len(make(top_k=50)(images[0])) == 6
    with pytest.raises(UserError, match="top_k must be at least 1"):
        make(top_k=0)
    for threshold in (float("nan"), -0.1, 30):
        with pytest.raises(UserError, match="score threshold must be from 0 to 1, not"):
            make(score_threshold=threshold)


def test_half_precision_is_close_and_comes_back_in_float32(make, images):
    exact, half = make()(images[0]), make(precision="bfloat16")(images[0])
    assert half.pred_keypoints.dtype == half.scores.dtype == torch.float32
    assert not torch.equal(half.scores, exact.scores), "nothing was computed in bfloat16"
    torch.testing.assert_close(half.scores, exact.scores, rtol=0.1, atol=0.02)
    with pytest.raises(UserError, match="float32, bfloat16, float16, not int8"):
        make(precision="int8")


def test_attention_of_the_mirror_image_is_refused(images):
    cfg = tiny_config("light", *OPTS, "TEST.FLIP", True)
    predictor = PosePredictor.from_model(tiny_model("light", *OPTS), cfg, skeleton_of(cfg))
    with pytest.raises(UserError, match="set TEST.FLIP False"):
        predictor.with_attention(images[0])


@pytest.mark.parametrize("variant", ["light", "branched", "full"])
def test_the_threshold_saves_keypoint_stages_and_changes_no_person(images, tmp_path, variant):
    (tmp_path / "config.yaml").write_text(tiny_config(variant, *OPTS).dump())
    torch.save({"model": spread(tiny_model(variant, *OPTS)).state_dict()}, tmp_path / "weights.pth")
    predictor = PosePredictor(tmp_path / "config.yaml", tmp_path / "weights.pth", device="cpu")
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
                assert_same(predictor(image), everyone[everyone.scores >= threshold], tolerance=1e-4)
                assert rows[-1] == (probabilities >= threshold).sum()


def test_persons_stay_persons():
    persons = two_persons()
    for same in (persons[[0, 1]], persons[persons.scores > 0], persons.to("cpu"), copy.deepcopy(persons)):
        assert type(same) is Persons and len(same) == 2 and same.skeleton == persons.skeleton
    unpickled = pickle.loads(pickle.dumps(persons))
    assert unpickled.skeleton == persons.skeleton and torch.equal(unpickled.scores, persons.scores)
    assert len(persons[0]) == 1 and isinstance(persons, Instances)


def test_records_are_flat_numbers():
    persons = two_persons()
    first, second = persons.to_records(image="a.jpg")
    assert list(first) == ["image", *record_columns(persons.skeleton)]
    assert first == {
        "image": "a.jpg", "person": 0, "score": 0.75, "x0": 5.0, "y0": 10.0, "x1": 55.0, "y1": 40.0,
        "left_hand_x": 10.5, "left_hand_y": 20.5, "left_hand_confidence": 1.0,
        "right_hand_x": 50.5, "right_hand_y": 20.5, "right_hand_confidence": 0.75,
    }  # fmt: skip
    assert second["person"] == 1 and second["right_hand_y"] == 2.0
    assert persons[[]].to_records() == []
    persons.pred_keypoint_sigmas = torch.tensor([[[1.5, 2.0], [3.0, 4.0]]] * 2)
    record = persons.to_records()[1]
    assert list(record)[-4:] == [f"{side}_hand_sigma_{axis}" for side in ("left", "right") for axis in "xy"]
    assert list(record.values())[-4:] == [1.5, 2.0, 3.0, 4.0] == persons.to_coco(7)[1]["keypoint_sigmas"]


def test_coco_results_lose_the_half_pixel_and_leave_the_persons_alone():
    persons = two_persons()
    for _ in range(2):
        assert persons.to_coco(42)[0] == {
            "image_id": 42, "category_id": 1, "score": 0.75, "bbox": [5.0, 10.0, 50.0, 30.0],
            "keypoints": [10.0, 20.0, 1.0, 50.0, 20.0, 0.75],
        }  # fmt: skip
    assert persons[[]].to_coco(42) == []


def test_a_dataframe_has_its_columns_even_without_persons():
    pytest.importorskip("pandas")
    persons = two_persons()
    frame = persons.to_dataframe(image="a.jpg")
    assert frame.shape == (2, 13) and frame["left_hand_x"].tolist() == [10.5, 1.0]
    assert list(persons[[]].to_dataframe(image="a.jpg").columns) == list(frame.columns)


def test_a_missing_pandas_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        two_persons().to_dataframe()


def test_a_list_of_files_may_hold_other_kinds_too(make, images, tmp_path):
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    found = make()([tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(images[0]), images[0]])
    for persons in found:
        assert_same(persons, found[-1])
    with open(tmp_path / "a.png", "rb") as file:
        assert_same(make()(file), found[0])
    with pytest.raises(UserError, match="absent.png does not exist"):
        make()([images[0], tmp_path / "absent.png"])


def test_a_folder_is_predicted_by_name_and_bad_images_can_be_skipped(make, images, tmp_path):
    for name, image in zip(("b.png", "a.PNG", "c.png"), images, strict=False):
        Image.fromarray(image).save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").write_text("")
    predictor, failed = make(), []
    for persons, image in zip(predictor(tmp_path), (images[1], images[0], images[2]), strict=True):
        assert_same(persons, predictor(image))
    (tmp_path / "b.png").write_text("no image")
    files = image_files(tmp_path)
    found = list(predictor.stream(files, batch_size=2, on_error=lambda image, error: failed.append(image)))
    assert failed == [tmp_path / "b.png"] and [persons is None for persons in found] == [False, True, False]
    assert_same(found[2], predictor(images[2]))
