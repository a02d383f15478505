"""The list of mutants fits the code: the text that each changes is in one file, and its tests are there."""

import shutil
import subprocess
import sys

import pytest
from mutations import MUTANTS, ROOT, mutate


@pytest.mark.parametrize(("test", "old", "new"), MUTANTS)
def test_the_lines_are_there(tmp_path, test, old, new):
    shutil.copytree(ROOT / "querypose", tmp_path / "querypose")
    mutate(tmp_path, old, new)
    assert new != old and (ROOT / "tests" / f"test_{test}.py").is_file()


@pytest.mark.slow
def test_a_mutant_is_noticed():
    command = [sys.executable, str(ROOT / "tests" / "mutations.py"), "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "1 of 1 mutants were noticed" in done.stdout, done.stdout
