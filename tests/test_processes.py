"""Two CPU processes do what one does: the same gradients, weights and AP, however they are started."""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import fresh_process
import pytest
import torch
import two_processes

from querypose.engine import launch, processes
from querypose.errors import UserError
from querypose.synthetic.dataset import write_synthetic_people

ROOT = Path(__file__).resolve().parents[1]


def arguments(**changes):
    given = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto", "timeout": 600, "opts": []}
    return argparse.Namespace(**{**given, **changes})


@pytest.fixture(scope="module")
def json_file(tmp_path_factory):
    whole = Path(write_synthetic_people(tmp_path_factory.mktemp("people"), "val", 7))
    # a test set smaller than the number of processes
    content = json.loads(whole.read_text())
    content["images"] = content["images"][:1]
    first = content["images"][0]["id"]
    content["annotations"] = [person for person in content["annotations"] if person["image_id"] == first]
    whole.with_name("one_image.json").write_text(json.dumps(content))
    return str(whole)


@pytest.fixture(scope="module")
def one_process(json_file, tmp_path_factory):
    output = tmp_path_factory.mktemp("one") / "result.pth"
    launch(two_processes.main, arguments(opts=[str(output), json_file]))
    return torch.load(output)


def check(result, one_process):
    assert (result["size"], one_process["size"]) == (2, 1)
    for name in two_processes.VARIANTS:
        same_weights, same_statistics, same_when_shared = result[name]["same"]
        assert same_weights, f"{name}: the processes' weights differ"
        assert not same_statistics and same_when_shared
        wanted = one_process[name]["gradients"]
        assert result[name]["gradients"].keys() == wanted.keys()
        largest = max(gradient.abs().max().item() for gradient in wanted.values())
        for parameter, gradient in wanted.items():
            ours = result[name]["gradients"][parameter]
            torch.testing.assert_close(ours, gradient, rtol=1e-3, atol=1e-5 * largest, msg=f"{name}: {parameter}")
    assert 5 < one_process["metrics"]["keypoints"]["AP"] < 95, "too easy or too hard to show anything"
    # as text, in which NaN (no person of that size) equals NaN
    assert str(result["metrics"]) == str(one_process["metrics"])
    assert str(result["one image"]) == str(one_process["one image"])
    assert result["one image"]["bbox"]["AP"] > 0

    # a whole training, the same images and augmentations in both, one iteration of which no process counts
    weights, everywhere, names = result["trained"]
    assert everywhere
    for name, wanted in one_process["trained"][0].items():
        torch.testing.assert_close(weights[name], wanted, rtol=1e-4, atol=1e-5, msg=name)
    assert names == ["model_final.pth", "non_finite_0000001_process1.pth"]


@pytest.mark.slow
def test_processes_that_the_launcher_starts(json_file, one_process, tmp_path):
    output = tmp_path / "result.pth"
    done = fresh_process.run(tmp_path, two_processes.launch_forked, "--num-gpus", 2, output, json_file, "refuse")
    # the mistake of one process ends the run as it does a single one
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == "error: the second process refuses, as it was told"
    assert "Traceback" not in done.stderr
    check(torch.load(output), one_process)


@pytest.mark.slow
def test_processes_that_torchrun_starts(json_file, one_process, tmp_path):
    output = tmp_path / "result.pth"
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [two_processes.__file__, "--config-file", "none", output, json_file]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    check(torch.load(output), one_process)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(tmp_path):
    started = time.monotonic()
    done = fresh_process.run(
        tmp_path, two_processes.launch_forked, "--num-gpus", 2, "--timeout", 300, tmp_path / "run", "die"
    )
    assert done.returncode == 128 + signal.SIGKILL, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: process 1 was ended by SIGKILL") and "--resume" in last
    assert time.monotonic() - started < 300, "the timeout must not be waited for"
    assert alive(tmp_path / "run") == [False, False]


@pytest.mark.slow
def test_sigterm_reaches_all_processes_and_saves(tmp_path):
    job = fresh_process.start(tmp_path, two_processes.launch_forked, "--num-gpus", 2, tmp_path / "run", "train")
    while not (tmp_path / "run" / "started").is_file() and job.is_alive():
        time.sleep(0.1)
    assert alive(tmp_path / "run") == [True, True]
    job.terminate()
    done = fresh_process.finish(tmp_path, job)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    (checkpoint,) = (tmp_path / "run").glob("model_*.pth")
    assert (tmp_path / "run" / "last_checkpoint").read_text() == checkpoint.name
    state = torch.load(checkpoint, weights_only=True)
    assert f"model_{state['trainer']['iteration']:07d}.pth" == checkpoint.name and state["iteration"] > 0
    assert alive(tmp_path / "run") == [False, False]


def alive(folder):
    """Whether each of the two processes that trained in a folder still runs."""
    return [Path("/proc", (folder / name).read_text()).exists() for name in ("process0", "process1")]


@pytest.mark.slow
def test_two_machines(json_file, one_process, tmp_path):
    """Two launchers on this machine, as on two machines: one process each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["--num-machines", 2, "--dist-url", f"tcp://127.0.0.1:{port}", tmp_path / "result.pth", json_file]
    folders = [tmp_path / "first", tmp_path / "second"]
    jobs = [
        fresh_process.start(folder, two_processes.launch_forked, "--machine-rank", rank, *command)
        for rank, folder in enumerate(folders)
    ]
    for job, folder in zip(jobs, folders, strict=True):
        done = fresh_process.finish(folder, job)
        assert done.returncode == 0, done.stderr
    check(torch.load(tmp_path / "result.pth"), one_process)


def test_one_process_runs_here():
    seen = []
    assert launch(lambda args: seen.append((os.getpid(), args)) or 7, arguments(opts=["a"])) == 7
    assert seen == [(os.getpid(), arguments(opts=["a"]))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_gpus": 0}, "--num-gpus 0 .* is impossible"),
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank 2 is impossible"),
        ({"num_gpus": 2, "num_machines": 2}, "--dist-url is auto; give tcp://ADDRESS:PORT"),
        ({"num_machines": 2, "dist_url": "tcp://10.0.0.1"}, "--dist-url is tcp://10.0.0.1; give tcp://ADDRESS:PORT"),
    ],
)
def test_processes_that_cannot_be_started(changes, message):
    with pytest.raises(UserError, match=message):
        launch(lambda args: None, arguments(**changes))


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_device_chooses_the_backend_and_counts_gpus(monkeypatch, device):
    """On a machine with two GPUs, whatever it runs on."""
    environment = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    seen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    monkeypatch.setattr(processes.dist, "init_process_group", lambda name, timeout: seen.append(name))
    monkeypatch.setattr(processes.dist, "destroy_process_group", lambda: seen.append("end"))
    monkeypatch.setattr(processes, "_create_local_group", lambda number: None)
    with processes.process_group(device):
        assert seen == ([1, "nccl"] if device == "cuda" else ["gloo"])
    assert seen[-1] == "end"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    if device == "cuda":
        with pytest.raises(UserError, match="--num-gpus 3, but this machine has 2"), processes.process_group(device):
            pass
