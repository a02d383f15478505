"""tools/demo.py: inputs, output names, results, and what is reported about inputs that cannot be used."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from demo_stub import StubPredictor, content, lines, rows, run, save_image
from hands import two_persons
from PIL import Image
from refusals import ROOT
from tiny_model import tiny_config

from querypose.demo.inputs import find_inputs
from querypose.demo.inputs import image_ids, output_names
from querypose.errors import UserError
from querypose.structures import SCORE_THRESHOLD


def test_visualizations_and_predictions_are_written(demo, tmp_path, capsys):
    image = save_image(tmp_path / "in" / "000000000785.png")
    assert run(demo, "--input", image, "--output", tmp_path / "out") == 0
    picture = np.asarray(Image.open(tmp_path / "out" / "000000000785.png"))
    assert picture.shape == (240, 400, 3), "small images are enlarged"
    assert (picture != 40).any()
    (result,) = content(tmp_path / "out")
    assert result == {**two_persons().to_coco(785)[0], "file_name": str(image)}
    expected = {"id": 785, "file_name": str(image), "height": 60, "width": 100}
    assert content(tmp_path / "out", "images.json") == {"images": [expected]}
    printed = f"1 persons in 1 images: visualizations and predictions.json are in {tmp_path / 'out'}"
    assert printed in capsys.readouterr().out


@pytest.mark.parametrize("options", [("--no-boxes",), ("--color-by", "person"), ("--confidence", "none")])
def test_drawing_options_change_the_image(demo, tmp_path, options):
    image = save_image(tmp_path / "in" / "a.png")
    run(demo, "--input", image, "--output", tmp_path / "default")
    run(demo, "--input", image, "--output", tmp_path / "other", *options)
    default, other = (np.asarray(Image.open(tmp_path / name / "a.png")) for name in ("default", "other"))
    assert (default != other).any() and (other[82, 120] != 40).any(), "the limb is drawn"


class AttentivePredictor(StubPredictor):
    """With a part that looks at the left hand alone."""

    def with_attention(self, image):
        persons = self(image)
        persons.attention_boxes = persons.pred_boxes
        persons.part_attention = torch.zeros(1, 1, 6, 10)
        persons.part_attention[0, 0, 2, 1] = 1
        return persons


def test_attention_is_overlaid_below_the_poses(demo, tmp_path, monkeypatch):
    image = save_image(tmp_path / "in" / "a.png")
    run(demo, "--input", image, "--output", tmp_path / "without")
    monkeypatch.setattr(demo, "PosePredictor", AttentivePredictor)
    AttentivePredictor.cfg = tiny_config()
    assert run(demo, "--input", image, "--output", tmp_path / "with", "--attention") == 0
    plain, overlaid = (np.asarray(Image.open(tmp_path / name / "a.png")) for name in ("without", "with"))
    rows, columns = np.nonzero((plain != overlaid).any(axis=2))
    # between the centers of its neighbours, x 7.5 to 17.5 and y 17.5 to 27.5, four times as large, and a pixel around
    assert 66 <= rows.min() < 74 and 106 < rows.max() < 114 and 26 <= columns.min() < 34 and 66 < columns.max() < 74
    assert np.array_equal(plain[82, 42], overlaid[82, 42]), "the keypoint lies on top"
    assert content(tmp_path / "with") == content(tmp_path / "without")


class UncertainPredictor(StubPredictor):
    """With a sigma of 8 pixels in x and 3 in y of the left hand, 1 of the right."""

    cfg = tiny_config()

    def __call__(self, image):
        persons = super().__call__(image)
        persons.pred_keypoint_sigmas = torch.tensor([[[8.0, 3.0], [1.0, 1.0]]])
        return persons


def test_sigmas_are_written_and_drawn_on_request(demo, tmp_path, monkeypatch):
    image = save_image(tmp_path / "in" / "a.png")
    monkeypatch.setattr(demo, "PosePredictor", UncertainPredictor)
    for name, options in (("without", ()), ("one", ("--sigmas",)), ("half", ("--sigmas", "0.5"))):
        assert run(demo, "--input", image, "--output", tmp_path / name, "--no-boxes", *options) == 0
    plain, one, half = (np.asarray(Image.open(tmp_path / name / "a.png")) for name in ("without", "one", "half"))
    # the left hand is at (10, 20) of the image, which is drawn four times as large
    assert (plain != one)[82, 42 - 33 : 42 - 30].any() and not (plain != half)[82, : 42 - 20].any()
    assert (plain != half)[82, 42 - 17 : 42 - 14].any()
    (person,) = lines(tmp_path / "one")[0]["persons"]
    assert (person["left_hand_sigma_x"], person["left_hand_sigma_y"], person["right_hand_sigma_x"]) == (8.0, 3.0, 1.0)
    (row,) = rows(tmp_path / "one")
    assert row["left_hand_sigma_x"] == "8.0" and list(row)[-1] == "right_hand_sigma_y"
    (result,) = content(tmp_path / "one")
    assert result["keypoint_sigmas"] == [8.0, 3.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("flag", "key", "value", "words"),
    [
        ("--sigmas", "MODEL.QUERYPOSE.KEYPOINT_LOSS", "L1", "KEYPOINT_LOSS 'L1' predicts no sigma; leave out --sigmas"),
        ("--attention", "MODEL.QUERYPOSE.PART_EMBEDDING", "PartSelfAttention", "makes no attention maps"),
        ("--attention", "TEST.FLIP", True, "set TEST.FLIP False"),
    ],
)
def test_what_the_model_does_not_make_is_refused(demo, tmp_path, monkeypatch, flag, key, value, words):
    monkeypatch.setattr(StubPredictor, "cfg", tiny_config("full", key, value))
    image = save_image(tmp_path / "in" / "a.png")
    with pytest.raises(UserError, match=words):
        run(demo, "--input", image, "--output", tmp_path / "out", flag)


def test_folders_globs_and_files_are_found_once(tmp_path):
    for name in ("b.jpg", "a.PNG", "c.jpeg"):
        save_image(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("")
    (tmp_path / "in" / "sub.jpg").mkdir()
    (tmp_path / "none").mkdir()
    folder = str(tmp_path / "in")
    stream = "rtsp://camera/live"
    given = [folder, folder + "/b.jpg", folder + "/*.jpeg", str(tmp_path / "none"), "x*.jpg", stream]
    sources, empty, left_out = find_inputs(given)
    assert [Path(source).name for source in sources] == ["a.PNG", "b.jpg", "c.jpeg", "live"]
    assert sources[-1] == stream and empty == given[3:5] and [file.name for file in left_out] == ["notes.txt"]


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match="cannot read the folder .*: Permission denied"):
        find_inputs([str(tmp_path)])


def test_outputs_of_equal_names_do_not_overwrite_each_other(demo, tmp_path):
    files = [Path(p) for p in ("x/a.jpg", "y/a.jpg", "x/a.png", "x/A.webp", "x/a_2.jpg", "x/b.tiff")]
    names = output_names(files)
    assert names == ["a.jpg", "a_2.jpg", "a_3.png", "A_4.jpg", "a_2_2.jpg", "b.jpg"]
    assert output_names([0, "rtsp://10.0.0.2/live?x=1", Path("a.ts")]) == [
        "webcam.mp4",
        "10_0_0_2_live_x_1.mp4",
        "a.mp4",
    ]
    first = save_image(tmp_path / "x" / "a.jpg", (0, 0, 0))
    second = save_image(tmp_path / "y" / "a.jpg", (250, 250, 250))
    run(demo, "--input", first, second, "--output", tmp_path / "out")
    corners = [Image.open(tmp_path / "out" / name).getpixel((399, 239)) for name in ("a.jpg", "a_2.jpg")]
    assert max(corners[0]) < 10 and min(corners[1]) > 240
    results = content(tmp_path / "out")
    assert [(r["image_id"], r["file_name"]) for r in results] == [(1, str(first)), (2, str(second))]


def test_image_ids():
    assert image_ids([Path("0012.jpg"), Path("7.png")]) == [12, 7]
    assert image_ids([Path("x/7.jpg"), Path("y/007.jpg")]) == [1, 2]
    assert image_ids([Path("7.jpg"), Path("photo.jpg")]) == [1, 2]


OPTS = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "w.pth"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--input", "a.jpg", "b", "--output", "o", *OPTS],
        ["--output", "o", "--input", "a.jpg", "b", *OPTS],
        ["--input", "a.jpg", "b", "--output", "o", *OPTS, "--no-boxes"],
    ],
)
def test_config_overrides_may_stand_anywhere(demo, arguments):
    args = demo.parse_arguments(["--config-file", "c.yaml", *arguments])
    assert args.input == ["a.jpg", "b"] and args.output == "o"
    assert args.opts == OPTS
    assert args.no_boxes == ("--no-boxes" in arguments)
    assert args.score_threshold == SCORE_THRESHOLD


def test_ids_need_surer_persons(demo):
    assert demo.parse_arguments(["--track", "--input", "a.mp4"]).score_threshold == 0.3


def test_the_predictor_gets_the_options(demo, tmp_path):
    options = ("--score-threshold", 0.7, "--top-k", 3, "--device", "cpu", "--precision", "bfloat16")
    image = save_image(tmp_path / "in" / "a.png")
    run(demo, "--input", image, "--output", tmp_path / "out", *options, "INPUT.MIN_SIZE_TEST", "64")
    assert StubPredictor.options == {
        "score_threshold": 0.7, "top_k": 3, "device": "cpu", "precision": "bfloat16",
        "opts": ["INPUT.MIN_SIZE_TEST", "64"],
    }  # fmt: skip


def test_an_unreadable_image_is_reported_and_the_others_are_used(demo, tmp_path, capsys):
    save_image(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "b.jpg").write_text("no image")
    (tmp_path / "in" / "link.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "in" / "loop.jpg").symlink_to("loop.jpg")
    save_image(tmp_path / "in" / "c.jpg")
    assert run(demo, "--input", tmp_path / "in", tmp_path / "absent", "--output", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert re.search(r"error: .*b\.jpg cannot be read", captured.err)
    assert f"error: no images found in {tmp_path / 'absent'}" in captured.err
    assert re.search(r"error: .*link\.jpg does not exist", captured.err)
    assert re.search(r"error: .*loop\.jpg cannot be read \(Too many levels", captured.err)
    assert "4 inputs could not be used" in captured.out
    assert sorted(p.name for p in (tmp_path / "out").glob("*.jpg")) == ["a.jpg", "c.jpg"]
    assert len(content(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("source", "output", "words"),
    [
        ("absent", "out", "no images found in .*absent"),
        ("in/a.jpg", "in/a.jpg/out", "cannot write to"),
        ("in/a.jpg", "in/./", "could be overwritten"),
    ],
)
def test_mistakes_are_reported_before_the_model_is_built(demo, tmp_path, monkeypatch, source, output, words):
    monkeypatch.setattr(demo, "PosePredictor", lambda *args, **kwargs: pytest.fail("the model was built"))
    save_image(tmp_path / "in" / "a.jpg")
    with pytest.raises(UserError, match=words):
        run(demo, "--input", tmp_path / source, "--output", tmp_path / output)


def test_a_full_disk_is_one_sentence(demo, tmp_path):
    image = save_image(tmp_path / "in" / "a.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "frames.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="cannot write to .*out: No space left on device"):
        run(demo, "--input", image, "--output", tmp_path / "out")


def test_a_failing_network_leaves_out_its_image_alone(demo, tmp_path, monkeypatch, capsys):
    for name, color in (("a", 10), ("b", 20), ("c", 30)):
        save_image(tmp_path / "in" / f"{name}.png", color)
    find = StubPredictor.__call__

    def fail_on_b(self, image):
        if image[0, 0, 0] == 20:
            raise MemoryError("no room")
        return find(self, image)

    monkeypatch.setattr(StubPredictor, "__call__", fail_on_b)
    assert run(demo, "--input", tmp_path / "in", "--output", tmp_path / "out") == 2
    assert "b.png: MemoryError: no room" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.png", "c.png"]


# in a process for each kind of output, all of one that has imported everything
RUN_WITH_STUB = """
import os, sys, tools.demo, demo_stub
from querypose.errors import exit_on_user_error

