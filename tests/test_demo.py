"""tools/demo.py: inputs, output names, results, and what is reported about inputs that cannot be used."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from demo_stub import RichPredictor, StubPredictor, content, lines, pixels, rows, save_image
from hands import two_persons
from refusals import ROOT
from tiny_model import tiny_config

from querypose.demo.inputs import find_inputs, image_ids, output_names
from querypose.errors import UserError


def test_visualizations_and_predictions_are_written(demo, tmp_path):
    image = save_image(tmp_path / "in" / "000000000785.png")
    assert demo.run("--input", image) == 0
    picture = pixels(tmp_path / "out" / "000000000785.png")
    assert picture.shape == (240, 400, 3), "small images are enlarged"
    assert (picture[82, 120] != 40).any(), "the limb is drawn"
    (result,) = content(tmp_path / "out")
    assert result == {**two_persons().to_coco(785)[0], "file_name": str(image)}
    expected = {"id": 785, "file_name": str(image), "height": 60, "width": 100}
    assert content(tmp_path / "out", "images.json") == {"images": [expected]}
    for options in (("--no-boxes",), ("--color-by", "person"), ("--confidence", "none")):
        demo.run("--input", image, *options, output="other")
        assert (pixels(tmp_path / "other" / image.name) != picture).any()


def test_attention_and_sigmas_are_drawn_on_request(demo, tmp_path, monkeypatch):
    image = save_image(tmp_path / "in" / "a.png")
    monkeypatch.setattr(demo, "PosePredictor", RichPredictor)
    drawn = {}
    for options in ("", "--attention", "--sigmas", "--sigmas 0.5"):
        assert demo.run("--input", image, "--no-boxes", *options.split()) == 0
        drawn[options] = pixels(tmp_path / "out" / "a.png")
    plain, overlaid, one, half = drawn.values()
    places = np.argwhere((plain != overlaid).any(axis=2))
    # y 17.5 to 27.5 and x 7.5 to 17.5, between the centers of its neighbours, four times as large
    assert [*places.min(axis=0), *places.max(axis=0)] == pytest.approx([70, 30, 110, 70], abs=4)
    assert np.array_equal(plain[82, 42], overlaid[82, 42]), "the keypoint lies on top"
    # the left hand is at (10, 20) of the image, which is drawn four times as large
    assert (plain != one)[82, 42 - 33 : 42 - 30].any() and not (plain != half)[82, : 42 - 20].any()
    (person,) = lines(tmp_path / "out")[0]["persons"]
    assert (person["left_hand_sigma_x"], person["left_hand_sigma_y"], person["right_hand_sigma_x"]) == (8.0, 3.0, 1.0)
    (row,) = rows(tmp_path / "out")
    assert row["left_hand_sigma_x"] == "8.0" and list(row)[-1] == "right_hand_sigma_y"
    assert content(tmp_path / "out")[0]["keypoint_sigmas"] == [8.0, 3.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "option, opts, words",
    [
        ("--sigmas", ("MODEL.QUERYPOSE.KEYPOINT_LOSS", "L1"), "'L1' predicts no sigma; leave out --sigmas"),
        ("--attention", ("MODEL.QUERYPOSE.PART_EMBEDDING", "PartSelfAttention"), "makes no attention maps"),
        ("--attention", ("TEST.FLIP", True), "set TEST.FLIP False"),
    ],
)
def test_what_the_model_does_not_make_is_refused(demo, tmp_path, monkeypatch, option, opts, words):
    monkeypatch.setattr(StubPredictor, "cfg", tiny_config("full", *opts))
    with pytest.raises(UserError, match=words):
        demo.run("--input", save_image(tmp_path / "in" / "a.png"), option)


def test_folders_globs_and_files_are_found_once(tmp_path):
    for name in ("b.jpg", "a.PNG", "c.jpeg", "d[1].png", ".hidden.png"):
        save_image(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("")
    for name in ("sub.jpg", "none"):
        (tmp_path / "in" / name).mkdir()
    folder, stream, nothing = str(tmp_path / "in"), "rtsp://camera/live", [f"{tmp_path}/in/none", "absent*"]
    files = [folder + "/d[1].png", folder, folder + "/b.jpg", folder + "/*.jpeg"]
    sources, empty = find_inputs([*files, *nothing, stream])
    assert [Path(source).name for source in sources] == ["d[1].png", "a.PNG", "b.jpg", "c.jpeg", "live"]
    assert sources[-1] == stream and empty == nothing


def test_names_and_ids_of_outputs(demo, tmp_path):
    files = [Path(p) for p in ("x/a.jpg", "y/a.jpg", "x/a.png", "x/A.webp", "x/a_2.jpg", "x/b.tiff", "a.ts")]
    assert output_names(files) == ["a.jpg", "a_2.jpg", "a_3.png", "A_4.jpg", "a_2_2.jpg", "b.jpg", "a_5.mp4"]
    assert output_names([0, "rtsp://10.0.0.2/live?x=1"]) == ["webcam.mp4", "stream.mp4"]
    assert image_ids([Path("0012.jpg"), Path("7.png")]) == [12, 7]
    assert image_ids([Path("x/7.jpg"), Path("y/007.jpg")]) == [1, 2]
    assert image_ids([Path("7.jpg"), Path("photo.jpg")]) == [1, 2]
    files = [save_image(tmp_path / folder / "a.jpg", color) for folder, color in (("x", 0), ("y", 250))]
    demo.run("--input", *files)
    assert [pixels(tmp_path / "out" / name)[239, 399, 0] // 100 for name in ("a.jpg", "a_2.jpg")] == [0, 2]
    ids = [(result["image_id"], result["file_name"]) for result in content(tmp_path / "out")]
    assert ids == [(1, str(files[0])), (2, str(files[1]))]


def test_the_predictor_gets_the_options_wherever_they_stand(demo, tmp_path):
    given = ["--input", save_image(tmp_path / "in" / "a.png"), "INPUT.MIN_SIZE_TEST", "64"]
    options = ["--score-threshold", 0.7, "--top-k", 3, "--device", "cpu", "--precision", "bfloat16"]
    expected = {"score_threshold": 0.7, "top_k": 3, "device": "cpu", "precision": "bfloat16", "opts": given[2:]}
    for arguments in ([*given, *options], [*given[:2], *options, *given[2:]]):
        demo.run(*arguments)
        assert StubPredictor.options == expected


def test_an_unreadable_image_is_reported_and_the_others_are_used(demo, tmp_path, capsys):
    for name in ("a", "c"):
        save_image(tmp_path / "in" / f"{name}.jpg")
    (tmp_path / "in" / "b.jpg").write_text("no image")
    for name, target in (("link", "nowhere"), ("loop", "loop")):
        (tmp_path / "in" / f"{name}.jpg").symlink_to(f"{target}.jpg")
    assert demo.run("--input", tmp_path / "in", tmp_path / "absent") == 2
    captured = capsys.readouterr()
    for words in (r"b\.jpg cannot be read", "no images found in .*absent", r"link\.jpg does not exist", "Too many lev"):
        assert re.search(f"error: .*{words}", captured.err)
    assert "4 inputs could not be used" in captured.out
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jpg")) == ["a.jpg", "c.jpg"]
    assert demo.run("--input", tmp_path / "in" / "b.jpg") == 2  # earlier results outlive it
    assert len(content(tmp_path / "out")) == 2


def test_inputs_are_not_overwritten(demo, tmp_path):
    with pytest.raises(UserError, match="could be overwritten"):
        demo.run("--input", save_image(tmp_path / "in" / "a.jpg"), output="in/./")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.jpg").symlink_to(tmp_path / "in" / "a.jpg")
    with pytest.raises(UserError, match="could be overwritten"):
        demo.run("--input", tmp_path / "links", output="links")


def test_a_full_disk_is_one_sentence(demo, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "frames.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="cannot write to .*out: No space left on device"):
        demo.run("--input", save_image(tmp_path / "in" / "a.jpg"))


def test_names_in_any_encoding(demo, tmp_path):
    for name in (b"caf\xe9.png", "ü ☃.png".encode(), b"two\nlines.png"):
        save_image(tmp_path / "in" / "x.png").rename(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name))
    assert demo.run("--input", tmp_path / "in") == 0
    found = lines(tmp_path / "out"), content(tmp_path / "out"), list((tmp_path / "out").glob("*.png"))
    assert [len(each) for each in found] == [3, 3, 3]


PRINTING = r"""
from querypose.errors import UserError, exit_on_user_error
with exit_on_user_error():
    print("\u2603")
    raise UserError("no \u2603")
"""


def test_tools_print_in_any_locale():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([sys.executable, "-c", PRINTING], env=environment, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"\\u2603\n", b"error: no \\u2603\n")
