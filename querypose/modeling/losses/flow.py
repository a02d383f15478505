"""RealNVP, the normalizing flow that gives the keypoint errors' density its shape (Section 3.4)."""

import math

import torch
from torch import Tensor, nn


class RealNVP(nn.Module):
    """Six affine couplings over two dimensions with alternating masks, from errors to a standard normal."""

    masks: Tensor

    def __init__(self, num_couplings: int = 6):
        super().__init__()
        masks = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(math.ceil(num_couplings / 2), 1)
        self.register_buffer("masks", masks[:num_couplings])
        self.scale = nn.ModuleList(_mlp(nn.Tanh()) for _ in range(num_couplings))
        self.translate = nn.ModuleList(_mlp(nn.Identity()) for _ in range(num_couplings))

    def init_weights(self) -> None:
        """Start close to the identity, so that early losses are those of a plain normal."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, gain=0.01)
                # PyTorch's random biases alone would move every error by about one sigma
                nn.init.zeros_(module.bias)

    def to_latent(self, errors: Tensor) -> tuple[Tensor, Tensor]:
        """errors (n, 2) -> latent (n, 2) and log |det| (n,) of the map between them."""
        latent, log_det = errors, errors.new_zeros(len(errors))
        for mask, scale, translate in reversed(list(zip(self.masks, self.scale, self.translate, strict=True))):
            kept = mask * latent
            log_scale = scale(kept) * (1 - mask)
            shift = translate(kept) * (1 - mask)
            latent = (1 - mask) * (latent - shift) * torch.exp(-log_scale) + kept
            log_det = log_det - log_scale.sum(dim=1)
        return latent, log_det

    def log_prob(self, errors: Tensor) -> Tensor:
        """log phi of errors (n, 2) -> (n,), in float32 under any autocast."""
        with torch.autocast(errors.device.type, enabled=False):
            latent, log_det = self.to_latent(errors.float())
            return -0.5 * latent.square().sum(dim=1) - math.log(2 * math.pi) + log_det


def _mlp(last: nn.Module) -> nn.Sequential:
    layers = [nn.Linear(2, 64), nn.LeakyReLU(), nn.Linear(64, 64), nn.LeakyReLU(), nn.Linear(64, 2)]
    return nn.Sequential(*layers, last)
