"""tools/demo.py with a predictor that needs no network, and what it wrote."""

import csv
import json

import numpy as np
import pytest
import torch
from hands import HANDS, two_persons
from load_tool import load_tool
from PIL import Image
from tiny_model import tiny_config


class StubPredictor:
    """Finds the first of `two_persons` in every image."""

    skeleton = HANDS
    cfg = tiny_config("light", "MODEL.QUERYPOSE.KEYPOINT_LOSS", "L1")

    def __init__(self, config_file, **options):
        StubPredictor.options = options
        self.score_threshold = options["score_threshold"]

    def __call__(self, image):
        return two_persons(image.shape[:2])[:1]

    def stream(self, images, batch_size):
        return map(self, images)


class RichPredictor(StubPredictor):
    """Of two stages, with a part that looks at the left hand alone, a sigma of 8 pixels in x and 3 in y of it, 1 of the
    right; black images show nobody."""

    cfg = tiny_config("full", "MODEL.QUERYPOSE.PART_DIVISION", "per_keypoint")

    def __init__(self, config_file, **options):
        super().__init__(config_file, **{"score_threshold": 0.2, **options})

    def __call__(self, image):
        persons = super().__call__(image)
        persons.pred_keypoint_sigmas = torch.tensor([[[8.0, 3.0], [1.0, 1.0]]])
        return persons[: int(image.max() > 0)]

    def with_attention(self, image, stage=-1):
        RichPredictor.stage = stage
        persons = self(image)
        persons.attention_boxes = persons.pred_boxes
        persons.part_attention = torch.zeros(len(persons), 2, 6, 10)
        persons.part_attention[:, 0, 2, 1] = 1
        return persons


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """The module; its function `run(*inputs_and_options, output="out")` gives the exit code."""
    module = load_tool("demo")
    monkeypatch.setattr(module, "PosePredictor", StubPredictor)

    def run(*arguments, output="out"):
        options = ["--config-file", "c.yaml", "--output", str(tmp_path / output)]
        return module.main([*options, *map(str, arguments)])

    module.run = run
    return module


def save_image(file, color=40):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((60, 100, 3), color, np.uint8)).save(file)
    return file


def pixels(file):
    return np.asarray(Image.open(file))


def content(folder, name="predictions.json"):
    return json.loads((folder / name).read_text())


def lines(folder):
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]


def rows(folder):
    with open(folder / "persons.csv", newline="") as file:
        return list(csv.DictReader(file))
