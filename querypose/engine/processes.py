"""One function for all ways to start processes: one process, Detectron2's launcher, torchrun."""

import contextlib
import datetime
import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm

from querypose.errors import UserError


def launch(main, args) -> None:
    """Run `main(args)` in every process of the job.

    Args:
        main: called in each process once the process group stands.
        args: of Detectron2's default argument parser: num_gpus (processes on this machine; on a machine without GPU
            they are CPU processes that talk through gloo), num_machines, machine_rank, dist_url.

    Raises:
        UserError: more GPUs asked for than there are; several machines without an address.
    """
    if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _run_under_torchrun(main, args)
    available = torch.cuda.device_count()
    if available and args.num_gpus > available:
        raise UserError(f"--num-gpus {args.num_gpus}, but this machine has {available}; give at most {available}")
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UserError("several machines need --dist-url tcp://ADDRESS:PORT of the first one")
    with _user_errors_of_processes():
        if available or args.num_gpus * args.num_machines == 1:
            detectron2_launch(
                main,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
        else:
            torch.multiprocessing.spawn(_run_on_cpu, nprocs=args.num_gpus, args=(main, _with_free_port(args)))


@contextlib.contextmanager
def _user_errors_of_processes():
    """Raise a UserError of a started process in this one too, whose caller prints it as one sentence."""
    try:
        yield
    except torch.multiprocessing.ProcessRaisedException as error:
        # all that arrives of the exception is its printed traceback
        _, found, message = str(error).rpartition(f"{UserError.__module__}.{UserError.__qualname__}: ")
        if not found or "\n" in message.strip():
            raise
        raise UserError(message.strip()) from None


def _with_free_port(args):
    """Detectron2 takes the dist_url "auto" for a free port on this machine."""
    if args.dist_url == "auto":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            args.dist_url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    return args


def _run_on_cpu(local_rank: int, main, args) -> None:
    """Detectron2's launcher starts several processes on GPUs only; these talk through gloo."""
    world_size = args.num_gpus * args.num_machines
    rank = args.machine_rank * args.num_gpus + local_rank
    dist.init_process_group("gloo", init_method=args.dist_url, world_size=world_size, rank=rank)
    _run_in_group(main, args, args.num_gpus)


def _run_under_torchrun(main, args) -> None:
    """torchrun has started the processes: join them as its environment variables say."""
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if has_gpu else "gloo", timeout=datetime.timedelta(minutes=30))
    _run_in_group(main, args, local_size)


def _run_in_group(main, args, local_size: int) -> None:
    _create_local_group(local_size)
    comm.synchronize()
    try:
        main(args)
    finally:
        dist.destroy_process_group()


def _create_local_group(local_size: int) -> None:
    """Tell Detectron2 which ranks share this machine; v0.6 and later versions keep it differently."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
        return
    for first in range(0, dist.get_world_size(), local_size):
        group = dist.new_group(list(range(first, first + local_size)))
        if first <= dist.get_rank() < first + local_size:
            comm._LOCAL_PROCESS_GROUP = group
