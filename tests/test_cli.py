"""The command `querypose` runs the scripts of tools/."""

import csv
import os
import re
import sys

import fresh_process
import pytest
from matplotlib.cbook import get_sample_data

from querypose import cli


def run(monkeypatch, *arguments):
    """Run in this process; return the exit code."""
    monkeypatch.setattr(sys, "argv", ["querypose", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_command_shows_its_script_s_help(command, monkeypatch, capsys):
    assert run(monkeypatch, command, "--help") == 0
    assert f"usage: querypose {command}" in capsys.readouterr().out


def test_help_and_errors(monkeypatch, capsys):
    assert run(monkeypatch) == 0
    assert set(re.findall(r"(?m)^  (\w+)", capsys.readouterr().out)) == set(cli.COMMANDS)
    assert run(monkeypatch, "prdict") == 2
    assert "there is no command prdict; give one of predict, track, train" in capsys.readouterr().err


def predict(folder, photograph):
    os.chdir(folder)
    sys.argv = ["querypose", "predict", photograph]
    cli.main()


def test_predict_needs_only_a_photograph(tmp_path):
    """From another folder, with the small model."""
    done = fresh_process.run(tmp_path, predict, tmp_path, get_sample_data("grace_hopper.jpg", asfileobj=False))
    assert done.returncode == 0, done.stderr
    found = tmp_path / "output" / "poses"
    assert (found / "grace_hopper.jpg").is_file()
    with open(found / "persons.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 1


def test_overrides_behind_the_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["a.jpg", "MODEL.DEVICE", "cpu"], ["SEED", "1"]
    assert cli.split_overrides(*given) == (["a.jpg"], ["MODEL.DEVICE", "cpu", "SEED", "1"])
    (tmp_path / "MODEL.DEVICE").touch()
    assert cli.split_overrides(*given) == given, "a file of such a name is an input"
