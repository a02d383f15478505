"""Breaks central lines of the package, one at a time, and shows that the tests notice: python tests/mutations.py

Each mutant is a copy of the package in a temporary folder with one line changed; the tests named beside it run against
the copy until one fails. The exit code is 1 if a mutant survives. With numbers as arguments only those run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    """what: in words. file: below querypose/, in which `old` stands once and becomes `new`. tests: files, by name."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "matching: GIoU counts as a cost",
        "modeling/losses/matcher.py",
        "- self.giou_weight * batched",
        "+ self.giou_weight * batched",
        ("matcher",),
    ),
    Mutant(
        "matching: the class cost without its negative term",
        "modeling/losses/matcher.py",
        "return positive - negative",
        "return positive",
        ("matcher",),
    ),
    Mutant(
        "loss: L1 without its weight",
        "modeling/losses/criterion.py",
        "self.l1_weight * l1_loss / num_persons",
        "l1_loss / num_persons",
        ("criterion",),
    ),
    Mutant(
        "loss: keypoints not divided by K",
        "modeling/losses/criterion.py",
        "self.keypoint_weight * loss / valid.shape[1]",
        "self.keypoint_weight * loss",
        ("criterion",),
    ),
    Mutant(
        "loss: keypoint targets not detached from the boxes",
        "modeling/losses/criterion.py",
        "boxes.boxes[stage].detach().flatten(0, 1)[match.rows]",
        "boxes.boxes[stage].flatten(0, 1)[match.rows]",
        ("criterion",),
    ),
    Mutant(
        "SIM: the gates change places",
        "modeling/selective_iteration.py",
        "embedding_gate, query_gate = torch",
        "query_gate, embedding_gate = torch",
        ("selective_iteration",),
    ),
    Mutant(
        "flow: couplings scale the wrong way",
        "modeling/losses/flow.py",
        "torch.exp(-log_scale)",
        "torch.exp(log_scale)",
        ("flow",),
    ),
    Mutant(
        "flow: the log-determinant has the wrong sign",
        "modeling/losses/flow.py",
        "log_det - log_scale.sum(dim=1)",
        "log_det + log_scale.sum(dim=1)",
        ("flow",),
    ),
    Mutant(
        "RLE: keypoints outside of the box count",
        "modeling/losses/rle.py",
        "inside & (keypoints[..., 2] > 0)",
        "keypoints[..., 2] > 0",
        ("rle",),
    ),
    Mutant(
        "RLE: the density is added",
        "modeling/losses/rle.py",
        "torch.log(sigmas) - log_density + loss",
        "torch.log(sigmas) + log_density + loss",
        ("rle",),
    ),
    Mutant(
        "RLE: masked after the flow instead of before",
        "modeling/losses/rle.py",
        "torch.where(valid, coordinates - targets, 0.0).float()",
        "(coordinates - targets).float()",
        ("rle",),
    ),
    Mutant(
        "keypoints: the box's centre is not half a box from its corner",
        "modeling/losses/rle.py",
        "(coordinates + 0.5) * size",
        "coordinates * size",
        ("rle",),
    ),
    Mutant(
        "boxes: deltas with R-CNN's first weights",
        "modeling/box_stage.py",
        "DELTA_WEIGHTS = (2.0, 2.0, 1.0, 1.0)",
        "DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)",
        ("box_stage",),
    ),
    Mutant(
        "decoder: boxes not detached between stages",
        "modeling/decoder.py",
        "boxes = refined.detach()",
        "boxes = refined",
        ("decoder",),
    ),
    Mutant(
        "inference: a score without its keypoints' confidence",
        "modeling/inference.py",
        "probability * confidence.mean(dim=-1)",
        "probability",
        ("meta_arch",),
    ),
    Mutant(
        "anchors: not relative to the box's center",
        "modeling/keypoint_stage.py",
        "+ 0.5) / width - 0.5",
        "+ 0.5) / width",
        ("beyond_the_paper",),
    ),
    Mutant(
        "ground-truth regions: copies add to the loss",
        "modeling/losses/criterion.py",
        "value / (num_persons * copies)",
        "value / num_persons",
        ("beyond_the_paper",),
    ),
    Mutant(
        "one-to-many boxes: repeats add to the loss",
        "modeling/meta_arch.py",
        "num_persons * self.one_to_many.repeats",
        "num_persons",
        ("beyond_the_paper",),
    ),
    Mutant(
        "image queries: padding hides peaks",
        "modeling/beyond_the_paper.py",
        "center = torch.where(inside, center, -torch.inf)",
        "center = center + 0",
        ("image_queries",),
    ),
    Mutant(
        "image queries: the first step moves the first boxes",
        "modeling/decoder.py",
        "nn.init.zeros_(stage.box_delta.bias)",
        "pass",
        ("image_queries",),
    ),
    Mutant(
        "heads: keypoints read other parts' queries",
        "modeling/part_heads.py",
        "part_queries.float()[:, self.part_of_keypoint]",
        "part_queries.float()[:, self.part_of_keypoint.flip(0)]",
        ("part_heads",),
    ),
    Mutant(
        "heads: coordinates not divided by the query's norm",
        "modeling/part_heads.py",
        "self.coordinate_weight) / norm",
        "self.coordinate_weight)",
        ("part_heads",),
    ),
    Mutant(
        "data: left and right stay where they are in a flip",
        "data/mapper.py",
        "keypoint_hflip_indices=self.flip_indices",
        "keypoint_hflip_indices=np.arange(num_keypoints)",
        ("mapper",),
    ),
    Mutant(
        "data: crowds train as persons",
        "data/mapper.py",
        'if annotation.get("iscrowd", 0):',
        "if False:",
        ("mapper",),
    ),
    Mutant(
        "results: ONNX keypoints keep Detectron2's half pixel",
        "onnx.py",
        "np.array([0.5, 0.5, 0.0], np.float32)",
        "np.array([0.0, 0.0, 0.0], np.float32)",
        ("onnx_predictor",),
    ),
    Mutant(
        "checkpoints: PyTorch's unpickler unchecked",
        "safe_loading.py",
        "weights_only=True",
        "weights_only=False",
        ("safe_loading",),
    ),
    Mutant(
        "images: no bound on pixels",
        "image_io.py",
        "if image.width * image.height > max_pixels:",
        "if False:",
        ("bad_input",),
    ),
    Mutant(
        "annotations: the scorers get the file's ids",
        "data/annotations.py",
        '"id": len(result.persons) + 1,',
        '"id": annotation.get("id"),',
        ("annotations",),
    ),
    Mutant(
        "annotations: an area of 0 stays",
        "data/annotations.py",
        "or area <= 0:",
        "or area < 0:",
        ("annotations",),
    ),
    Mutant(
        "annotations: file names may leave their folder",
        "data/coco_format.py",
        'or ".." in parts or',
        "or",
        ("bad_input",),
    ),
)


