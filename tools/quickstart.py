"""The whole job in ten minutes on a CPU: evaluate the shipped weights, train the same model briefly, show both.

    python tools/quickstart.py [--minutes 7] [--output output/quickstart]

The data are drawn people (synthetic_people_*), made on the first run; nothing is downloaded.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

from querypose import PosePredictor  # first: it silences a warning of fvcore's

# isort: split
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from detectron2.evaluation import inference_on_dataset
from detectron2.utils.events import get_event_storage
from detectron2.utils.logger import setup_logger
from PIL import Image
from tqdm import tqdm

from querypose.data import check_datasets, skeleton_of
from querypose.engine import PoseTrainer
from querypose.engine.cpu_memory import speed_up_cpu_training
from querypose.engine.trainer import use_bfloat16
from querypose.errors import UserError, exit_on_user_error
from querypose.predictor import load_weights, read_image_rgb
from querypose.setup_config import setup_config
from querypose.visualization import Poses, contact_sheet, draw_poses, plot_training

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = REPOSITORY / "configs/quickstart.yaml"
WEIGHTS = REPOSITORY / "weights/quickstart.pth"
# Fewer steps show nothing at all, more take longer than a demonstration should.
ITERATIONS = (20, 3000)
SHEET_IMAGES = 12
# Of the short run. Small batches take more steps in the time, and in the beginning it is steps that count.
SHORT_RUN_BATCH = 8
# Pixels of the shorter and at most of the longer side. Small pictures are learnt from sooner, and more fit in the time.
SHORT_RUN_SIZES = {"MIN_SIZE_TRAIN": (112, 128, 144), "MIN_SIZE_TEST": 128, "MAX_SIZE_TRAIN": 192, "MAX_SIZE_TEST": 192}
SHOWN_FROM = 0.15  # scores multiply two confidences, and small models are modest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=7.0, help="how long to train (default 7)")
    parser.add_argument("--output", type=Path, default=Path("output/quickstart"), help="folder for the results")
    args = parser.parse_args()
    if not 0 < args.minutes < float("inf"):
        raise UserError(f"--minutes {args.minutes:g} must be more than 0")
    if not WEIGHTS.is_file():
        raise UserError(f"the shipped weights {WEIGHTS} are missing; get the whole repository")
    started = time.monotonic()
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {args.output}: {error.strerror}; choose another --output") from error
    log_to_file_only(args.output)

    cfg = setup_config(str(CONFIG), ["OUTPUT_DIR", str(args.output)])
    print("1/4 data: people drawn by the program, made on the first run")
    check_datasets(cfg)

    print("2/4 evaluating the shipped weights on 300 images that they were not trained on")
    shipped = PoseTrainer.build_model(cfg)
    load_weights(shipped, str(WEIGHTS))
    results = {"shipped weights": evaluate(cfg, shipped)}

    print(f"3/4 training the same model from scratch, on smaller pictures, for about {args.minutes:g} minutes")
    short = short_run_config(cfg)
    trained, seconds = train_briefly(short, args.minutes)
    results["this short run"] = evaluate(short, trained)

    print("4/4 drawing")
    write_tables(results, args.output)
    plot_training(args.output / "metrics.json", args.output / "training.png", labels=["this short run"])
    models = {"shipped weights": (shipped, cfg), "this short run": (trained, short)}
    draw_sheet(models, args.output / "predictions.png")
    report(cfg, results, args.output, seconds, time.monotonic() - started)


def log_to_file_only(output: Path) -> None:
    """Detectron2's log goes to output/log.txt: the terminal belongs to the progress bars."""
    for name in ("detectron2", "fvcore", "querypose"):
        logger = setup_logger(str(output), name=name)
        for handler in list(logger.handlers):
            if type(handler) is logging.StreamHandler:
                logger.removeHandler(handler)


def evaluate(cfg, model) -> dict:
    """{"bbox": {"AP": ..}, "keypoints": {..}} on the test set of `cfg`, in percent."""
    name = cfg.DATASETS.TEST[0]
    loader = tqdm(PoseTrainer.build_test_loader(cfg, name), unit="image", disable=None, leave=False)
    return inference_on_dataset(model.eval(), loader, PoseTrainer.build_evaluator(cfg, name))


def short_run_config(cfg):
    """The same model and losses on smaller pictures and batches."""
    cfg = cfg.clone()
    cfg.SEED = 1
    cfg.TEST.EVAL_PERIOD = 0
    cfg.SOLVER.IMS_PER_BATCH = SHORT_RUN_BATCH
    cfg.INPUT.update(SHORT_RUN_SIZES)
    return cfg


