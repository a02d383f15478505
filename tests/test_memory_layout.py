"""Which memory layout a model takes by itself, and where the faster one would crash."""

import pytest
import torch
from torch import nn

from querypose.modeling.ops.memory_layout import use_channels_last

SOUND = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.Conv2d(16, 16, 1, stride=2), nn.Conv2d(8, 8, 1))
CRASHING = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 1, stride=2))


@pytest.mark.parametrize(
    ("wanted", "device", "processor", "backbone", "expected"),
    [
        (None, "cpu", "AVX512", SOUND, True),
        (None, "cpu", "AVX2", SOUND, False),
        (None, "cuda", "AVX512", SOUND, False),
        (False, "cpu", "AVX512", SOUND, False),
        (True, "cuda", "AVX2", CRASHING, True),
        (None, "cpu", "AVX512", CRASHING, False),
        (True, "cpu", "AVX2", CRASHING, False),
        (True, "cpu", "AVX2", SOUND, True),
    ],
)
def test_channels_last_where_it_is_faster_and_sound(wanted, device, processor, backbone, expected, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    assert use_channels_last(wanted, device, backbone) is expected
