"""Images of every kind that data sets have, and what happens to those that cannot be read."""

import io

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import tiny_config

from querypose import image_io
from querypose.data import PoseDatasetMapper, SkipUnreadable
from querypose.data.mapper import ResizeShortestEdge
from querypose.errors import UserError, exit_on_user_error
from querypose.image_io import UnreadableImageError, open_image, read_image_rgb

PIXELS = np.full((6, 9, 3), 128, np.uint8)
PIXELS[..., 0] = 20 * np.arange(9)
PIXELS[..., 1] = 30 * np.arange(6)[:, None]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    # how a camera that notes this orientation stores the upright image
    half_turn, mirrored = np.rot90(PIXELS, 2), PIXELS.transpose(1, 0, 2)
    stored = [
        *(PIXELS, PIXELS[:, ::-1], half_turn, PIXELS[::-1]),
        *(mirrored, np.rot90(PIXELS), half_turn.transpose(1, 0, 2), np.rot90(PIXELS, -1)),
    ][orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "a.tif"):
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name, exif=exif)
        assert np.array_equal(read_image_rgb(tmp_path / name), PIXELS), name
        with open_image(tmp_path / name) as image:
            assert image_io.upright_size(image) == (9, 6), name
    Image.fromarray(stored[..., 0].copy()).save(tmp_path / "gray.tif", exif=exif)
    assert np.array_equal(read_image_rgb(tmp_path / "gray.tif")[..., 0], PIXELS[..., 0])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_no_reason_to_stop(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", quality=95, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert read_image_rgb(tmp_path / "a.jpg").shape == (6, 9, 3)


def test_gray_palette_alpha_and_cmyk(tmp_path):
    sixteen = np.array([[0, 128, 129, 200], [65535, 65406, 65407, 30000]], np.uint16)
    for name in ("16.png", "16.tif"):
        Image.fromarray(sixteen).save(tmp_path / name)
        expected = np.array([[0, 0, 1, 1], [255, 254, 255, 117]])[:, :, None].repeat(3, axis=2)
        assert np.array_equal(read_image_rgb(tmp_path / name), expected), name
    image = Image.fromarray(PIXELS)
    image.quantize(54).save(tmp_path / "clear.png", transparency=0)
    image.convert("RGBA").save(tmp_path / "alpha.png")
    image.convert("CMYK").save(tmp_path / "cmyk.tif")
    for name in ("clear.png", "alpha.png", "cmyk.tif"):
        assert np.array_equal(read_image_rgb(tmp_path / name), PIXELS), name


@pytest.fixture
def given(tmp_path):
    """Records of four unreadable images and a whole one."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    names = ("cut", "empty", "text", "missing", "whole")
    shared = {"width": 64, "height": 64, "annotations": []}
    return [{"file_name": f"{tmp_path}/{name}.jpg", "image_id": i, **shared} for i, name in enumerate(names)]


def test_pil_images_and_file_objects_are_read_as_files_are(given):
    whole = given[-1]["file_name"]
    with open(whole, "rb") as file:
        assert np.array_equal(read_image_rgb(file), read_image_rgb(whole))
    for broken in (Image.open(given[0]["file_name"]), Image.new("RGB", (0, 5)), io.BytesIO(b"")):
        with pytest.raises(UnreadableImageError, match=r"cannot be read \(.*\); repair it or leave it out"):
            read_image_rgb(broken)


def test_endings_and_missing_readers(tmp_path):
    assert {".jpg", ".jfif", ".jpe", ".jp2", ".tga", ".heic"} <= image_io.image_endings()
    assert not {".pdf", ".eps", ".txt", ".mp4", ""} & image_io.image_endings()
    (tmp_path / "a.heic").write_bytes(bytes(100))
    with pytest.raises(UnreadableImageError, match="querypose.heif|damaged"):
        read_image_rgb(tmp_path / "a.heic")


def mapper(is_train):
    cfg = tiny_config("light", "INPUT.MIN_SIZE_TRAIN", (32,), "INPUT.MIN_SIZE_TEST", 32, "INPUT.CROP.ENABLED", False)
    return PoseDatasetMapper(cfg, is_train=is_train)


def test_training_takes_other_images_instead(given, tmp_path, messages):
    listed = tmp_path / "out" / "unreadable_images.txt"
    skip = SkipUnreadable(mapper(True), listed, given)
    for record in given * 2:
        output = skip(record)
        assert output["file_name"].endswith("whole.jpg") and output["image"].shape == (3, 32, 32)
    names = [line.split("\t")[0] for line in listed.read_text().splitlines()]
    assert sorted(names) == sorted(record["file_name"] for record in given[:4])
    assert messages().count("Skipped: ") == 4
    with pytest.raises(UserError, match="100 images in a row cannot be read.*cut.jpg"):
        SkipUnreadable(mapper(True), listed, given[:4])(given[0])
    with pytest.raises(UserError, match=r"got \(64, 64\), expect \(65, 64\)"):  # other mistakes are not skipped
        skip({**given[-1], "width": 65})


def test_inference_marks_them(given, tmp_path):
    skip = SkipUnreadable(mapper(False), tmp_path / "unreadable_images.txt")
    outputs = [skip(record) for record in given]
    assert [bool(output.get("unreadable")) for output in outputs] == [True] * 4 + [False]
    assert [output["image_id"] for output in outputs] == [0, 1, 2, 3, 4]
    assert all(output["height"] == 64 and output["image"].shape[0] == 3 for output in outputs)


def test_an_error_in_a_worker_is_one_sentence(capsys):
    text = "Caught UnreadableImageError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    text += '  File "images.py", line 30, in read\nquerypose.image_io.UnreadableImageError: a.jpg: no Error: x\n'
    with pytest.raises(SystemExit), exit_on_user_error():
        raise UnreadableImageError(text)
    with pytest.raises(SystemExit), exit_on_user_error():  # as training adds to it
        raise UserError(f"{text}; the state is in b.pth")
    assert capsys.readouterr().err == "error: a.jpg: no Error: x\nerror: a.jpg: no Error: x ; the state is in b.pth\n"


def test_arrays_and_tensors_of_every_kind():
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for same in (PIXELS, np.dstack([PIXELS, PIXELS[..., 0]]), tensor, tensor / 255, Image.fromarray(PIXELS)):
        assert np.array_equal(read_image_rgb(same), PIXELS)
    for swapped in (PIXELS[..., ::-1], tensor.flip(0)):
        assert np.array_equal(read_image_rgb(swapped, "BGR"), PIXELS)
    for gray in (PIXELS[..., 0], PIXELS[..., :1], tensor[0], tensor[:1]):
        assert np.array_equal(read_image_rgb(gray), np.repeat(PIXELS[..., :1], 3, axis=2))


def test_what_is_no_image_is_refused():
    for image, words in (
        (np.zeros((4, 4, 3), np.float32), "must be uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"not \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (torch.full((3, 4, 4), 255.0), "values from 0 to 1, not 255"),
        (torch.full((3, 4, 4), float("nan")), "values from 0 to 1"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "must be uint8"),
        (torch.zeros(5, 4, 4), r"1, 3 or 4 channels.*not \(5, 4, 4\)"),
        (3, "not int"),
    ):
        with pytest.raises(UserError, match=words):
            read_image_rgb(image)


def test_of_several_frames_the_first_is_read_and_that_is_said(tmp_path, messages):
    frames = [Image.new("RGB", (8, 9), (40 * i, 0, 0)) for i in range(1, 4)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    for _ in range(2):
        assert (read_image_rgb(tmp_path / "a.tif") == (40, 0, 0)).all()
    assert messages().count("a.tif has several frames; only the first is read") == 1


def test_one_resize_rule_for_training_prediction_and_onnx():
    rng = np.random.default_rng(0)
    for height, width in rng.integers(20, 3000, (300, 2)).tolist():
        wanted = T.ResizeShortestEdge.get_output_shape(height, width, 480, 1333)
        assert image_io.resized_shape(height, width, 480, 1333) == wanted
    assert image_io.resized_shape(1, 5000, 192, 320) == (1, 320) and image_io.resized_shape(7, 9, 0, 5) == (7, 9)
    thin = rng.integers(0, 255, (2, 3000, 3), dtype=np.uint8)
    found = ResizeShortestEdge(192, 320).get_transform(thin).apply_image(thin)
    assert found.shape == (1, 320, 3) and np.array_equal(found, image_io.resize_image(thin, 192, 320))
