"""What each of two CPU processes does in test_processes.py.

python tests/two_processes.py OUTPUT.pth VAL.json [refuse] --num-gpus 2, or under torchrun; with `die` or `train` in the
place of VAL.json they train in the folder OUTPUT, until the second one is killed or forever.
"""

import functools
import json
import os
import signal
import sys
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from killed_training import Poison, config
from tiny_model import spread, tiny_batch, tiny_config, tiny_model, without_batch_statistics
from torch import nn

from querypose.data import resolve_dataset
from querypose.engine import PoseTrainer, build_optimizer, launch, process_group, processes, train_net
from querypose.engine.trainer import share_buffers, wrap_for_distribution
from querypose.errors import UserError, exit_on_user_error
from querypose.synthetic.dataset import write_synthetic_people

VARIANTS = {
    "light": ("light", "MODEL.QUERYPOSE.TRAIN_QUERIES", "matched", "MODEL.QUERYPOSE.LOSS.HEATMAP_WEIGHT", 1.0),
    "full": ("full",),
    "beyond the paper": (
        *("full", "MODEL.QUERYPOSE.ANCHORED_COORDINATES", True, "MODEL.QUERYPOSE.IMAGE_QUERIES.ENABLED", True),
        *("MODEL.QUERYPOSE.GROUND_TRUTH_REGIONS.COPIES", 2),
        *("MODEL.QUERYPOSE.ONE_TO_MANY.NUM_QUERIES", 5),
    ),
}
PERSONS, SIZES = (2, 1, 0, 0), ((64, 96),) * 4


def first_gradients(opts, batch):
    """Gradients of one step, BatchNorm keeping its statistics, so that images do not depend on one another."""
    model = without_batch_statistics(spread(tiny_model(*opts)))
    model.region_jitter = 0.0  # random, and so would differ with the number of processes
    model = wrap_for_distribution(model)
    sum(model(batch).values()).backward()
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.requires_grad}


