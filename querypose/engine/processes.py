"""Starts the processes of a job with PyTorch's elastic launcher, and joins them to a process group."""

import contextlib
import datetime
import logging
import os
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from querypose.errors import UserError

DEFAULT_TIMEOUT = 1800  # seconds: longer than a process evaluates or saves while the rest is idle


def launch(main: Callable[[Namespace], Any], args: Namespace) -> Any:
    """Call `main(args)` in every process of the job; in this one if it is the only one, or if torchrun started it.

    `main` must be importable, and call `process_group` before it communicates. Returns what it returns, None of started
    processes. Ends as the process that fails first: with its UserError or its exit code.
    """
    if min(args.num_gpus, args.num_machines) < 1 or not 0 <= args.machine_rank < args.num_machines:
        raise UserError("--num-gpus and --num-machines must be at least 1, --machine-rank from 0 to --num-machines - 1")
    if not 0 < args.timeout < 1e9:
        raise UserError(f"--timeout is {args.timeout}; give seconds, more than 0")
    if dist.is_torchelastic_launched() or args.num_gpus * args.num_machines == 1:
        return main(args)
    # seconds to finish the iteration and save after a signal
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")
    logging.disable(logging.ERROR)  # the launcher's tracebacks of what is reported below
    try:
        elastic_launch(_launch_config(args), _run)(main, args)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(
                f"error: process {rank} was ended by {signal.Signals(-failure.exitcode).name} (SIGKILL often means "
                "that memory ran out); the others were stopped; continue from the last checkpoint with --resume",
                file=sys.stderr,
            )
            sys.exit(128 - failure.exitcode)
        if isinstance(failure.message, dict):
            kind, _, text = failure.message["message"].partition(": ")
            if kind == UserError.__name__:
                raise UserError(text) from None
            print(failure.message["extraInfo"]["py_callstack"], file=sys.stderr)
        sys.exit(failure.exitcode)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def process_group(device: str, timeout: float = DEFAULT_TIMEOUT) -> Iterator[None]:
    """Inside the block the job's processes communicate, through nccl where `device` is CUDA, else through gloo.

    timeout: seconds that a process waits for the others. A UserError for more processes than GPUs.
    """
    if not dist.is_torchelastic_launched():
        if device.startswith("cuda:"):
            torch.cuda.set_device(device)  # which `torch.cuda.synchronize` waits for
        yield
        return
    on_gpu, processes = device.startswith("cuda"), int(os.environ["LOCAL_WORLD_SIZE"])
    if on_gpu:
        gpus = torch.cuda.device_count()
        if processes > gpus:
            raise UserError(f"--num-gpus {processes}, but this machine has {gpus}; or give MODEL.DEVICE cpu")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=datetime.timedelta(seconds=timeout))
    _create_local_group(processes)
    comm.synchronize()
    yield
    dist.destroy_process_group()  # not after an error: the others would fail before this process could report it


def _launch_config(args: Namespace) -> LaunchConfig:
    """For processes on this machine alone, or on several of which the first is at `dist_url`."""
    rendezvous: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    if args.num_machines > 1:
        is_address = False
        with contextlib.suppress(ValueError):
            address = urlsplit(args.dist_url)
            is_address = address.scheme == "tcp" and bool(address.port)
        if not is_address:
            raise UserError(f"--dist-url is {args.dist_url}; give tcp://ADDRESS:PORT of the first machine on all")
        configs = {"rank": args.machine_rank}
        rendezvous = {"rdzv_backend": "static", "rdzv_endpoint": address.netloc, "rdzv_configs": configs}
    nodes = {"min_nodes": args.num_machines, "max_nodes": args.num_machines, "nproc_per_node": args.num_gpus}
    return LaunchConfig(**nodes, run_id="querypose", max_restarts=0, **rendezvous)


def _run(main: Callable[[Namespace], Any], args: Namespace) -> None:
    """What each started process does."""
    try:
        main(args)
    except UserError as error:
        raise UserError(str(error)) from error  # the launcher gets to know the name of the class alone
    except Exception:
        time.sleep(2)  # a lost connection: the launcher reports the process that ended first, the cause
        raise


def _create_local_group(processes: int) -> None:
    """Tell Detectron2 which ranks share this machine; v0.6 and later versions store it differently."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(processes)
        return
    for first in range(0, dist.get_world_size(), processes):
        group = dist.new_group(list(range(first, first + processes)))
        if first <= dist.get_rank() < first + processes:
            comm._LOCAL_PROCESS_GROUP = group
