"""Two CPU processes do what one does: the same gradients, weights and AP, however they are started."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import fresh_process
import pytest
import torch
import two_processes
from tiny_model import NUM_QUERIES

from querypose.engine import launch, processes, train_net
from querypose.errors import UserError
from querypose.synthetic.dataset import write_synthetic_people


def arguments(num_gpus, *opts):
    return train_net.parser().parse_args(["--num-gpus", str(num_gpus), *map(str, opts)])


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path):
    json_file = Path(write_synthetic_people(tmp_path / "people", "val", 7))
    content = json.loads(json_file.read_text())
    # a test set smaller than the number of processes
    content["images"] = content["images"][:1]
    content["annotations"] = [p for p in content["annotations"] if p["image_id"] == content["images"][0]["id"]]
    json_file.with_name("one_image.json").write_text(json.dumps(content))
    done = fresh_process.run(
        tmp_path, two_processes.launch_forked, "--num-gpus", 2, tmp_path / "two.pth", json_file, "refuse"
    )
    # the mistake of one process ends the run as it does a single one
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == "error: the second process refuses, as it was told"
    assert "Traceback" not in done.stderr
    launch(two_processes.main, arguments(1, tmp_path / "one.pth", json_file))
    one, two = torch.load(tmp_path / "one.pth"), torch.load(tmp_path / "two.pth")

    assert (one["ranks"], two["ranks"]) == ([0], [0, 1])
    for variant, wanted in one["gradients"].items():
        ours = two["gradients"][variant]
        assert ours.keys() == wanted.keys()
        largest = max(gradient.abs().max().item() for gradient in wanted.values())
        for name, gradient in wanted.items():
            torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=f"{variant}: {name}")
    assert two["buffers"] == (False, True)
    # a whole training, the same images and augmentations in both, one iteration of which no process counts
    weights, everywhere, names, results = two["trained"]
    assert everywhere and names == ["model_best.pth", "model_final.pth", "non_finite_0000001_process1.pth"]
    wanted_weights, *_, wanted_results = one["trained"]
    for name, wanted in wanted_weights.items():
        torch.testing.assert_close(weights[name], wanted, rtol=1e-4, atol=1e-5, msg=name)
    assert [len(found) for found in results] == [NUM_QUERIES, 7 * NUM_QUERIES], "every query of every image once"
    for found, expected in zip(results, wanted_results, strict=True):
        pairs = [sorted((result["image_id"], result["score"]) for result in one) for one in (found, expected)]
        torch.testing.assert_close(torch.tensor(pairs[0]), torch.tensor(pairs[1]), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(tmp_path):
    started, run = time.monotonic(), tmp_path / "run"
    done = fresh_process.run(tmp_path, two_processes.launch_forked, "--num-gpus", 2, "--timeout", 300, run, "die")
    assert done.returncode == 128 + signal.SIGKILL, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: process 1 was ended by SIGKILL") and "--resume" in last
    assert time.monotonic() - started < 300, "the timeout must not be waited for"
    assert alive(run) == [False, False]


@pytest.mark.slow
def test_sigterm_reaches_all_processes_and_saves(tmp_path):
    run = tmp_path / "run"
    job = fresh_process.start(tmp_path, two_processes.launch_forked, "--num-gpus", 2, run, "train")
    while not (run / "started").is_file() and job.is_alive():
        time.sleep(0.1)
    assert alive(run) == [True, True]
    job.terminate()
    done = fresh_process.finish(tmp_path, job)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    (checkpoint,) = run.glob("model_*.pth")
    assert (run / "last_checkpoint").read_text() == checkpoint.name
    state = torch.load(checkpoint, weights_only=True)
    assert f"model_{state['trainer']['iteration']:07d}.pth" == checkpoint.name and state["iteration"] > 0
    assert alive(run) == [False, False]


def alive(folder):
    """Whether each of the two processes that trained in a folder still runs."""
    processes = [int((folder / f"process{rank}").read_text()) for rank in (0, 1)]
    return [Path(f"/proc/{process}").exists() for process in processes]


def test_two_machines(tmp_path):
    """Two launchers on this machine, as on two machines: one process each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["--num-machines", 2, "--dist-url", f"tcp://127.0.0.1:{port}", tmp_path / "result.pth", "group"]
    folders = [tmp_path / "first", tmp_path / "second"]
    jobs = [
        fresh_process.start(folder, two_processes.launch_forked, "--machine-rank", rank, *command)
        for rank, folder in enumerate(folders)
    ]
    for job, folder in zip(jobs, folders, strict=True):
        done = fresh_process.finish(folder, job)
        assert done.returncode == 0, done.stderr
    assert torch.load(tmp_path / "result.pth") == {"ranks": [0, 1]}


@pytest.mark.parametrize("num_gpus", [1, 8])
def test_one_process_and_those_of_torchrun_run_here(monkeypatch, num_gpus):
    if num_gpus == 8:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    given = arguments(num_gpus)
    assert launch(lambda args: (os.getpid(), args), given) == (os.getpid(), given)


def test_on_gpus_the_backend_is_nccl_and_each_process_needs_one(monkeypatch):
    """On a machine with two GPUs, whatever it runs on."""
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    seen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    monkeypatch.setattr(processes.dist, "init_process_group", lambda name, timeout: seen.append(name))
    monkeypatch.setattr(processes.dist, "destroy_process_group", lambda: seen.append("end"))
    monkeypatch.setattr(processes, "_create_local_group", lambda number: seen.append("local"))
    with processes.process_group("cuda"):
        assert seen == [1, "nccl", "local"]
    assert seen[-1] == "end"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UserError, match="--num-gpus 3, but this machine has 2"), processes.process_group("cuda"):
        pass