def train(opts, batch):
    """Three steps from weights that differ by process.

    Returns whether all processes end with the same weights, then whether they have the same BatchNorm statistics
    before and after these are shared.
    """
    model = tiny_model(*opts)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * comm.get_rank())
    model = wrap_for_distribution(model.train())
    cfg = tiny_config(*opts, "SOLVER.BASE_LR", 1e-3)
    optimizer = build_optimizer(cfg, model)
    before = flat(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
    same_weights = same_everywhere(model.parameters()) and not torch.equal(before, flat(model.parameters()))
    same_before = same_everywhere(model.buffers())
    share_buffers(model)
    return same_weights, same_before, same_everywhere(model.buffers())


def same_everywhere(tensors):
    everyone = comm.all_gather(flat(tensors))
    return all(torch.equal(other, everyone[0]) for other in everyone)


def flat(tensors):
    return torch.cat([tensor.detach().float().flatten() for tensor in tensors])


class Oracle(nn.Module):
    """Returns the annotations, the more disturbed the higher the image's number."""

    def __init__(self, json_file):
        super().__init__()
        with open(json_file.split("@")[0]) as file:
            self.persons = json.load(file)["annotations"]

    def forward(self, inputs):
        return [{"instances": self.instances(entry)} for entry in inputs]

    def instances(self, entry):
        mine = [person for person in self.persons if person["image_id"] == entry["image_id"]]
        generator = torch.Generator().manual_seed(entry["image_id"])
        boxes = torch.tensor([person["bbox"] for person in mine])
        boxes[:, 2:] += boxes[:, :2]
        keypoints = torch.tensor([person["keypoints"] for person in mine], dtype=torch.float32)
        keypoints = keypoints.view(len(mine), -1, 3)
        keypoints[..., :2] += entry["image_id"] * torch.randn(keypoints[..., :2].shape, generator=generator)
        return Instances(
            (entry["height"], entry["width"]),
            pred_boxes=Boxes(boxes),
            scores=torch.rand(len(mine), generator=generator),
            pred_classes=torch.zeros(len(mine), dtype=torch.long),
            pred_keypoints=keypoints,
        )


def evaluate(json_file):
    """Metrics by task; an empty dict on all but the first process."""
    cfg = tiny_config("light", "DATASETS.TEST", (json_file,), "DATALOADER.NUM_WORKERS", 0)
    resolve_dataset(json_file)
    loader = PoseTrainer.build_test_loader(cfg, json_file)
    evaluator = PoseTrainer.build_evaluator(cfg, json_file, output_folder=None)
    evaluator._output_dir = None
    return inference_on_dataset(Oracle(json_file), loader, evaluator)


def trainer_config(people, folder, *opts):
    """Two images in every iteration, each seen alone, however many processes there are."""
    return config(
        people, folder, "DATALOADER.ASPECT_RATIO_GROUPING", False, "SEED", 3,
        "SOLVER.ACCUMULATION_STEPS", 2 // comm.get_world_size(), "SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 0.01,
        "SOLVER.STEPS", (), "SOLVER.WARMUP_ITERS", 1, "SOLVER.CHECKPOINT_PERIOD", 100, "SOLVER.EMA", 0.0,
        "MODEL.QUERYPOSE.NUM_STAGES", 2, "MODEL.QUERYPOSE.GROUND_TRUTH_REGIONS.COPIES", 0,
        "MODEL.QUERYPOSE.LOSS.HEATMAP_WEIGHT", 1.0, *opts,
    )  # fmt: skip


def train_whole(people, folder):
    """Three iterations of the trainer, the second one with an infinite image, which is left out.

    Returns the weights by name, whether all processes have them, and what is left in the folder.
    """
    cfg = trainer_config(people, folder, "SOLVER.MAX_ITER", 3, "SOLVER.NON_FINITE", "skip")
    torch.manual_seed(0)
    trainer = PoseTrainer(cfg)
    without_batch_statistics(spread(trainer._trainer.plain_model))
    trainer.register_hooks([Poison(1)])
    trainer.train()
    comm.synchronize()
    weights = {name: p.detach() for name, p in trainer._trainer.plain_model.named_parameters()}
    names = sorted(path.name for path in Path(folder).iterdir() if path.suffix == ".pth")
    return weights, same_everywhere(weights.values()), names


class Die(HookBase):
    """Ends the second process in the way of a system that runs out of memory."""

    def before_step(self):
        if self.trainer.iter == 2 and comm.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class Report(HookBase):
    def after_step(self):
        if self.trainer.iter == 1 and comm.is_main_process():
            (Path(self.trainer.cfg.OUTPUT_DIR) / "started").touch()


def train_forever(folder, dies):
    Path(folder).mkdir(exist_ok=True)
    if comm.is_main_process():
        write_synthetic_people(folder, "train", 4)
    comm.synchronize()
    Path(folder, f"process{comm.get_rank()}").write_text(str(os.getpid()))
    people = str(Path(folder, "annotations", "person_keypoints_train.json"))
    trainer = PoseTrainer(trainer_config(people, folder, "SOLVER.MAX_ITER", 10**6, "SOLVER.CHECKPOINT_PERIOD", 10**6))
    trainer.register_hooks([Report(), *([Die()] if dies else [])])
    trainer.train()


def main(args):
    torch.set_num_threads(1)
    with process_group("cpu", args.timeout):
        run(args)


def run(args):
    output, json_file, *refuse = args.opts
    if json_file in ("die", "train"):
        return train_forever(output, dies=json_file == "die")
    rank, size = comm.get_rank(), comm.get_world_size()
    share = len(PERSONS) // size
    # the second process has no person in its images
    batch = tiny_batch(PERSONS, SIZES)[rank * share : (rank + 1) * share]
    result = {"size": size}
    for name, opts in VARIANTS.items():
        result[name] = {"gradients": first_gradients(opts, batch), "same": train(opts, batch)}
    result["metrics"] = {task: dict(metrics) for task, metrics in evaluate(json_file).items()}
    one_image = f"{Path(json_file).with_name('one_image.json')}@{Path(json_file).parents[1] / 'val'}"
    result["one image"] = {task: dict(metrics) for task, metrics in evaluate(one_image).items()}
    result["trained"] = train_whole(json_file, f"{output}_run")
    if comm.is_main_process():
        torch.save(result, output)
    comm.synchronize()
    if refuse and rank == 1:
        raise UserError("the second process refuses, as it was told")


def launch_forked(*args):
    """As from the command line, but that the launcher forks its processes, which then need not import PyTorch."""
    sys.argv = ["two_processes.py", "--config-file", "none", *map(str, args)]
    processes.LaunchConfig = functools.partial(processes.LaunchConfig, start_method="fork")
    from_command_line()


def from_command_line():
    with exit_on_user_error():
        launch(main, train_net.parser().parse_args())


if __name__ == "__main__":
    from_command_line()