tools.demo.PosePredictor = demo_stub.StubPredictor
reading, unread = os.pipe()
os.close(reading)
full = os.open("/dev/full", os.O_WRONLY)
for kind, target in {"open": None, "closed": -1, "full": full, "unread": unread}.items():
    process = os.fork()
    if process:
        with open("codes", "a") as codes:
            print(kind, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), file=codes)
        continue
    for stream in (1, 2):
        if target == -1:
            os.close(stream)
            sys.stdout = sys.stderr = None  # as Python starts then
        elif target is not None:
            os.dup2(target, stream)
    with exit_on_user_error():
        sys.exit(tools.demo.main(["--config-file", "c.yaml", "--input", "in", "--output", kind]))
"""


def test_names_in_any_encoding_and_closed_output(tmp_path):
    names = [b"caf\xe9.png", "ü ☃.png".encode(), b"two\nlines.png"]
    (tmp_path / "in").mkdir()
    for name in names:
        save_image(tmp_path / "in" / "x.png").rename(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name))
    (tmp_path / "in" / "ö.png").write_text("no image")
    environment = {
        **os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict",
    }  # fmt: skip
    subprocess.run([sys.executable, "-c", RUN_WITH_STUB], cwd=tmp_path, env=environment, timeout=120)
    codes = dict(line.split() for line in (tmp_path / "codes").read_text().splitlines())
    assert codes == dict.fromkeys(["open", "closed", "full", "unread"], "2"), "the unreadable image"
    for kind in codes:
        assert len((tmp_path / kind / "frames.jsonl").read_text().splitlines()) == 3
        assert len(list((tmp_path / kind).glob("*.png"))) == 3
        assert len(content(tmp_path / kind)) == 3
