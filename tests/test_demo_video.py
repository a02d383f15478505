"""tools/demo.py on videos and cameras: what is written, also after Ctrl-C, and the messages about bad files."""

import contextlib
import itertools
import os
import signal
import tracemalloc
from pathlib import Path
from unittest.mock import DEFAULT, Mock

import cv2
import numpy as np
import pytest
import torch
from demo_stub import StubPredictor, content, lines, rows, save_image
from hands import HANDS, two_persons

from querypose.demo.results import Results
from querypose.demo.video import VideoReader, VideoWriter
from querypose.errors import UserError


def make_video(path, num_frames=6, rate=12.5):
    """Frames of rising brightness, RGB red only."""
    with contextlib.closing(VideoWriter(path, rate)) as writer:
        for index in range(num_frames):
            writer.write(np.full((60, 101, 3), (40 * (index % 6), 0, 0), np.uint8))
    return path


def frames_of(path):
    with contextlib.closing(VideoReader(path)) as reader:
        return [frame for _, frame in reader], reader.frame_rate


def test_a_video_becomes_a_video_and_tables(demo, tmp_path):
    video = make_video(tmp_path / "a.mp4")
    for index, frame in enumerate(frames_of(video)[0]):
        assert frame.shape == (60, 100, 3), "odd sides lose a pixel"
        assert frame[..., 0].mean() == pytest.approx(40 * index, abs=6) and frame[..., 2].mean() < 8
    assert demo.run("--input", video) == 0
    frames, rate = frames_of(tmp_path / "out" / "a.mp4")
    assert len(frames) == 6 and rate == pytest.approx(12.5) and frames[0].shape == (240, 400, 3)
    assert [result["image_id"] for result in content(tmp_path / "out")] == [1, 2, 3, 4, 5, 6]
    expected = {"id": 3, "file_name": str(video), "height": 60, "width": 100, "frame": 2, "time": 0.16}
    assert content(tmp_path / "out", "images.json")["images"][2] == expected
    frames = lines(tmp_path / "out")
    assert [line["frame"] for line in frames] == list(range(6)) and frames[0]["persons"][0]["left_hand_x"] == 10.5
    assert [(row["frame"], row["right_hand_confidence"]) for row in rows(tmp_path / "out")][5] == ("5", "0.75")


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(frames_of(make_video(Path("12:30.mp4")))[0]) == 6


