"""Programs in processes of their own that have PyTorch and Detectron2 imported at the start, which takes seconds.

They are forked from a server that has imported them and computed nothing, so they are as good as new.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

ROOT = Path(__file__).resolve().parents[1]
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["querypose.engine", "querypose.synthetic.dataset"])


def start(folder: Path, function: Callable, *args) -> multiprocessing.Process:
    """Call an importable function in a new process, which prints to `folder`/stdout and `folder`/stderr."""
    folder.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_call, args=(folder, function, args))
    process.start()
    return process


def finish(folder: Path, process: multiprocessing.Process) -> CompletedProcess:
    """Wait for it; returns as `subprocess.run` does."""
    process.join(600)
    process.kill()
    process.join()
    return CompletedProcess(None, process.exitcode, (folder / "stdout").read_text(), (folder / "stderr").read_text())


def run(folder: Path, function: Callable, *args) -> CompletedProcess:
    return finish(folder, start(folder, function, *args))


def run_script(path: Path, *args) -> None:
    """What `python path args` does."""
    sys.argv = [str(path), *map(str, args)]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(str(path), run_name="__main__")


def _call(folder: Path, function: Callable, args: tuple) -> None:
    import torch

    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    os.chdir(ROOT)
    torch.set_num_threads(1)
    function(*args)
