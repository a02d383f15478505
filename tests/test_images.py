"""Images of every kind that lies about in data sets, and what happens to those that cannot be read."""

import numpy as np
import pytest
from detectron2.config import get_cfg
from PIL import Image

from querypose.config import add_querypose_config
from querypose.data import PoseDatasetMapper, SkipUnreadable, count_unreadable
from querypose.data.images import UnreadableImageError, read_image
from querypose.errors import UserError, exit_on_user_error
from querypose.images import read_image_rgb
from querypose.onnx import read_rgb


def gradient(height=6, width=9):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = 20 * np.arange(width)
    pixels[..., 1] = 30 * np.arange(height)[:, None]
    pixels[..., 2] = 128
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = gradient()
    # how a camera that notes this orientation stores the upright picture
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), upright)
    assert np.array_equal(read_image(tmp_path / "a.png", "BGR"), upright[:, :, ::-1])


def test_damaged_exif_is_no_reason_to_stop(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.jpg", quality=95, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.jpg").shape == (6, 9, 3)


def test_grey_and_16_bits(tmp_path):
    grey = (np.arange(54).reshape(6, 9) * 4).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.tif")
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    for name in ("8.png", "16.png", "16.tif"):
        assert np.array_equal(read_image(tmp_path / name), expected), name
    Image.fromarray(grey > 100).save(tmp_path / "1.png")
    assert np.array_equal(read_image(tmp_path / "1.png"), 255 * (expected > 100))


def test_palette_alpha_and_cmyk(tmp_path):
    pixels = gradient()
    image = Image.fromarray(pixels)
    image.quantize(54).save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png"), pixels)
    image.quantize(54).save(tmp_path / "clear.png", transparency=0)
    assert np.array_equal(read_image(tmp_path / "clear.png"), pixels)
    image.convert("RGBA").save(tmp_path / "alpha.png")
    assert np.array_equal(read_image(tmp_path / "alpha.png"), pixels)
    image.convert("L").convert("LA").save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png").shape == (6, 9, 3)
    image.resize((90, 60)).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    found = read_image(tmp_path / "cmyk.jpg").astype(int)
    assert np.abs(found - np.array(image.resize((90, 60))).astype(int)).mean() < 6


def damaged(folder):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / "whole.jpg")
    data = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture")
    return ["cut.jpg", "empty.jpg", "text.jpg", "missing.jpg"]


def test_unreadable_images_are_named(tmp_path):
    for name in damaged(tmp_path):
        with pytest.raises(UnreadableImageError, match=name) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def mapper(is_train):
    cfg = get_cfg()
    add_querypose_config(cfg)
    cfg.DATASETS.TRAIN = ("keypoints_coco_2017_train",)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.CROP.ENABLED = (32,), 32, False
    return PoseDatasetMapper(cfg, is_train=is_train)


def records(folder, names):
    return [
        {"file_name": str(folder / name), "image_id": i, "width": 64, "height": 64, "annotations": []}
        for i, name in enumerate(names)
    ]


def test_training_goes_on_with_other_images(tmp_path, messages):
    given = records(tmp_path, [*damaged(tmp_path), "whole.jpg"])
    listed = tmp_path / "out" / "unreadable_images.txt"
    skip = SkipUnreadable(mapper(True), listed, given)
    assert count_unreadable(listed) == 0
    for record in given * 2:
        output = skip(record)
        assert output["file_name"].endswith("whole.jpg") and output["image"].shape == (3, 32, 32)
    assert count_unreadable(listed) == 4
    assert messages().count("Skipped: ") == 4 and str(tmp_path / "cut.jpg") in listed.read_text()
    with pytest.raises(UserError, match="100 images in a row cannot be read.*cut.jpg"):
        SkipUnreadable(mapper(True), listed, given[:4])(given[0])


def test_inference_marks_them(tmp_path):
    given = records(tmp_path, [*damaged(tmp_path), "whole.jpg"])
    skip = SkipUnreadable(mapper(False), tmp_path / "unreadable_images.txt")
    outputs = [skip(record) for record in given]
    assert [bool(output.get("unreadable")) for output in outputs] == [True] * 4 + [False]
    assert [output["image_id"] for output in outputs] == [0, 1, 2, 3, 4]
    assert all(output["height"] == 64 and output["image"].shape[0] == 3 for output in outputs)


def test_other_mistakes_are_not_skipped(tmp_path):
    damaged(tmp_path)
    (record,) = records(tmp_path, ["whole.jpg"])
    with pytest.raises(UserError, match="64x64 pixels"):
        SkipUnreadable(mapper(True), tmp_path / "list.txt", [record])({**record, "width": 65})


def test_an_error_in_a_worker_is_one_sentence(capsys):
    text = (
        "Caught UnreadableImageError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "images.py", line 30, in read\nquerypose.data.images.UnreadableImageError: a.jpg: no Error: x\n'
    )
    with pytest.raises(SystemExit), exit_on_user_error():
        raise UnreadableImageError(text)
    assert capsys.readouterr().err == "error: a.jpg: no Error: x\n"


def test_training_predictor_and_onnx_read_16_bits_alike(tmp_path):
    Image.fromarray(np.array([[0, 128, 129, 200], [65535, 65406, 65407, 30000]], np.uint16)).save(tmp_path / "16.png")
    expected = np.repeat(np.array([[0, 0, 1, 1], [255, 254, 255, 117]], np.uint8)[:, :, None], 3, axis=2)
    for read in (read_image, read_image_rgb, read_rgb):
        assert np.array_equal(read(tmp_path / "16.png"), expected), read
