"""Models in Hugging Face's layout: the same persons from a folder and from a filled cache, without a network."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from querypose import PosePredictor
from querypose.errors import UserError

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "docs" / "images" / "synthetic_people.jpg"
EXACT = {"device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def predictor():
    return PosePredictor(ROOT / "configs" / "quickstart.yaml", ROOT / "weights" / "quickstart.pth", **EXACT)


@pytest.fixture(scope="module")
def folder(predictor, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "poses"
    predictor.save_pretrained(path)
    return path


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_a_folder(folder, tmp_path):
    assert {file.name for file in folder.iterdir()} == {"config.yaml", "model.safetensors", "README.md"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["DATASETS"]["TRAIN"] == [] and config["MODEL"]["WEIGHTS"] == ""
    assert str(ROOT) not in (folder / "config.yaml").read_text()
    # what was rounded for speed is saved as it was
    rounded = PosePredictor.from_pretrained(folder, device="cpu", precision="bfloat16")
    rounded.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_a_filled_cache(predictor, folder, tmp_path, offline, revision):
    repository = tmp_path / "models--people--poses"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    other = PosePredictor.from_pretrained("people/poses", revision=revision, cache_dir=tmp_path, **EXACT)
    assert other.skeleton == predictor.skeleton
    expected, found = predictor(IMAGE), other(IMAGE)
    assert len(found) == 3
    assert torch.equal(found.pred_keypoints, expected.pred_keypoints) and torch.equal(found.scores, expected.scores)


def test_the_model_card_is_valid_and_kept(predictor, folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "querypose" and card.data.pipeline_tag == "keypoint-detection"
    assert "nose, left_eye, right_eye" in card.text
    (folder / "README.md").write_text("mine")
    predictor.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"


def test_what_is_nowhere(predictor, folder, tmp_path, offline):
    for name in ("people/absent", "not a name", "a/b/c"):
        with pytest.raises(UserError, match=f"{name} is neither a folder nor a model on the Hugging Face Hub"):
            PosePredictor.from_pretrained(name, cache_dir=tmp_path)
    shutil.copy(folder / "config.yaml", tmp_path)
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        PosePredictor.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot write to .*config.yaml: .*; choose another folder"):
        predictor.save_pretrained(tmp_path / "config.yaml")
