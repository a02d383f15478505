"""Memory that a training process keeps: the system need not clear it again."""

import platform
import resource

import fresh_process
import pytest
import torch
from tiny_model import tiny_config

from querypose.engine.train_net import speed_up_cpu_training


def print_denormals_and_page_faults():
    speed_up_cpu_training(tiny_config())
    print(bool(torch.tensor(1e-40) * 1 == 0))
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(64 * 2**18)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, flush=True)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back that soon")
def test_denormals_are_flushed_and_memory_is_kept(tmp_path):
    """Pages for a tensor of 64 MiB after others like it would be 16,384 of 4 KiB, or 32 of 2 MiB."""
    flushed, faults = fresh_process.run(tmp_path, print_denormals_and_page_faults).stdout.split()
    assert flushed == "True" and int(faults) < 10
