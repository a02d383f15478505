"""The keypoint losses that a config can choose: residual log-likelihood with its flow (Section 3.4), alternatives."""

import math
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

KEYPOINT_LOSS_REGISTRY = Registry("KEYPOINT_LOSS")
KEYPOINT_LOSS_REGISTRY.__doc__ = """
Registry of keypoint losses, named by `MODEL.QUERYPOSE.KEYPOINT_LOSS`.

A registered class is an `nn.Module` built as `cls(cfg)`. Its `forward(coordinates, sigmas, targets, valid)` takes three
tensors (n, K, 2) in box units, and valid (n, K), which keypoints count; targets are anything where not. It returns the
sum over the valid keypoints. The class attribute `uses_sigma` says whether the heads predict sigma; if not, every
keypoint has the confidence 1 and a person's score is its class probability.
"""


class RealNVP(nn.Module):
    """Six affine couplings over two dimensions with alternating masks, from errors to a standard normal."""

    masks: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("masks", torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(3, 1))
        self.scale = nn.ModuleList(_mlp(nn.Tanh()) for _ in self.masks)
        self.translate = nn.ModuleList(_mlp(nn.Identity()) for _ in self.masks)

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


@KEYPOINT_LOSS_REGISTRY.register()
class RLE(nn.Module):
    """Residual log-likelihood, with the flow as the paper has it (Eq. 4)."""

    uses_sigma = True

    @configurable
    def __init__(self, *, flow: RealNVP | None):
        super().__init__()
        self.flow = flow

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        flow = RealNVP()
        if cfg.MODEL.QUERYPOSE.INITIALIZATION == "deliberate":
            flow.init_weights()
        return {"flow": flow}

    def forward(self, coordinates: Tensor, sigmas: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        return residual_log_likelihood_loss(coordinates, sigmas, targets, valid, self.flow)


@KEYPOINT_LOSS_REGISTRY.register()
class RLEWithoutFlow(RLE):
    """Residual log-likelihood less the flow's terms."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"flow": None}


@KEYPOINT_LOSS_REGISTRY.register()
class SmoothL1(nn.Module):
    """(g - u)^2 / (2 beta) for errors below beta = 0.05 box units, |g - u| - beta / 2 beyond; x and y added up."""

    uses_sigma = False
    beta = 0.05

    def __init__(self, cfg: CfgNode):
        super().__init__()

    def forward(self, coordinates: Tensor, sigmas: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        targets = torch.where(valid[..., None], targets.to(coordinates), coordinates.detach())
        return F.smooth_l1_loss(coordinates.float(), targets.float(), reduction="sum", beta=self.beta)


@KEYPOINT_LOSS_REGISTRY.register()
class L1(SmoothL1):
    """|g - u| in box units."""

    beta = 0.0


def residual_log_likelihood_loss(
    coordinates: Tensor, sigmas: Tensor, targets: Tensor, valid: Tensor, flow: RealNVP | None
) -> Tensor:
    """Sum of -log P(target) over the valid keypoints; arguments as of KEYPOINT_LOSS_REGISTRY, sigmas in (0, 1).

    With e = (u - g) / sigma, each of the two coordinates gives log sigma - log phi(e)
    + log(sigma sqrt(2 pi)) + |g - u| / (sqrt(2) sigma). phi is the flow's density of the pair: it counts once for x
    and once for y. Without a flow, log sigma - log phi(e) is left out.
    """
    valid = valid[..., None].expand_as(coordinates)
    # what does not count is replaced before the flow: masking its infinities afterwards would make 0 * inf = NaN
    difference = torch.where(valid, coordinates - targets, 0.0).float()
    sigmas = torch.where(valid, sigmas.float(), 1.0).clamp(min=1e-9)
    loss = torch.log(sigmas * math.sqrt(2 * math.pi)) + difference.abs() / (math.sqrt(2) * sigmas + 1e-9)
    if flow is not None:
        log_density = flow.log_prob((difference / sigmas).flatten(0, 1)).view(difference.shape[:2])[..., None]
        loss = torch.log(sigmas) - log_density + loss
    return torch.where(valid, loss, 0.0).sum()


def keypoints_in_box_units(keypoints: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Keypoints (n, K, 3), x, y in pixels and visibility, in units of boxes (n, 4), corners, and which of them count.

    Returns targets (n, K, 2), the box's centre at 0 and its sides at -0.5 and 0.5, and valid (n, K): labeled (v > 0)
    and inside the box. A box without area holds none.
    """
    origin, size = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    targets = (keypoints[..., :2] - origin) / size.clamp(min=1e-3) - 0.5
    inside = (targets.abs() <= 0.5).all(dim=-1) & (size > 1e-3).all(dim=-1)
    return targets, inside & (keypoints[..., 2] > 0)


def keypoints_in_pixels(coordinates: Tensor, boxes: Tensor) -> Tensor:
    """coordinates (n, K, 2) in units of boxes (n, 4) -> (n, K, 2) in pixels: x = (u + 0.5) w + x0."""
    origin, size = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    return (coordinates + 0.5) * size + origin
