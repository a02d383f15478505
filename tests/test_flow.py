"""The flow is a density, its determinant is right, and it starts as a standard normal."""

import math

import pytest
import torch

from querypose.modeling.losses.flow import RealNVP


def bent_flow() -> RealNVP:
    """A flow far from the identity."""
    flow = RealNVP()
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(1.8)
    return flow


def test_density_integrates_to_one():
    step = 0.1
    axis = torch.arange(-12, 12, step) + step / 2
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = bent_flow().log_prob(grid).exp()
    normal = torch.exp(-grid.square().sum(dim=1) / 2) / (2 * math.pi)
    assert (density - normal).abs().max() > 0.05, "the flow is too tame to test anything"
    assert density.sum().item() * step**2 == pytest.approx(1.0, abs=2e-3)


def test_determinant_is_that_of_the_jacobian():
    flow = bent_flow().double()
    for error in 2 * torch.randn(8, 2, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(lambda x: flow.to_latent(x[None])[0][0], error)
        _, log_det = flow.to_latent(error[None])
        assert log_det.item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), rel=1e-9)


def test_deliberate_initialisation_is_close_to_the_identity():
    flow = RealNVP()
    flow.init_weights()
    errors = 2 * torch.randn(200, 2)
    latent, log_det = flow.to_latent(errors)
    assert (latent - errors).abs().max() < 0.01 and log_det.abs().max() < 0.01
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(errors).sum(dim=1)
    assert (flow.log_prob(errors) - normal).abs().max() < 0.05
    # yet it can learn: what reaches the last layers is not zero
    flow.log_prob(errors).sum().backward()
    assert all(translate[4].bias.grad.abs().sum() > 0 for translate in flow.translate)
    assert all(scale[4].bias.grad.abs().sum() > 0 for scale in flow.scale)


def test_float32_under_autocast():
    flow, errors = bent_flow(), torch.randn(20, 2)
    expected = flow.log_prob(errors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = flow.log_prob(errors)
    assert under_autocast.dtype == flow.log_prob(errors.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(under_autocast, expected, rtol=1e-5, atol=1e-5)
