"""A training checkpoint made small enough to be passed on."""

from torch import Tensor

from querypose.conversion.authors import load_tensors


def publishable_weights(path: str) -> tuple[dict[str, Tensor], list[str]]:
    """The model's tensors of one of our training checkpoints, floating ones in half precision.

    Optimiser and schedule are left behind, and the losses' flow, which inference does not need. Loading widens the
    tensors to the model's precision again.

    Returns:
        the state dict, and the names that were dropped.

    Raises:
        UserError: a file that is missing, holds code, or no tensors.
    """
    state_dict = load_tensors(path)
    dropped = [name for name in state_dict if name.startswith("criterion.")]
    kept = {name: tensor for name, tensor in state_dict.items() if name not in dropped}
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in kept.items()}, dropped
