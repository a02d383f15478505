"""Memory that a process keeps: the system need not clear it again."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from querypose.engine.cpu_memory import keep_freed_memory

print(keep_freed_memory() if "keep" in sys.argv else False)
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*arguments, **environment) -> tuple[str, int]:
    """Whether memory is kept, and pages that the system hands out for a tensor of 64 MiB after others like it."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=others | environment,
    )
    kept, faults = run.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back that soon")
def test_memory_is_kept():
    assert page_faults()[1] > 30  # 16,384 pages of 4 KiB, or 32 of 2 MiB
    kept, faults = page_faults("keep")
    assert kept == "True" and faults < 10


def test_the_environment_goes_first():
    assert page_faults("keep", MALLOC_MMAP_THRESHOLD_="65536")[0] == "False"
