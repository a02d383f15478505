"""One function for all ways to start processes, one process or several, and what happens when one of them ends."""

import contextlib
import datetime
import functools
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading

import torch
import torch.distributed as dist
import torch.multiprocessing
from detectron2.utils import comm

from querypose.errors import UserError

# Seconds that a process waits for the others before it takes them for dead, unless --timeout says otherwise: longer
# than one process evaluates or writes a checkpoint while the others have nothing to do.
DEFAULT_TIMEOUT = 1800
# Seconds that the other processes of this machine have to end by themselves when one has ended early.
GRACE = 20

_timeout = datetime.timedelta(seconds=DEFAULT_TIMEOUT)


def launch(main, args) -> None:
    """Run `main(args)` in every process of the job.

    When one of several processes ends early, the others of its machine are stopped within GRACE seconds, and those of
    other machines within `timeout`. SIGTERM and Ctrl-C are passed on to all of them.

    Args:
        main: called in each process once the process group stands.
        args: of Detectron2's default argument parser: num_gpus (processes on this machine; on a machine without GPU
            they are CPU processes that talk through gloo), num_machines, machine_rank, dist_url; and, if it is there,
            timeout (seconds that a process waits for the others).

    Raises:
        UserError: numbers that cannot be; more GPUs asked for than there are; several machines without an address.
        SystemExit: with 128 + the number of the signal that has ended a process, after a sentence on stderr.
    """
    if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _run_under_torchrun(main, args)
    if args.num_gpus < 1 or args.num_machines < 1 or not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--num-gpus {args.num_gpus} --num-machines {args.num_machines} --machine-rank {args.machine_rank} "
            "cannot be: the numbers start at 1, and ranks go from 0 to the number of machines minus 1"
        )
    available = torch.cuda.device_count()
    if available and args.num_gpus > available:
        raise UserError(f"--num-gpus {args.num_gpus}, but this machine has {available}; give at most {available}")
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UserError("several machines need --dist-url tcp://ADDRESS:PORT of the first one")
    if args.num_gpus * args.num_machines == 1:
        main(args)
    else:
        with _signals_passed_on() as received, _user_errors_of_processes():
            context = torch.multiprocessing.spawn(
                _run_process, nprocs=args.num_gpus, args=(main, _with_free_port(args)), join=False
            )
            _wait(context, received)


def host_group():
    """A process group that talks through the hosts, whatever the GPUs do at the time; None for a single process."""
    return None if comm.get_world_size() == 1 else _new_host_group()


@functools.lru_cache
def _new_host_group():
    if dist.get_backend() == "gloo":
        return dist.group.WORLD
    return dist.new_group(backend="gloo", timeout=_timeout)


@contextlib.contextmanager
def _signals_passed_on():
    """Pass SIGTERM and SIGINT on to the processes started inside the block; yields a list of those that came.

    The processes end training with a checkpoint (querypose.engine.signals), so that this one has to wait for them.
    """
    received = []

    def pass_on(signum, frame):
        received.append(signum)
        for child in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signum)

    if threading.current_thread() is not threading.main_thread():  # others cannot have handlers
        yield received
        return
    before = {signum: signal.signal(signum, pass_on) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _wait(context, received: list[int]) -> None:
    """Wait for all processes; when one ends early, for the others at most GRACE seconds more."""
    waiting = list(context.processes)
    failed = None
    while waiting and failed is None:
        multiprocessing.connection.wait([process.sentinel for process in waiting])
        waiting = [process for process in waiting if process.is_alive()]
        failed = next((process for process in context.processes if process.exitcode), None)
    if failed is not None:
        killer = threading.Timer(GRACE, _kill, [context.processes])
        killer.daemon = True
        killer.start()
    died_of = -failed.exitcode if failed is not None and failed.exitcode < 0 else None
    try:
        while not context.join():
            pass
    except torch.multiprocessing.ProcessExitedException as error:
        if received:
            sys.exit(128 + received[0])
        if died_of is None:
            # a process has said what it has to say and chosen its exit code
            sys.exit(error.exit_code if error.exit_code > 0 else 1)
    except torch.multiprocessing.ProcessRaisedException:
        if died_of is None:
            raise
    else:
        if received:
            sys.exit(128 + received[0])
        return
    rank = context.processes.index(failed)
    print(
        f"error: process {rank} of {len(context.processes)} was ended by {signal.Signals(died_of).name}, of which the "
        "system's log may know more (SIGKILL is often its answer to a lack of memory); the others were stopped; go on "
        "from the last checkpoint with --resume",
        file=sys.stderr,
    )
    sys.exit(128 + died_of)


def _kill(processes) -> None:
    """End processes that SIGTERM has not ended, as they wait for one that is no more."""
    for process in processes:
        if process.is_alive():
            process.kill()


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


def _run_process(local_rank: int, main, args) -> None:
    """What each process that this module starts does: on a GPU of its own, or on the CPU."""
    world_size = args.num_gpus * args.num_machines
    rank = args.machine_rank * args.num_gpus + local_rank
    _join_group(local_rank, args, init_method=args.dist_url, world_size=world_size, rank=rank)
    _run_in_group(main, args, args.num_gpus)


def _run_under_torchrun(main, args) -> None:
    """torchrun has started the processes: join them as its environment variables say."""
    _join_group(int(os.environ["LOCAL_RANK"]), args)
    _run_in_group(main, args, int(os.environ["LOCAL_WORLD_SIZE"]))


def _join_group(local_rank: int, args, **options) -> None:
    global _timeout
    _timeout = datetime.timedelta(seconds=getattr(args, "timeout", DEFAULT_TIMEOUT))
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if has_gpu else "gloo", timeout=_timeout, **options)


def _run_in_group(main, args, local_size: int) -> None:
    _create_local_group(local_size)
    comm.synchronize()
    main(args)
    # not after an error: the others would notice before this process could say what it was
    dist.destroy_process_group()


def _create_local_group(local_size: int) -> None:
    """Tell Detectron2 which ranks share this machine; v0.6 and later versions keep it differently."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
        return
    for first in range(0, dist.get_world_size(), local_size):
        group = dist.new_group(list(range(first, first + local_size)), timeout=_timeout)
        if first <= dist.get_rank() < first + local_size:
            comm._LOCAL_PROCESS_GROUP = group
