"""Long runs by hand, for leaks and drifts: python tests/soak.py {predictor,loader,tracker} [--number N]

predictor: images of random sizes through one predictor; prints resident memory and latency per tenth of them.
loader: batches of the training loader with two workers, on synthetic people; prints the memory of all its processes.
tracker: frames of three walking persons, one of them replaced every 100 frames, with smoothing; without a network.

The exit code is 1 where memory grows by more than 5% or the latency by more than 20% from the second tenth, by when
allocator and caches are warm, to the last.
"""

import argparse
import gc
import itertools
import multiprocessing
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tracking_quality import persons

from querypose import PosePredictor
from querypose.data import resolve_dataset
from querypose.engine import PoseTrainer
from querypose.setup_config import setup_config
from querypose.synthetic.dataset import write_synthetic_people
from querypose.tracking import PoseTracker

ROOT = Path(__file__).resolve().parents[1]
CONFIG, WEIGHTS = ROOT / "configs" / "quickstart.yaml", ROOT / "weights" / "quickstart.pth"


def memory_mb() -> float:
    """Allocated by this process and its workers, on Linux, without libraries' files; a shared page counts in parts."""
    processes = ["self", *(each.pid for each in multiprocessing.active_children())]
    texts = [Path(f"/proc/{process}/smaps_rollup").read_text() for process in processes]
    return sum(int(re.search(r"^Pss_Anon:\s+(\d+) kB", text, re.MULTILINE)[1]) for text in texts) / 1024


def predictor():
    """Predict an image of random size at each step; yields its share of a million pixels of the network's input."""
    predict = PosePredictor(CONFIG, WEIGHTS, device="cpu")
    rng = np.random.default_rng(0)
    while True:
        image = rng.integers(0, 256, (*rng.integers(16, 1200, 2), 3), dtype=np.uint8)
        predict(image)
        yield predict.network_input(image)["image"][0].numel() / 1e6


def loader():
    """Load a batch at each step."""
    with tempfile.TemporaryDirectory() as folder:
        people = write_synthetic_people(Path(folder), "train", 40)
        cfg = setup_config(str(CONFIG), ["DATASETS.TRAIN", f"('{people}',)", "DATALOADER.NUM_WORKERS", "2"])
        resolve_dataset(people)
        for _ in PoseTrainer.build_train_loader(cfg):
            yield 1.0


def tracker():
    """Track a frame at each step."""
    track, rng = PoseTracker(smooth=True), np.random.default_rng(0)
    for frame in itertools.count():
        lefts = [40 + 0.02 * (frame % 1000), 200 - 0.02 * (frame % 1000), 300 + 60 * (frame // 100 % 5)]
        track.update(persons(*lefts, noise=torch.from_numpy(rng.normal(0, 1, 2))))
        yield 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = {kind.__name__: kind for kind in (predictor, loader, tracker)}
    parser.add_argument("what", choices=kinds)
    parser.add_argument("--number", type=int, default=2000, help="of images, batches or frames (default 2000)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps, rows, times = kinds[args.what](), [], []
    print("| of all | memory in MB | median ms |\n|---|---|---|")
    for number in range(1, args.number + 1):
        start = time.perf_counter()
        size = next(steps)
        times.append(1000 * (time.perf_counter() - start) / size)
        if number % max(1, args.number // 10) == 0:
            gc.collect()
            rows.append((memory_mb(), statistics.median(times)))
            print(f"| {number} | {rows[-1][0]:.0f} | {rows[-1][1]:.2f} |", flush=True)
            times.clear()
    memory, latency = (rows[-1][column] / rows[1][column] for column in (0, 1))
    print(f"\nfrom the second tenth to the last: memory x {memory:.3f}, median time x {latency:.3f}")
    sys.exit(1 if memory > 1.05 or latency > 1.20 else 0)


if __name__ == "__main__":
    main()
