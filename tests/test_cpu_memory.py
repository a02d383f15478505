"""Memory that a training process keeps: the system need not clear it again."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from detectron2.config import get_cfg
from querypose.config import add_querypose_config
from querypose.engine.cpu_memory import speed_up_cpu_training

cfg = get_cfg()
add_querypose_config(cfg)
cfg.MODEL.DEVICE = "cpu"
speed_up_cpu_training(cfg)
print(bool(torch.tensor(1e-40) * 1 == 0))
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back that soon")
@pytest.mark.parametrize(("environment", "keeps"), [({}, True), ({"MALLOC_MMAP_THRESHOLD_": "65536"}, False)])
def test_denormals_and_pages_that_the_system_hands_out_again(environment, keeps):
    """Pages for a tensor of 64 MiB after others like it: 16,384 of 4 KiB, or 32 of 2 MiB."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=others | environment
    )
    flushed, faults = run.stdout.split()[-2:]
    assert flushed == "True" and (int(faults) < 10 if keeps else int(faults) > 30)
