"""The authors' five layouts at full size: convert, load strictly, and compute something sound."""

import json
import runpy

import pytest
import torch
from detectron2.modeling import build_model
from parity import LAYOUTS

from querypose.conversion import convert_authors_checkpoint
from querypose.conversion.layout import CONFIG_FOLDER
from querypose.setup_config import setup_config


def checkpoint_of(folder, layout):
    names_and_shapes = json.loads((folder / f"keys_{layout}.json").read_text())
    names_and_shapes = names_and_shapes.get("state_dict", names_and_shapes)
    make_state_dict = runpy.run_path(str(folder / "deterministic_weights.py"))["make_state_dict"]
    state_dict = make_state_dict(names_and_shapes, box_gain=0.3)
    for name, tensor in state_dict.items():
        if name.endswith(".weight") and ("reduction_conv" in name or "lateral_conv" in name) and layout.startswith("W"):
            tensor *= 0.0015  # HRNet's features explode with made-up weights
    return state_dict


@pytest.mark.slow
@pytest.mark.parametrize("layout", list(LAYOUTS))
@torch.no_grad()
def test_a_checkpoint_of_full_size(shared_folder, tmp_path, layout, monkeypatch):
    path = tmp_path / "theirs.pth"
    torch.save({"model": checkpoint_of(shared_folder / "parity", layout)}, path)
    conversion = convert_authors_checkpoint(str(path))
    path.unlink()
    assert conversion.config == f"querypose_{LAYOUTS[layout]}.yaml" and not conversion.overrides

    for sample in ("uniform_", "normal_"):  # the checkpoint replaces all of them, strictly
        monkeypatch.setattr(torch.Tensor, sample, lambda tensor, *args, **kwargs: tensor.zero_())
    model = build_model(setup_config(str(CONFIG_FOLDER / conversion.config), ["MODEL.DEVICE", "cpu"])).eval()
    model.load_state_dict(conversion.state_dict, strict=True)
    for queries in (model.decoder.proposal_boxes, model.decoder.instance_queries):
        queries.weight.data = queries.weight[:4]  # of 100, which take 25 times as long
    image = torch.rand(3, 256, 320, generator=torch.Generator().manual_seed(0)) * 255
    output, keypoints = model.decode(*model.extract(model.preprocess([{"image": image}])))
    stages = zip(output.logits, output.boxes, keypoints.sigmas, keypoints.coordinates, strict=True)
    for logits, boxes, sigmas, coordinates in stages:
        for tensor in (logits, boxes, sigmas, coordinates):
            assert tensor.isfinite().all() and tensor.std() > 0
        # queries and keypoints differ from one another, and nothing has run away
        assert boxes.std(dim=1).min() > 1 and boxes.abs().max() < 1e4
        assert coordinates.std(dim=0).min() > 1e-3 and coordinates.abs().max() < 20
        assert 0 < sigmas.min() and sigmas.max() < 1
    assert len(output.boxes) == 6
