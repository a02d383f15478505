"""Poses of many images as Parquet: the same rows with and without Ray, failures in a column, resumed by parts."""

import json
import os
import shutil
from pathlib import Path

import pytest
from load_tool import load_tool

from querypose import PosePredictor
from querypose.dataset_prediction import PartPredictor, list_images, make_parts
from querypose.errors import UserError

parquet = pytest.importorskip("pyarrow.parquet")
ROOT = Path(__file__).resolve().parents[1]
FILES = {"config_file": str(ROOT / "configs/quickstart.yaml"), "weights": str(ROOT / "weights/quickstart.pth")}
OPTIONS = {**FILES, "device": "cpu", "precision": "float32"}


@pytest.fixture
def images(tmp_path):
    """Four images, the third of which is none, and its name no text."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "d.jpg"):
        shutil.copy(ROOT / "docs/images/synthetic_people.jpg", folder / name)
    (folder / os.fsdecode(b"c\xe9.jpg")).write_text("no image")
    return folder


def rows_of(folder):
    return [row for file in sorted(folder.glob("part-*.parquet")) for row in parquet.read_table(file).to_pylist()]


def predict(images, output, size=2):
    predictor = PartPredictor(OPTIONS, threads=1)
    return [predictor(part) for part in make_parts(list_images([str(images)]), output, size, **FILES)]


def test_rows_are_the_predictors_persons_or_an_error(images, tmp_path):
    assert predict(images, tmp_path / "poses") == [
        {"images": 2, "persons": 6, "failures": 0},
        {"images": 2, "persons": 3, "failures": 1},
    ]
    rows = rows_of(tmp_path / "poses")
    assert parquet.read_table(tmp_path / "poses").num_rows == 4, "the folder reads as one table"
    assert [Path(row["image"]).name for row in rows] == ["a.jpg", "b.jpg", r"c\xe9.jpg", "d.jpg"]
    assert r"c\xe9.jpg cannot be read" in rows[2]["error"] and rows[2]["scores"] == [] and rows[2]["width"] is None
    row, persons = rows[0], PosePredictor(**OPTIONS)(images / "a.jpg")
    assert (row["height"], row["width"]) == persons.image_size and row["error"] is None
    assert row["scores"] == pytest.approx(persons.scores.tolist(), abs=1e-5)
    assert row["boxes"][0] == pytest.approx(persons.pred_boxes.tensor[0].tolist(), abs=1e-2)
    assert row["keypoints"][2] == pytest.approx(persons.pred_keypoints[2].flatten().tolist(), abs=1e-2)
    assert row["keypoint_sigmas"][2] == pytest.approx(persons.pred_keypoint_sigmas[2].flatten().tolist(), abs=1e-2)


def test_parts_that_are_there_are_not_done_again(images, tmp_path):
    output = tmp_path / "poses"
    predict(images, output)
    (output / "part-00001.parquet").unlink()
    (part,) = make_parts(list_images([str(images)]), output, 2, **FILES)
    assert [Path(image).name[0] for image in part["images"]] == ["c", "d"]
    assert list(make_parts(["typo.jpg"], tmp_path / "new", 2)) and list(make_parts(["image.jpg"], tmp_path / "new", 2))
    with pytest.raises(UserError, match="holds poses of other images or options"):
        list(make_parts(list_images([str(images)]), output, 2, **{**FILES, "weights": "other.pth"}))
    for folder, words in ((output, "holds poses of other images"), (images / "a.jpg", "a.jpg: File exists")):
        with pytest.raises(UserError, match=words):
            list(make_parts([str(images / "a.jpg")], folder, 2, **FILES))


def test_lists_of_images(images, tmp_path):
    import pyarrow

    (tmp_path / "list.txt").write_text(f"{images}/b.jpg\n\n{images}/a.jpg\n", "utf-8-sig")  # as Windows writes it
    (images / "video.mp4").touch()
    parquet.write_table(pyarrow.table({"image": [None, f"{images}/d.jpg"]}), tmp_path / "null.parquet")
    parquet.write_table(pyarrow.table({"path": [f"{images}/d.jpg", f"{images}/b.jpg"]}), tmp_path / "list.parquet")
    found = list_images([str(tmp_path / "list.txt"), str(tmp_path / "list.parquet")], "path")
    assert [Path(image).name for image in found] == ["b.jpg", "a.jpg", "d.jpg"], "each once"
    for given in ("list.parquet", "null.parquet", "absent.txt", "images/video.mp4", "absent"):
        words = "cannot read a list of images" if given.endswith(("parquet", "txt")) else "names no image"
        with pytest.raises(UserError, match=words):
            list_images([str(tmp_path / given)])  # list.parquet has no column "image"


@pytest.mark.slow
def test_the_tool_writes_the_same_rows_by_ray(images, tmp_path, capsys):
    ray = pytest.importorskip("ray")
    predict(images, tmp_path / "alone")
    ray.init(num_cpus=1, log_to_driver=False)  # less to start
    arguments = f"--config-file {FILES['config_file']} --input {images} --output {tmp_path / 'ray'} --images-per-part 2"
    arguments += f" --device cpu --precision float32 MODEL.WEIGHTS {FILES['weights']}"
    try:
        assert load_tool("predict_dataset").main(arguments.split()) == 2
        with pytest.raises(UserError, match="^MODEL.DEVICE is 'gpu'"):
            load_tool("predict_dataset").main([*arguments.replace("/ray", "/gpu").split(), "--device", "gpu"])
    finally:
        ray.shutdown()
    with pytest.raises(UserError, match="no Ray cluster at nowhere"):
        load_tool("predict_dataset").main([*arguments.replace("/ray", "/none").split(), "--address", "nowhere"])
    printed = capsys.readouterr().out
    assert "4 of 4 images" in printed and "1 images could not be used" in printed
    assert json.dumps(rows_of(tmp_path / "ray")) == json.dumps(rows_of(tmp_path / "alone"))
