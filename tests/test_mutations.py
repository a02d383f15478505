"""The list of mutants fits the code: every line that it breaks is there, and its tests are."""

import subprocess
import sys
from pathlib import Path

import pytest
from mutations import MUTANTS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_the_lines_are_there(mutant):
    source = (ROOT / "querypose" / mutant.file).read_text()
    assert mutant.old in source and mutant.new != mutant.old
    compile(source.replace(mutant.old, mutant.new), mutant.file, "exec")
    assert (ROOT / "tests" / f"test_{mutant.test}.py").is_file()


@pytest.mark.slow
def test_a_mutant_is_noticed():
    command = [sys.executable, str(ROOT / "tests" / "mutations.py"), "7"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "1 of 1 mutants were noticed" in done.stdout, done.stdout