def run(mutant: Mutant, folder: Path) -> tuple[bool, float, str]:
    """Whether the tests failed on the mutant, after how many seconds, and the first of them."""
    shutil.copytree(ROOT / "querypose", folder / "querypose", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "querypose" / mutant.file
    source = file.read_text()
    if source.count(mutant.old) < 1:
        raise SystemExit(f"{mutant.file} has no {mutant.old!r} any more: bring this list up to date")
    file.write_text(source.replace(mutant.old, mutant.new))
    tests = [f"tests/test_{name}.py" for name in mutant.tests]
    # -P: else the working folder's package would come before the copy
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    start = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    first = failed[0].split(" - ")[0].removeprefix("FAILED ").removeprefix("tests/") if failed else ""
    # 1 is pytest's code for tests that failed; others mean that it did not come to run them
    return done.returncode == 1, time.monotonic() - start, first or done.stdout.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("numbers", type=int, nargs="*", help="of the mutants to run (default: all)")
    args = parser.parse_args()
    chosen = args.numbers or range(1, len(MUTANTS) + 1)
    survivors = []
    print("| no. | mutant | noticed by | seconds |\n|---|---|---|---|", flush=True)
    for number in chosen:
        mutant = MUTANTS[number - 1]
        with tempfile.TemporaryDirectory() as folder:
            noticed, seconds, test = run(mutant, Path(folder))
        if not noticed:
            survivors.append(number)
        print(f"| {number} | {mutant.what} | {f'`{test}`' if noticed else '**nothing**'} | {seconds:.0f} |", flush=True)
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} mutants were noticed")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
