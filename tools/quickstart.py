"""Find people in photographs, then evaluate and briefly train a model of synthetic people, on a CPU in six minutes.

    python tools/quickstart.py [photo.jpg ..] [--minutes 3] [--output output/quickstart]

Without files the photograph is matplotlib's portrait of Grace Hopper. The synthetic people are rendered on the first
run; nothing is downloaded.
"""

import argparse
import json
import logging
import statistics
import sys
import time
from pathlib import Path

from querypose import PosePredictor  # first: it silences a warning of fvcore's

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.utils.events import EventStorage
from detectron2.utils.logger import setup_logger
from matplotlib.cbook import get_sample_data
from PIL import Image
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from querypose.atomic_io import make_output_folder
from querypose.benchmark.clock import repeat
from querypose.data import check_datasets, skeleton_of
from querypose.demo.inputs import find_inputs, prepare_output
from querypose.demo.run import Demo
from querypose.engine import PoseTrainer
from querypose.engine.cpu_memory import speed_up_cpu_training
from querypose.engine.train_loop import StepTrainer
from querypose.engine.trainer import use_bfloat16
from querypose.errors import UserError, exit_on_user_error
from querypose.predictor import load_weights
from querypose.setup_config import setup_config
from querypose.visualization.contact_sheet import prediction_sheet
from querypose.visualization.plots import plot_training

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = REPOSITORY / "configs/quickstart.yaml"
WEIGHTS = REPOSITORY / "weights/quickstart.pth"
ITERATIONS = (20, 3000)  # of the short run, least and most
SHEET_IMAGES = 12
SHORT_RUN_BATCH = 8  # small batches take more steps in the same time
SHORT_RUN_SIZES = {"MIN_SIZE_TRAIN": (112, 128, 144), "MIN_SIZE_TEST": 128, "MAX_SIZE_TRAIN": 192, "MAX_SIZE_TEST": 192}
COLUMNS = [("keypoints", name) for name in ("AP", "AP50", "AP75", "AR")] + [("bbox", name) for name in ("AP", "AP50")]


def main() -> int:
    """Return 2 if a photograph could not be used, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photographs", nargs="*", metavar="PHOTO", help="more photographs to find people in")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long to train (default 3)")
    parser.add_argument("--output", type=Path, default=Path("output/quickstart"), help="folder for the results")
    args = parser.parse_args()
    if not 0 < args.minutes < float("inf"):
        raise UserError(f"--minutes {args.minutes:g} must be more than 0")
    started = time.monotonic()
    make_output_folder(args.output)
    log_to_file_only(args.output)

    print("1/5 detecting poses in photographs with the small model")
    photographs = [get_sample_data("grace_hopper.jpg", asfileobj=False), *args.photographs]
    num_failures = find_people(photographs, args.output / "photographs")

    cfg = setup_config(str(CONFIG), ["OUTPUT_DIR", str(args.output)])
    short = short_run_config(cfg)
    print("2/5 data: synthetic people, rendered on the first run")
    check_datasets(short)

    print("3/5 evaluating the shipped weights on 300 images that they were not trained on")
    shipped = PoseTrainer.build_model(cfg)
    load_weights(shipped, str(WEIGHTS))
    results = {"shipped weights": evaluate(cfg, shipped)}

    print(f"4/5 training the same model from scratch, on smaller images, for about {args.minutes:g} minutes")
    trained, seconds = train_briefly(short, args.minutes)
    results["this short run"] = evaluate(short, trained)

    print("5/5 drawing")
    write_tables(results, args.output)
    plot_training(args.output / "metrics.json", args.output / "training.png", labels=["this short run"])
    skeleton = skeleton_of(cfg)
    predictors = {
        name: PosePredictor.from_model(model, its_cfg, skeleton)
        for name, model, its_cfg in (("shipped weights", shipped, cfg), ("this short run", trained, short))
    }
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])[:SHEET_IMAGES]
    sheet = prediction_sheet(records, predictors, skeleton)
    Image.fromarray(sheet).save(args.output / "predictions.png")
    report(results, args.output, seconds, time.monotonic() - started)
    return 2 if num_failures else 0


def find_people(photographs: list[str], output: Path) -> int:
    """Draw the persons that the small model finds, and list them; return how many inputs could not be used."""
    sources, empty, _ = find_inputs(photographs)
    demo = Demo(PosePredictor(), prepare_output(output, sources), keypoint_threshold=0.3)
    for given in empty:
        demo.fail(f"there is no image {given}")
    demo.run(sources)
    print(f"    {demo.num_persons} persons in {demo.num_images} photographs: see {output}")
    return len(demo.failures)


def log_to_file_only(output: Path) -> None:
    """Detectron2's log goes to output/log.txt, the progress bars to the terminal."""
    for name in ("detectron2", "fvcore", "querypose"):
        logger = setup_logger(str(output), name=name)
        for handler in list(logger.handlers):
            if type(handler) is logging.StreamHandler:
                logger.removeHandler(handler)


