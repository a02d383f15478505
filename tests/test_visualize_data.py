"""tools/visualize_data.py: samples of the mapper, their mirror images, and the colors that reveal a wrong swap."""

import json

import numpy as np
import pytest
import torch
from load_tool import load_tool
from PIL import Image
from refusals import ROOT
from tiny_model import tiny_config

from querypose.data import PoseDatasetMapper
from querypose.errors import UserError
from querypose.skeleton import SIDE_COLORS

tool = load_tool("visualize_data")


@pytest.fixture
def data(tmp_path):
    """Two images of noise, a person with spread arms in each; the data set's name."""
    images, annotations = [], []
    person = {"category_id": 1, "iscrowd": 0, "area": 9000, "num_keypoints": 3, "bbox": [20, 10, 140, 100]}
    person["keypoints"] = [100, 20, 2, 150, 60, 2, 30, 60, 2]  # the left hand on our right
    for number in (1, 2):
        noise = np.random.default_rng(number).integers(0, 60, (120, 200, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 200, "height": 120})
        annotations.append({**person, "id": number, "image_id": number})
    names = ["head", "left_hand", "right_hand"]
    category = {"id": 1, "name": "person", "keypoints": names, "skeleton": [[1, 2], [1, 3]]}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (tmp_path / "data.json").write_text(json.dumps(content))
    return str(tmp_path / "data.json")


def config(data, *opts):
    cfg = tiny_config("light", "DATASETS.TRAIN", (data,), "DATASETS.TEST", (data,), "INPUT.MIN_SIZE_TRAIN", (100, 140))
    cfg.INPUT.CROP.SIZE, cfg.INPUT.CROP.RESIZE_BEFORE = [80, 110], [120, 150]
    cfg.merge_from_list(list(opts))
    return cfg


def test_a_sample_is_the_mapper_s_and_its_mirror_image_exact(data):
    maker, sizes = tool.SampleMaker(config(data), "train"), set()
    flipped = maker.skeleton.flip_indices
    for seed in range(6):
        sample, mirrored = maker.make(1, seed)
        assert torch.equal(mirrored["image"], sample["image"].flip(2))
        width = sample["image"].shape[2]
        here, there = (item["instances"].gt_keypoints.tensor for item in (sample, mirrored))
        expected = here[:, flipped].clone()
        expected[..., 0] = torch.where(expected[..., 2] > 0, width - expected[..., 0], 0.0)
        torch.testing.assert_close(there, expected)
        here, there = (item["instances"].gt_boxes.tensor for item in (sample, mirrored))
        torch.testing.assert_close(there[:, [2, 0]], width - here[:, [0, 2]])
        np.random.seed(seed + 1)
        plain = PoseDatasetMapper(config(data), is_train=True)(maker.records[1])
        assert torch.equal(plain["image"], sample["image"])
        sizes.add(plain["image"].shape)
    assert len(sizes) > 2, "the augmentation varies"


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_sides_have_their_colors_and_a_wrong_swap_is_visible(data, order):
    opts = ("INPUT.RANDOM_FLIP", "none", "INPUT.CROP.ENABLED", False, "INPUT.MIN_SIZE_TRAIN", (120,))
    maker = tool.SampleMaker(config(data, "INPUT.FORMAT", order, *opts), "train")
    images = [maker.draw(sample) for sample in maker.make(0, 0)]
    # hands at (150.5, 60.5) and (30.5, 60.5), in the mirrored image of 200 pixels at 49.5 and 169.5; twice as large
    for image, left, right in zip(images, (301, 339), (61, 99), strict=True):
        assert image.shape == (240, 400, 3)
        # in both images, the hand on our right is the left one
        assert tuple(image[121, left]) == SIDE_COLORS["left"]
        assert tuple(image[121, right]) == SIDE_COLORS["right"]
    given = np.asarray(Image.open(maker.records[0]["file_name"]))
    shown = images[0].reshape(120, 2, 200, 2, 3).mean(axis=(1, 3))
    assert np.abs(shown - given)[:, :15].mean() < 12, "the colors are those of the file"
    maker.mappers[1].flip_indices = np.arange(3)
    assert tuple(maker.draw(maker.make(0, 0)[1])[121, 339]) == SIDE_COLORS["right"]


def test_test_data_are_only_resized(data):
    maker = tool.SampleMaker(config(data, "INPUT.MIN_SIZE_TEST", 60), "test")
    (first, _), (second, _) = maker.make(0, 0), maker.make(0, 5)
    assert first["image"].shape == (3, 60, 100) and torch.equal(first["image"], second["image"])
    assert first["instances"].gt_keypoints.tensor[0, 0].tolist() == [50.25, 10.25, 2]


def test_tool(data, tmp_path, capsys):
    given = ["--config-file", str(ROOT / "configs/quickstart.yaml"), "--output", str(tmp_path / "out")]
    overrides = ["DATASETS.TRAIN", f"('{data}',)", "DATASETS.TEST"]
    tool.main([*given, "--number", "5", *overrides, f"('{data}',)"])
    assert "2 samples of 2 images" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(names) == 3 and names[2] == "samples.png" and {name[3:] for name in names[:2]} == {"_1.png", "_2.png"}
    sheet = np.asarray(Image.open(tmp_path / "out" / "samples.png"))
    assert all((sheet == color).all(axis=2).sum() > 20 for color in SIDE_COLORS.values())
    with pytest.raises(UserError, match="set DATASETS.TEST"):
        tool.main([*given, "--split", "test", *overrides, "()"])
