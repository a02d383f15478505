"""A training checkpoint made small enough to be passed on."""

from querypose.conversion.files import Conversion, load_tensors


def publishable_weights(path: str) -> Conversion:
    """The model's tensors of one of our training checkpoints, floating ones in half precision.

    Optimiser and schedule are left behind, and the losses' flow, which inference does not need. Loading widens the
    tensors to the model's precision again.

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
