"""Find people in photographs, then evaluate and briefly train a model of synthetic people, on a CPU in six minutes.

    python tools/quickstart.py [photo.jpg ..] [--minutes 3] [--output output/quickstart]

Without files the photograph is matplotlib's portrait of Grace Hopper. The synthetic people are rendered on the first
run; nothing is downloaded.
"""

import sys
import tempfile
from pathlib import Path

from querypose import PosePredictor  # first: it silences a warning of fvcore's
from querypose.cli import run_tool, tool_parser

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils.logger import setup_logger
from matplotlib.cbook import get_sample_data
from PIL import Image
from tabulate import tabulate

from querypose.atomic_io import make_output_folder
from querypose.data import check_datasets, skeleton_of
from querypose.demo.inputs import find_inputs, prepare_output
from querypose.demo.run import Demo
from querypose.engine import PoseTrainer
from querypose.engine.train_net import speed_up_cpu_training
from querypose.errors import UserError
from querypose.predictor import load_weights
from querypose.setup_config import setup_config
from querypose.visualization.plots import plot_training
from querypose.visualization.sheets import prediction_sheet

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = REPOSITORY / "configs/quickstart.yaml"
WEIGHTS = REPOSITORY / "weights/quickstart.pth"
# the same model and losses on smaller images and batches, which take more steps in the same time
SHORT_RUN = "SEED 1 TEST.EVAL_PERIOD 0 DATASETS.TRAIN synthetic_people_minitrain SOLVER.IMS_PER_BATCH 8".split()
SHORT_RUN += "INPUT.MIN_SIZE_TRAIN (112,128,144) INPUT.MAX_SIZE_TRAIN 192".split()
SHORT_RUN += "INPUT.MIN_SIZE_TEST 128 INPUT.MAX_SIZE_TEST 192".split()
COLUMNS = [("keypoints", name) for name in ("AP", "AP50", "AP75", "AR")] + [("bbox", name) for name in ("AP", "AP50")]


def main() -> int:
    """Return 2 if a photograph could not be used, else 0."""
    parser = tool_parser(__doc__.split("\n")[0])
    parser.add_argument("photographs", nargs="*", metavar="PHOTO", help="more photographs to find people in")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long to train (default 3)")
    parser.add_argument("--output", type=Path, default=Path("output/quickstart"), help="folder for the results")
    args = parser.parse_args()
    if not 0 < args.minutes < float("inf"):
        raise UserError(f"--minutes {args.minutes:g} must be more than 0")
    output = make_output_folder(args.output)
    for name in ("detectron2", "fvcore", "querypose"):  # to log.txt alone
        logger = setup_logger(str(output), name=name)
        logger.handlers = [handler for handler in logger.handlers if handler.stream is not sys.stdout]

    print("1/5 detecting poses in photographs with the small model")
    photographs = [get_sample_data("grace_hopper.jpg", asfileobj=False), *args.photographs]
    sources, empty = find_inputs(photographs)
    demo = Demo(PosePredictor(), prepare_output(output / "photographs", sources), keypoint_threshold=0.3)
    for given in empty:
        demo.fail(given, UserError(f"there is no image {given}"))
    demo.run(sources)
    print(f"    {demo.num_persons} persons in {demo.num_images} photographs: see {output}/photographs")

    print("2/5 data: synthetic people, rendered on the first run")
    cfg = setup_config(str(CONFIG), ["OUTPUT_DIR", str(output)])
    short = setup_config(str(CONFIG), ["OUTPUT_DIR", str(output), *SHORT_RUN])
    check_datasets(short)

    print("3/5 evaluating the shipped weights on 300 images that they were not trained on")
    shipped = PoseTrainer.build_model(cfg)
    load_weights(shipped, str(WEIGHTS))
    results = {"shipped weights": PoseTrainer.test(cfg, shipped)}

    print(f"4/5 training the same model from scratch on smaller images, {args.minutes:g} minutes: see {output}/log.txt")
    for stale in ("metrics.json", "last_checkpoint"):
        (output / stale).unlink(missing_ok=True)
    trainer = build_trainer(short, args.minutes)
    results["this short run"] = trainer.train()

    print("5/5 drawing")
    plot_training([output / "metrics.json"], output / "training.png", labels=["this short run"])
    skeleton = skeleton_of(cfg)
    models = {"shipped weights": (shipped, cfg), "this short run": (trainer.model, short)}
    predictors = {name: PosePredictor.from_model(*model, skeleton) for name, model in models.items()}
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])[:12]
    Image.fromarray(prediction_sheet(records, predictors, skeleton)).save(output / "predictions.png")
    report(results, output, trainer.max_iter)
    return 2 if demo.failures else 0


def build_trainer(cfg: CfgNode, minutes: float) -> PoseTrainer:
    """A trainer from scratch for as many iterations as fit, by the time that eight take."""
    speed_up_cpu_training(cfg)
    with tempfile.TemporaryDirectory() as folder:
        trial = cfg.clone()
        trial.SOLVER.MAX_ITER, trial.DATASETS.TEST, trial.OUTPUT_DIR = 8, (), folder
        trainer = PoseTrainer(trial)
        trainer.train()
        seconds = trainer.storage.history("time").median(8)  # of an iteration; the first ones take longer
    cfg = cfg.clone()
    torch.manual_seed(cfg.SEED)
    cfg.SOLVER.MAX_ITER = min(max(int(60 * minutes / seconds), 20), 3000)
    cfg.SOLVER.WARMUP_ITERS = cfg.SOLVER.MAX_ITER // 10
    return PoseTrainer(cfg)


def report(results: dict, output: Path, iterations: int) -> None:
    """Write AP of both models to ap.md, and print it."""
    rows = [[model, *(metrics[task][name] for task, name in COLUMNS)] for model, metrics in results.items()]
    table = tabulate(rows, ["model", *map(" ".join, COLUMNS)], tablefmt="github", floatfmt=".1f")
    (output / "ap.md").write_text(table + "\n")
    print(
        f"{table}\n\nThis was a short run of {iterations} iterations; for longer ones see weights/README.md.\n"
        f"See predictions.png, training.png and ap.md in {output}"
    )


if __name__ == "__main__":
    run_tool(main)
