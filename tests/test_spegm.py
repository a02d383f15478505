"""Spatial attention: weights that sum to one, and the features that they pick."""

import torch

from querypose.modeling.spegm import SPEGM, CoordinateSPEGM


def random_spegm():
    spegm = SPEGM(dim=8, part_dim=5, num_parts=3).eval()
    with torch.no_grad():
        spegm.attention.weight.normal_()
    return spegm


@torch.no_grad()
def test_embedding_is_the_weighted_sum_over_all_places():
    spegm = random_spegm()
    regions = torch.randn(2, 8, 6, 5)
    embeddings, attention = spegm(regions)
    upsampled = spegm.upsample(regions)
    assert upsampled.shape == (2, 8, 12, 10) and (upsampled >= 0).all()
    weights = spegm.attention(upsampled).exp()
    weights = weights / weights.sum(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(attention, weights, rtol=1e-4, atol=1e-7)
    for person, part in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        weighted = (weights[person, part] * upsampled[person]).sum(dim=(1, 2))
        torch.testing.assert_close(embeddings[person, part], spegm.project(weighted), rtol=1e-4, atol=1e-5)


def test_initialization_leaves_attention_undecided():
    spegm = SPEGM(dim=64, part_dim=8, num_parts=7)
    spegm.init_weights()
    assert not spegm.attention.bias.any()
    with torch.no_grad():
        maps = spegm.eval()(torch.randn(2, 64, 14, 14))[1]
    assert (maps * 28 * 28 - 1).abs().max() < 0.05


def test_float_range_under_autocast():
    spegm = random_spegm()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        maps = spegm(torch.randn(2, 8, 14, 14))[1]
    # were each of the 784 weights rounded to bfloat16's 8 bits, their sum would drift
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(2, 3))


def test_coordinates_of_an_attended_place_reach_the_embedding():
    module = CoordinateSPEGM(dim=4, part_dim=2, num_parts=1).eval()
    with torch.no_grad():
        module.project.weight.zero_()
        module.project.weight[0, 4] = module.project.weight[1, 5] = 1.0  # x and y come after the four channels
        module.project.bias.zero_()
        module.attention.weight.zero_()
        module.attention.bias.zero_()
        torch.testing.assert_close(module(torch.randn(3, 4, 14, 14))[0], torch.zeros(3, 1, 2), atol=1e-6, rtol=0)

        place = torch.full((1, 1, 28, 28), -1e4)
        place[0, 0, 3, 20] = 0
        module.attention.forward = lambda upsampled: place
        embedding = module(torch.randn(1, 4, 14, 14))[0]
    torch.testing.assert_close(embedding, torch.tensor([[[2 * 20.5 / 28 - 1, 2 * 3.5 / 28 - 1]]]))
