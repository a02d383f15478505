"""What each of two CPU processes does in test_processes.py.

Arguments: OUTPUT.pth VAL.json [refuse]; with `group` in the place of VAL.json they only meet; with `die` or `train`
they train in the folder OUTPUT, until the second one is killed or forever.
"""

import functools
import json
import os
import signal
import sys
from pathlib import Path

import torch
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from killed_training import Do, Poison, config
from tiny_model import gradients_of, spread, tiny_batch, tiny_model, without_batch_statistics

from querypose.data import resolve_dataset
from querypose.engine import PoseTrainer, launch, process_group, processes, train_net
from querypose.engine.trainer import share_buffers
from querypose.errors import exit_on_user_error
from querypose.image_io import UnreadableImageError
from querypose.synthetic.dataset import write_synthetic_people

VARIANTS = {
    "light": ("light", "MODEL.QUERYPOSE.TRAIN_QUERIES", "matched", "MODEL.QUERYPOSE.LOSS.HEATMAP_WEIGHT", 1.0),
    "full": ("full",),
    "beyond the paper": (
        *("full", "MODEL.QUERYPOSE.ANCHORED_COORDINATES", True, "MODEL.QUERYPOSE.IMAGE_QUERIES.ENABLED", True),
        *("MODEL.QUERYPOSE.GROUND_TRUTH_REGIONS.COPIES", 2, "MODEL.QUERYPOSE.ONE_TO_MANY.NUM_QUERIES", 5),
    ),
}
PERSONS, SIZES = (2, 1, 0, 0), ((64, 96),) * 4


def gradients(opts, batch):
    """Gradients of one step, BatchNorm keeping its statistics, so that images do not depend on one another."""
    model = without_batch_statistics(spread(tiny_model(*opts)))
    model.region_jitter = 0.0  # random, and so would differ with the number of processes
    model = create_ddp_model(model, device_ids=None, broadcast_buffers=False)
    return {name.removeprefix("module."): gradient for name, gradient in gradients_of(model, batch)[1].items()}


def shared_buffers():
    """Whether processes have the same BatchNorm statistics before and after these are shared."""
    model = tiny_model("full")
    for buffer in model.buffers():
        buffer.add_(comm.get_rank())
    before = same_everywhere(model.buffers())
    share_buffers(model)
    return before, same_everywhere(model.buffers())


def same_everywhere(tensors):
    everyone = comm.all_gather(torch.cat([tensor.detach().float().flatten() for tensor in tensors]))
    return all(torch.equal(other, everyone[0]) for other in everyone)


def trainer_config(people, folder, *opts):
    """Two images in every iteration, each seen alone, however many processes there are."""
    return config(
        people, folder, "DATALOADER.ASPECT_RATIO_GROUPING", False, "SEED", 3,
        "SOLVER.ACCUMULATION_STEPS", 2 // comm.get_world_size(), "SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 0.01,
        "SOLVER.STEPS", (), "SOLVER.WARMUP_ITERS", 1, "SOLVER.CHECKPOINT_PERIOD", 10**6, "SOLVER.EMA", 0.0,
        "MODEL.QUERYPOSE.NUM_STAGES", 2, "MODEL.QUERYPOSE.GROUND_TRUTH_REGIONS.COPIES", 0,
        "MODEL.QUERYPOSE.LOSS.HEATMAP_WEIGHT", 1.0, *opts,
    )  # fmt: skip


def train_and_evaluate(people, one_image, folder):
    """Three iterations of the trainer, the second one with an infinite image, which is left out, and an evaluation.

    Returns the weights by name, whether all processes have them, the checkpoints in the folder, and the results.
    """
    torch.manual_seed(comm.get_rank())  # the first process's weights count
    opts = ("SOLVER.MAX_ITER", 3, "SOLVER.NON_FINITE", "skip", "DATASETS.TEST", (people, one_image))
    trainer = PoseTrainer(trainer_config(people, folder, *opts))
    without_batch_statistics(spread(trainer._trainer.plain_model))
    trainer.register_hooks([Poison(1)])
    resolve_dataset(one_image)
    trainer.train()
    comm.synchronize()
    weights = {name: p.detach() for name, p in trainer._trainer.plain_model.named_parameters()}
    names = sorted(path.name for path in Path(folder).iterdir() if path.suffix == ".pth")
    results = [json.loads(file.read_text()) for file in sorted(Path(folder).glob("inference/*/coco_instances*.json"))]
    return weights, same_everywhere(weights.values()), names, results


def train_forever(folder, dies):
    Path(folder).mkdir(exist_ok=True)
    if comm.is_main_process():
        write_synthetic_people(folder, "train", 4)
    comm.synchronize()
    Path(folder, f"process{comm.get_rank()}").write_text(str(os.getpid()))
    people = str(Path(folder, "annotations", "person_keypoints_train.json"))
    trainer = PoseTrainer(trainer_config(people, folder, "SOLVER.MAX_ITER", 10**6))
    trainer.register_hooks([Do(2, Path(folder, "started").touch)])
    if dies and comm.get_rank() == 1:  # as where memory runs out
        trainer.register_hooks([Do(2, lambda: os.kill(os.getpid(), signal.SIGKILL))])
    trainer.train()


def main(args):
    torch.set_num_threads(1)
    with process_group("cpu", args.timeout):
        output, data, *refuse = args.opts
        if data in ("die", "train"):
            return train_forever(output, dies=data == "die")
        rank, size = comm.get_rank(), comm.get_world_size()
        result = {"ranks": comm.all_gather(rank)}
        if data != "group":
            share = len(PERSONS) // size
            # the second process has no person in its images
            batch = tiny_batch(PERSONS, SIZES)[rank * share : (rank + 1) * share]
            result["gradients"] = {name: gradients(opts, batch) for name, opts in VARIANTS.items()}
            result["buffers"] = shared_buffers()
            one_image = f"{Path(data).with_name('one_image.json')}@{Path(data).parents[1] / 'val'}"
            result["trained"] = train_and_evaluate(data, one_image, f"{output}_run")
        if comm.is_main_process():
            torch.save(result, output)
        comm.synchronize()
        if refuse and rank == 1:
            raise UnreadableImageError("the second process refuses, as it was told")


def launch_forked(*args):
    """As from the command line, but that the launcher forks its processes, which then need not import PyTorch."""
    sys.argv = ["two_processes.py", "--config-file", "none", *map(str, args)]
    processes.LaunchConfig = functools.partial(processes.LaunchConfig, start_method="fork")
    with exit_on_user_error():
        launch(main, train_net.parser().parse_args())
