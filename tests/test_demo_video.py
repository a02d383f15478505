"""tools/demo.py on videos and cameras: what is written, also after Ctrl-C, and the messages about bad files."""

import contextlib
import os
import signal
import tracemalloc

import cv2
import numpy as np
import pytest
import torch
from demo_stub import StubPredictor, content, lines, rows, run, save_image
from hands import HANDS, two_persons
from PIL import Image

from querypose.demo.results import Results
from querypose.demo.video import VideoReader, VideoWriter
from querypose.errors import UserError


def make_video(path, num_frames=6, rate=12.5, size=(60, 101)):
    """Frames of rising brightness, RGB red only."""
    writer = VideoWriter(path, rate)
    for index in range(num_frames):
        frame = np.zeros((*size, 3), np.uint8)
        frame[..., 0] = 40 * (index % 6)
        writer.write(frame)
    writer.close()
    return path


def frames_of(path):
    reader = VideoReader(path)
    frames = [frame for _, frame in reader]
    reader.close()
    return frames, reader.frame_rate


def test_frames_come_back_in_their_colors_order_and_rate(tmp_path):
    frames, rate = frames_of(make_video(tmp_path / "a.mp4"))
    assert len(frames) == 6 and rate == pytest.approx(12.5) and frames[0].shape == (60, 100, 3)
    for index, frame in enumerate(frames):
        assert frame[..., 0].mean() == pytest.approx(40 * index, abs=6) and frame[..., 2].mean() < 8


def test_a_video_becomes_a_video_and_tables(demo, tmp_path):
    (tmp_path / "in").mkdir()
    video = make_video(tmp_path / "in" / "a.mp4")
    assert run(demo, "--input", video, "--output", tmp_path / "out") == 0
    frames, rate = frames_of(tmp_path / "out" / "a.mp4")
    assert len(frames) == 6 and rate == pytest.approx(12.5) and frames[0].shape == (240, 400, 3)
    results = content(tmp_path / "out")
    assert [result["image_id"] for result in results] == [1, 2, 3, 4, 5, 6]
    images = content(tmp_path / "out", "images.json")["images"]
    assert images[2] == {
        "id": 3, "file_name": str(video), "height": 60, "width": 100, "frame": 2, "time": pytest.approx(2 / 12.5),
    }  # fmt: skip
    frames = lines(tmp_path / "out")
    assert [line["frame"] for line in frames] == list(range(6)) and frames[0]["persons"][0]["left_hand_x"] == 10.5
    table = rows(tmp_path / "out")
    assert len(table) == 6 and table[5]["frame"] == "5" and float(table[5]["right_hand_confidence"]) == 0.75


def test_a_variable_frame_rate_keeps_its_times(demo, tmp_path, monkeypatch):
    """A second at 30 frames per second, then 10; stated are 18, the average."""
    times = [*(k / 30 for k in range(30)), *(1 + k / 10 for k in range(20))]

    class Capture:
        def __init__(self, source, open_=cv2.VideoCapture):
            self.capture, self.index = open_(source), -1
            self.isOpened, self.release = self.capture.isOpened, self.capture.release

        def grab(self):
            self.index += 1
            return self.capture.grab()

        def read(self):
            self.index += 1
            return self.capture.read()

        def get(self, key):
            stated = {cv2.CAP_PROP_FPS: 18.0, cv2.CAP_PROP_POS_MSEC: 1000 * times[self.index] + 40}
            return stated[key] if key in stated else self.capture.get(key)

    video = make_video(tmp_path / "a.mp4", num_frames=50)
    with monkeypatch.context() as patched:
        patched.setattr(cv2, "VideoCapture", Capture)
        assert run(demo, "--input", video, "--output", tmp_path / "out") == 0
    assert [line["time"] for line in lines(tmp_path / "out")] == pytest.approx(times, abs=1e-4)
    frames, rate = frames_of(tmp_path / "out" / "a.mp4")
    assert rate == 30 and len(frames) == 88, "2.9 seconds and the last frame"
    assert frames[34][..., 0].mean() == pytest.approx(frames[35][..., 0].mean(), abs=3), (
        "1.133 s and 1.167 s: one frame"
    )
    assert abs(frames[35][..., 0].mean() - frames[36][..., 0].mean()) > 20, "the next begins at 1.2 s"