def test_a_variable_frame_rate_keeps_its_times(demo, tmp_path, monkeypatch):
    times, video = [0.0, 0.3, 0.32, 0.5], make_video(tmp_path / "a.mp4", 4, rate=10)
    capture, milliseconds = Mock(wraps=cv2.VideoCapture(str(video))), iter([1000 * time + 40 for time in times])
    capture.get.side_effect = lambda key: next(milliseconds) if key == cv2.CAP_PROP_POS_MSEC else DEFAULT
    with monkeypatch.context() as patched:
        patched.setattr(cv2, "VideoCapture", lambda source: capture)
        assert demo.run("--input", video) == 0
    assert [line["time"] for line in lines(tmp_path / "out")] == times
    frames, _ = frames_of(tmp_path / "out" / "a.mp4")
    reds = [frame[..., 0].mean() for frame in frames]
    # the second is shown for no time, as the third is at the same place
    assert [round((red - reds[0]) / 40) for red in reds] == [0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("rate", [119.947, 65.5361, 29.97, 0.37])
def test_frame_rates_that_mpeg_4_cannot_state_are_rounded(tmp_path, rate):
    frames, found = frames_of(make_video(tmp_path / "a.mp4", 3, rate))
    assert len(frames) == 3 and found == pytest.approx(rate, rel=1e-3, abs=1e-3)
    assert frames_of(make_video(tmp_path / "b.mp4", 3, 400))[1] == 25, "this may be the timestamps' resolution"


def test_a_video_that_cannot_be_written_costs_no_keypoints(demo, tmp_path, monkeypatch, capsys):
    video = make_video(tmp_path / "a.mp4")

    def refuse(self, frame, seconds=None):
        raise UserError("no codec")

    monkeypatch.setattr(VideoWriter, "write", refuse)
    assert demo.run("--input", video) == 2
    assert capsys.readouterr().err.count("(no codec); the keypoints of") == 1
    assert len(lines(tmp_path / "out")) == 6


def test_ctrl_c_leaves_a_playable_file(demo, tmp_path, monkeypatch, capsys):
    video, calls = make_video(tmp_path / "a.mp4", num_frames=30), itertools.count(1)

    def interrupt_at_the_fourth(self, image, call=StubPredictor.__call__):
        if next(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return call(self, image)

    monkeypatch.setattr(StubPredictor, "__call__", interrupt_at_the_fourth)
    # shells start background processes with Ctrl-C ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert demo.run("--input", video) == 130
    assert "ended by Ctrl-C" in capsys.readouterr().out
    assert len(frames_of(tmp_path / "out" / "a.mp4")[0]) == len(content(tmp_path / "out")) == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_was_found_before_the_network_fails_is_kept(demo, tmp_path, monkeypatch):
    found = [two_persons()] * 3
    monkeypatch.setattr(StubPredictor, "__call__", lambda self, image: found.pop())
    with pytest.raises(IndexError):
        demo.run("--input", make_video(tmp_path / "a.mp4"))
    assert len(frames_of(tmp_path / "out" / "a.mp4")[0]) == len(lines(tmp_path / "out")) == 3
    assert len(content(tmp_path / "out")) == 6


def test_a_bad_video_is_reported_and_the_others_are_used(demo, tmp_path, capsys):
    folder = save_image(tmp_path / "in" / "a.jpg").parent
    make_video(folder / "c.mp4", num_frames=2)
    (folder / "d.avi").write_bytes(b"no video")
    (folder / os.fsdecode(b"caf\xe9.mp4")).touch()  # OpenCV 5 crashes on this name
    assert demo.run("--input", folder) == 2
    errors = capsys.readouterr().err
    assert "d.avi; is the camera connected" in errors and ".mp4 is not valid UTF-8; rename it" in errors
    images = content(tmp_path / "out", "images.json")["images"]
    assert [image["id"] for image in images] == [1, 2, 3] and not (tmp_path / "out" / "d.mp4").exists()


def test_a_truncated_video_is_reported_and_its_beginning_kept(demo, tmp_path, capsys):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (100, 60))
    for index in range(20):
        writer.write(np.random.default_rng(index).integers(0, 255, (60, 100, 3), dtype=np.uint8))
    writer.release()
    os.truncate(tmp_path / "a.avi", (tmp_path / "a.avi").stat().st_size // 2)
    assert demo.run("--input", tmp_path / "a.avi") == 2
    found = len(lines(tmp_path / "out"))
    assert 5 < found < 15 and len(frames_of(tmp_path / "out" / "a.mp4")[0]) == found
    assert f"ends after {(found - 1) / 10:.1f} of 2.0 seconds: it is damaged" in capsys.readouterr().err


def test_a_camera_ends_after_max_frames(demo, tmp_path, monkeypatch):
    video = make_video(tmp_path / "a.mp4")
    opened, capture = [], cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: opened.append(source) or capture(str(video)))
    assert demo.run("--webcam", "1", "--max-frames", 3) == 0
    assert opened == [1] and len(frames_of(tmp_path / "out" / "webcam.mp4")[0]) >= 3
    assert len(lines(tmp_path / "out")) == 3
    monkeypatch.undo()
    with pytest.raises(UserError, match="cannot open camera 93"):
        VideoReader(93)


def test_tracked_persons_have_their_id_in_every_file(demo, tmp_path):
    for number in range(1, 12):
        save_image(tmp_path / "frames" / f"f{number}.png")
    assert demo.run("--track", "--smooth", "--input", make_video(tmp_path / "a.mp4"), tmp_path / "frames") == 0
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
    found = [two_persons() for _ in range(6)]
    for number, persons in enumerate(found):
        persons.scores = torch.tensor([0.75 if number < 3 else 0.125, 0.25])
    monkeypatch.setattr(StubPredictor, "__call__", lambda self, image: found.pop(0))
    assert demo.run("--track", "--input", make_video(tmp_path / "a.mp4")) == 0
    assert StubPredictor.options["score_threshold"] == 0.1
    scores = [[person["score"] for person in line["persons"]] for line in lines(tmp_path / "out")]
    assert scores == [[0.75]] * 3 + [[0.125]] * 3


def test_memory_does_not_grow_with_the_frames(tmp_path):
    used = []
    with contextlib.closing(Results(tmp_path, HANDS, tracked=True)) as results:
        tracemalloc.start()
        for number in range(1, 601):
            results.add(two_persons(track_ids=torch.tensor([1, 2])), number, "webcam", number, number / 25)
            if number % 300 == 0:
                used.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(lines(tmp_path)) == 600 and len(rows(tmp_path)) == 1200, "a killed run leaves them"
    assert used[1] - used[0] < 50_000, "bytes of 300 frames"
    assert len(content(tmp_path)) == 1200 and len(content(tmp_path, "tracks.json")["images"]) == 600