def train_briefly(cfg, minutes: float) -> tuple[torch.nn.Module, float]:
    """Train from scratch for as many iterations as fit; the model and the seconds that it took."""
    cfg = cfg.clone()
    for stale in ("metrics.json", "last_checkpoint"):
        (Path(cfg.OUTPUT_DIR) / stale).unlink(missing_ok=True)
    torch.manual_seed(cfg.SEED)
    speed_up_cpu_training(cfg)
    fitting = int(60 * minutes / seconds_per_iteration(cfg))
    cfg.SOLVER.MAX_ITER = min(max(fitting, ITERATIONS[0]), ITERATIONS[1])
    cfg.SOLVER.WARMUP_ITERS = cfg.SOLVER.MAX_ITER // 10
    trainer = PoseTrainer(cfg)
    if not sys.stderr.isatty():
        trainer.register_hooks([PlainProgress()])
    start = time.monotonic()
    trainer.train()
    return trainer.model, time.monotonic() - start


def seconds_per_iteration(cfg, steps: int = 8) -> float:
    """Median over a few steps of a model that is thrown away."""
    model = PoseTrainer.build_model(cfg).train()
    optimizer = PoseTrainer.build_optimizer(cfg, model)
    batches = iter(PoseTrainer.build_train_loader(cfg))
    bfloat16 = use_bfloat16(cfg)
    times = []
    for _ in range(steps):
        start = time.monotonic()
        with torch.autocast(cfg.MODEL.DEVICE.split(":")[0], torch.bfloat16, enabled=bfloat16):
            losses = model(next(batches))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        times.append(time.monotonic() - start)
    return sorted(times)[steps // 2]


class PlainProgress(HookBase):
    """A line every half minute where there is no terminal for a bar."""

    def before_train(self):
        self.start = self.last = time.monotonic()

    def after_step(self):
        now = time.monotonic()
        if now - self.last > 30:
            self.last = now
            done = self.trainer.iter + 1
            left = (now - self.start) / done * (self.trainer.max_iter - done)
            loss = get_event_storage().histories()["total_loss"].median(20)
            print(
                f"    iteration {done} of {self.trainer.max_iter}, loss {loss:.2f}, {left / 60:.1f} minutes left",
                flush=True,
            )


def write_tables(results: dict, output: Path) -> None:
    """ap.json and ap.md: AP of both models."""
    (output / "ap.json").write_text(json.dumps(results, indent=2))
    columns = [("keypoints", name) for name in ("AP", "AP50", "AP75", "AR")] + [
        ("bbox", name) for name in ("AP", "AP50")
    ]
    lines = [
        "| model | " + " | ".join(f"{task} {name}" for task, name in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for model, metrics in results.items():
        lines.append(f"| {model} | " + " | ".join(f"{metrics[task][name]:.1f}" for task, name in columns) + " |")
    (output / "ap.md").write_text("\n".join(lines) + "\n")


def draw_sheet(models: dict, path: Path) -> None:
    """Ground truth and the predictions of each (model, config) on the first test images, side by side."""
    cfg = next(iter(models.values()))[1]
    skeleton = skeleton_of(cfg)
    predictors = [
        PosePredictor.from_model(model, its_cfg, skeleton, score_threshold=SHOWN_FROM)
        for model, its_cfg in models.values()
    ]
    rows = []
    for record in DatasetCatalog.get(cfg.DATASETS.TEST[0])[:SHEET_IMAGES]:
        image = read_image_rgb(record["file_name"])
        truth = Poses.from_dataset_record(record, skeleton.num_keypoints)
        pictures = [draw_poses(image, truth, skeleton)]
        pictures += [
            draw_poses(image, predictor(image), skeleton, score_threshold=SHOWN_FROM) for predictor in predictors
        ]
        rows.append(pictures)
    sheet = contact_sheet(rows, columns=2, cell_size=(400, 320), headings=("ground truth", *models))
    Image.fromarray(sheet).save(path)


def report(cfg, results: dict, output: Path, training_seconds: float, seconds: float) -> None:
    shipped, short = (results[name]["keypoints"]["AP"] for name in ("shipped weights", "this short run"))
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    losses = [record["total_loss"] for record in records if "total_loss" in record]
    print((output / "ap.md").read_text())
    print(f"The shipped weights reach keypoint AP {shipped:.1f}: {training_note()}")
    done = f"{records[-1]['iteration'] + 1} iterations in {training_seconds / 60:.1f} minutes"
    print(
        f"This was a short run: {done}; the loss fell from {losses[0]:.1f} to {losses[-1]:.1f} and keypoint AP is "
        f"{short:.1f}. Set prediction learns slowly: train longer as above."
    )
    print(f"All of it took {seconds / 60:.1f} minutes. See predictions.png, training.png and ap.md in {output}")


def training_note() -> str:
    """What the shipped weights took, from the record beside them."""
    record = json.loads(WEIGHTS.with_suffix(".json").read_text())
    took = f"{record['iterations']} iterations, {record['minutes']:.0f} minutes on {record['hardware']}"
    return f"{took}, by\n    {record['command']}"


if __name__ == "__main__":
    with exit_on_user_error():
        main()
