"""The command `querypose` runs the scripts of tools/."""

import csv
import subprocess
import sys

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


def test_help_names_every_command(monkeypatch, capsys):
    assert run(monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if line.startswith("  ")} == set(cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_command_shows_its_script_s_help(command, monkeypatch, capsys):
    assert run(monkeypatch, command, "--help") == 0
    assert f"usage: querypose {command}" in capsys.readouterr().out


def test_an_unknown_command(monkeypatch, capsys):
    assert run(monkeypatch, "prdict") == 2
    assert "there is no command prdict; give one of predict, track, train" in capsys.readouterr().err


def test_predict_needs_only_a_photograph(tmp_path):
    """In a process of its own, from another folder, with the small model."""
    photograph = get_sample_data("grace_hopper.jpg", asfileobj=False)
    script = [sys.executable, "-c", "from querypose.cli import main; main()"]
    done = subprocess.run([*script, "predict", photograph], cwd=tmp_path, capture_output=True, text=True)
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


def test_an_error_of_the_script_is_the_command_s(monkeypatch, capsys):
    assert run(monkeypatch, "predict", "absent.jpg") == 2
    assert "absent.jpg" in capsys.readouterr().err