def evaluate(cfg: CfgNode, model: nn.Module) -> dict:
    """{"bbox": {"AP": ..}, "keypoints": {..}} on the test set of `cfg`, in percent."""
    name = cfg.DATASETS.TEST[0]
    loader = tqdm(PoseTrainer.build_test_loader(cfg, name), unit="image", disable=None, leave=False)
    return inference_on_dataset(model.eval(), loader, PoseTrainer.build_evaluator(cfg, name))


def short_run_config(cfg: CfgNode) -> CfgNode:
    """The same model and losses on smaller images and batches."""
    cfg = cfg.clone()
    cfg.SEED = 1
    cfg.TEST.EVAL_PERIOD = 0
    cfg.DATASETS.TRAIN = ("synthetic_people_minitrain",)
    cfg.SOLVER.IMS_PER_BATCH = SHORT_RUN_BATCH
    cfg.INPUT.update(SHORT_RUN_SIZES)
    return cfg


def train_briefly(cfg: CfgNode, minutes: float) -> tuple[nn.Module, float]:
    """Train from scratch for as many iterations as fit; returns the model and the seconds of the training."""
    cfg = cfg.clone()
    for stale in ("metrics.json", "last_checkpoint"):
        (Path(cfg.OUTPUT_DIR) / stale).unlink(missing_ok=True)
    torch.manual_seed(cfg.SEED)
    speed_up_cpu_training(cfg)
    fitting = int(60 * minutes / seconds_per_iteration(cfg))
    cfg.SOLVER.MAX_ITER = min(max(fitting, ITERATIONS[0]), ITERATIONS[1])
    cfg.SOLVER.WARMUP_ITERS = cfg.SOLVER.MAX_ITER // 10
    trainer = PoseTrainer(cfg)
    start = time.monotonic()
    trainer.train()
    return trainer.model, time.monotonic() - start


def seconds_per_iteration(cfg: CfgNode, steps: int = 8) -> float:
    """Median over a few steps of another model."""
    model = PoseTrainer.build_model(cfg)
    optimizer, loader = PoseTrainer.build_optimizer(cfg, model), PoseTrainer.build_train_loader(cfg)
    loop = StepTrainer(model, loader, optimizer, bfloat16=use_bfloat16(cfg))
    with EventStorage():
        return statistics.median(repeat(loop.run_step, cfg.MODEL.DEVICE, steps, warm_up=0))


def write_tables(results: dict, output: Path) -> None:
    """ap.json and ap.md: AP of both models."""
    (output / "ap.json").write_text(json.dumps(results, indent=2))
    rows = [[model, *(metrics[task][name] for task, name in COLUMNS)] for model, metrics in results.items()]
    table = tabulate(rows, ["model", *map(" ".join, COLUMNS)], tablefmt="github", floatfmt=".1f")
    (output / "ap.md").write_text(table + "\n")


def report(results: dict, output: Path, training_seconds: float, seconds: float) -> None:
    shipped, short = (results[name]["keypoints"]["AP"] for name in ("shipped weights", "this short run"))
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    losses = [record["total_loss"] for record in records if "total_loss" in record]
    made = json.loads(WEIGHTS.with_suffix(".json").read_text())
    print((output / "ap.md").read_text())
    print(
        f"The shipped weights reach keypoint AP {shipped:.1f}: {made['iterations']} iterations, {made['minutes']:.0f} "
        f"minutes on {made['hardware']}, by\n    {made['command']}\n"
        f"This was a short run: {records[-1]['iteration'] + 1} iterations in {training_seconds / 60:.1f} minutes; the "
        f"loss fell from {losses[0]:.1f} to {losses[-1]:.1f} and keypoint AP is {short:.1f}. Train longer as above.\n"
        f"All of it took {seconds / 60:.1f} minutes. See predictions.png, training.png and ap.md in {output}"
    )


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