@pytest.mark.parametrize("rate", [119.947, 240.023, 105.611, 65.5361, 29.97, 999.999, 0.37])
def test_frame_rates_that_mpeg_4_cannot_state_are_rounded(tmp_path, rate):
    frames, found = frames_of(make_video(tmp_path / "a.mp4", 3, rate))
    assert len(frames) == 3 and found == pytest.approx(rate, rel=1e-3, abs=1e-3)


def test_a_video_that_cannot_be_written_costs_no_keypoints(demo, tmp_path, monkeypatch, capsys):
    video = make_video(tmp_path / "a.mp4")

    def refuse(self, frame, seconds=None):
        raise UserError("no codec")

    monkeypatch.setattr(VideoWriter, "write", refuse)
    assert run(demo, "--input", video, "--output", tmp_path / "out") == 2
    assert capsys.readouterr().err.count("(no codec); the keypoints of") == 1
    assert len(lines(tmp_path / "out")) == 6


def test_ctrl_c_leaves_a_playable_file(demo, tmp_path, monkeypatch, capsys):
    video = make_video(tmp_path / "a.mp4", num_frames=30)
    calls = []

    def interrupt_at_the_fourth(self, image, call=StubPredictor.__call__):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return call(self, image)

    monkeypatch.setattr(StubPredictor, "__call__", interrupt_at_the_fourth)
    # shells start background processes with Ctrl-C ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert run(demo, "--input", video, "--output", tmp_path / "out") == 130
    assert "ended by Ctrl-C" in capsys.readouterr().out
    assert len(frames_of(tmp_path / "out" / "a.mp4")[0]) == 4
    assert len(content(tmp_path / "out")) == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_bad_video_is_reported_and_the_others_are_used(demo, tmp_path, capsys):
    folder = tmp_path / "in"
    save_image(folder / "a.jpg")
    (folder / "b.mp4").write_bytes(b"no video")
    make_video(folder / "c.mp4", num_frames=2)
    (folder / "d.avi").write_bytes(b"")
    assert run(demo, "--input", folder, "--output", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert "cannot open" in captured.err and "b.mp4" in captured.err and "d.avi" in captured.err
    assert "2 inputs could not be used" in captured.out
    images = content(tmp_path / "out", "images.json")["images"]
    assert [image["id"] for image in images] == [1, 2, 3] and not (tmp_path / "out" / "b.mp4").exists()


def test_a_truncated_video_is_reported_and_its_beginning_kept(demo, tmp_path, capsys):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (100, 60))
    for index in range(20):
        writer.write(np.random.default_rng(index).integers(0, 255, (60, 100, 3), dtype=np.uint8))
    writer.release()
    whole = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(whole[: len(whole) // 2])
    assert run(demo, "--input", tmp_path / "a.avi", "--output", tmp_path / "out") == 2
    found = len(content(tmp_path / "out", "images.json")["images"])
    assert 5 < found < 15 and len(frames_of(tmp_path / "out" / "a.mp4")[0]) == found
    assert f"ends after {(found - 1) / 10:.1f} of 2.0 seconds: it is damaged" in capsys.readouterr().err


def test_a_camera_ends_after_max_frames(demo, tmp_path, monkeypatch):
    video = make_video(tmp_path / "a.mp4")
    opened, capture = [], cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: opened.append(source) or capture(str(video)))
    assert run(demo, "--webcam", "1", "--output", tmp_path / "out", "--max-frames", 3) == 0
    assert opened == [1] and len(frames_of(tmp_path / "out" / "webcam.mp4")[0]) >= 3
    assert len(content(tmp_path / "out", "images.json")["images"]) == 3


def test_tracked_persons_have_their_id_in_every_file(demo, tmp_path):
    (tmp_path / "in").mkdir()
    make_video(tmp_path / "in" / "a.mp4")
    for number in range(1, 12):
        save_image(tmp_path / "frames" / f"f{number}.png")
    inputs = tmp_path / "in" / "a.mp4", tmp_path / "frames"
    assert run(demo, "--track", "--smooth", "--input", *inputs, "--output", tmp_path / "out") == 0
    frames = lines(tmp_path / "out")
    ids = [line["persons"][0]["track_id"] for line in frames]
    assert ids == [-1] + ids[1:2] + [ids[1]] * 4 + [-1] + [ids[7]] * 10 and 0 < ids[1] < ids[7]
    assert [line["file_name"].split("/")[-1] for line in frames[6:]] == [f"f{n}.png" for n in range(1, 12)]
    assert [int(row["track_id"]) for row in rows(tmp_path / "out")] == ids
    tracks = content(tmp_path / "out", "tracks.json")
    assert [(track["id"], track["video_id"]) for track in tracks["tracks"]] == [(ids[1], 1), (ids[7], 2)]
    assert [image["frame_id"] for image in tracks["images"]] == [*range(6), *range(11)]
    assert [each["track_id"] for each in tracks["annotations"]] == [i for i in ids if i > 0]
    assert tracks["annotations"][0]["image_id"] == 2 and len(tracks["categories"][0]["keypoints"]) == 2


def test_persons_of_low_score_are_followed_but_are_not_new(demo, tmp_path, monkeypatch):
    scores = iter([(0.75, 0.25)] * 3 + [(0.125, 0.25)] * 3)

    def found(predictor, image):
        persons = two_persons(image.shape[:2])
        persons.scores = torch.tensor(next(scores))
        return persons

    monkeypatch.setattr(StubPredictor, "__call__", found)
    make_video(tmp_path / "a.mp4")
    assert run(demo, "--track", "--input", tmp_path / "a.mp4", "--output", tmp_path / "out") == 0
    assert StubPredictor.options["score_threshold"] == 0.1
    found = [[person["score"] for person in line["persons"]] for line in lines(tmp_path / "out")]
    assert found == [[0.75]] * 3 + [[0.125]] * 3


def test_images_of_different_sizes_are_no_frames(demo, tmp_path):
    for name, size in (("a.png", (30, 40)), ("b.png", (40, 30))):
        Image.new("RGB", size).save(tmp_path / name)
    with pytest.raises(UserError, match="gives images of different sizes"):
        run(demo, "--track", "--input", tmp_path, "--output", tmp_path / "out")


def test_images_too_large_to_read_are_reported_as_without_tracking(demo, tmp_path, monkeypatch, capsys):
    for number in range(3):
        save_image(tmp_path / "in" / f"{number}.png")
    Image.new("1", (300, 300)).save(tmp_path / "in" / "3.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    assert run(demo, "--track", "--input", tmp_path / "in", "--output", tmp_path / "out") == 2
    assert "3.png has more than 100 million pixels" in capsys.readouterr().err


def test_a_video_s_name_that_is_no_text_is_refused(demo, tmp_path, capsys):
    """OpenCV 5 crashes on it."""
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    assert run(demo, "--input", tmp_path, make_video(tmp_path / "in.mp4", 2), "--output", tmp_path / "out") == 2
    assert ".mp4 is not valid UTF-8; rename it" in capsys.readouterr().err
    assert len(lines(tmp_path / "out")) == 2


def test_memory_does_not_grow_with_the_frames(tmp_path):
    used = []
    with contextlib.closing(Results(tmp_path, HANDS, tracked=True)) as results:
        tracemalloc.start()
        for number in range(1, 601):
            results.add(two_persons(track_ids=torch.tensor([1, 2])), number, "webcam", number, number / 25)
            if number % 300 == 0:
                used.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert used[1] - used[0] < 50_000, "bytes of 300 frames"
    assert len(content(tmp_path)) == 1200 and len(content(tmp_path, "tracks.json")["images"]) == 600


def test_an_absent_camera_is_reported():
    with pytest.raises(UserError, match="cannot open camera 93"):
        VideoReader(93)
