"""The command `querypose` runs the scripts of tools/."""

import subprocess
import sys
from pathlib import Path

import pytest

from querypose import cli

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "docs" / "images" / "synthetic_people.jpg"


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


def test_predict_needs_only_an_image(tmp_path):
    """In a process of its own, from another folder, with the small model."""
    script = [sys.executable, "-c", "from querypose.cli import main; main()"]
    done = subprocess.run([*script, "predict", str(PHOTO)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output" / "poses" / "synthetic_people.jpg").is_file()


def test_an_error_of_the_script_is_the_command_s(monkeypatch, capsys):
    assert run(monkeypatch, "predict", "absent.jpg") == 2
    assert "absent.jpg" in capsys.readouterr().err
