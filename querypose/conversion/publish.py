"""Weights for publication from a training checkpoint, and its backbone alone to start other models from."""

from querypose.conversion.files import Conversion, load_tensors
from querypose.errors import UserError


def publishable_weights(path: str) -> Conversion:
    """The model's tensors of one of our training checkpoints, floating ones in half precision.

    Optimizer, schedule and the losses' flow are left out, as inference does not need them. Loading converts the tensors
    to the model's precision.

    Raises:
        UserError: a file that is missing, holds code, or no tensors.
    """
    state_dict, dropped = load_tensors(path)
    training_only = [name for name in state_dict if name.startswith("criterion.")]
    if training_only:
        dropped["the losses (criterion), which inference does not need"] = training_only
    kept = {name: tensor for name, tensor in state_dict.items() if name not in training_only}
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in kept.items()}
    return Conversion(halved, dropped)


def backbone_of(path: str) -> Conversion:
    """The backbone and its FPN of one of our checkpoints, in float32, for any model with the same backbone.

    Raises:
        UserError: a file that is missing, holds code, or no tensors of a backbone.
    """
    state_dict, dropped = load_tensors(path)
    rest = [name for name in state_dict if not name.startswith("backbone.")]
    if len(rest) == len(state_dict):
        raise UserError(f"{path} has no tensor named backbone.*; give a checkpoint or weights of a QueryPose")
    if rest:
        dropped["what is not of the backbone"] = rest
    kept = {name: tensor for name, tensor in state_dict.items() if name not in rest}
    return Conversion({name: t.float() if t.is_floating_point() else t for name, t in kept.items()}, dropped)
