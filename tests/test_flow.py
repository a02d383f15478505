"""The flow's determinant is right, and it starts as a standard normal."""

import pytest
import torch

from querypose.modeling.losses.keypoint_loss import RealNVP


def bent_flow() -> RealNVP:
    """A flow far from the identity."""
    flow = RealNVP()
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(1.8)
    return flow


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
