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
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# by file below querypose/: (tests/test_NAME.py, what is broken, `old`, which becomes `new`)
_BY_FILE = {
    "modeling/losses/matcher.py": [
        ("matcher", "matching: GIoU counts as a cost", "- self.giou_weight * batched", "+ self.giou_weight * batched"),
        ("matcher", "matching: the class cost without its negative term",
         "return positive - negative", "return positive"),
    ],
    "modeling/losses/criterion.py": [
        ("criterion", "loss: L1 without its weight", "self.l1_weight * l1_loss / num_persons", "l1_loss / num_persons"),
        ("criterion", "loss: keypoints not divided by K",
         "self.keypoint_weight * loss / valid.shape[1]", "self.keypoint_weight * loss"),
        ("criterion", "loss: keypoint targets not detached from the boxes",
         "boxes.boxes[stage].detach().flatten(0, 1)[match.rows]", "boxes.boxes[stage].flatten(0, 1)[match.rows]"),
        ("beyond_the_paper", "ground-truth regions: copies add to the loss",
         "num_persons * copies, ", "num_persons, "),
    ],
    "modeling/selective_iteration.py": [
        ("selective_iteration", "SIM: the gates change places",
         "embedding_gate, query_gate = torch", "query_gate, embedding_gate = torch"),
    ],
    "modeling/losses/flow.py": [
        ("flow", "flow: couplings scale the wrong way", "torch.exp(-log_scale)", "torch.exp(log_scale)"),
        ("flow", "flow: the log-determinant has the wrong sign",
         "log_det - log_scale.sum(dim=1)", "log_det + log_scale.sum(dim=1)"),
    ],
    "modeling/losses/keypoint_loss.py": [
        ("keypoint_loss", "RLE: keypoints outside of the box count",
         "inside & (keypoints[..., 2] > 0)", "keypoints[..., 2] > 0"),
        ("keypoint_loss", "RLE: the density is added",
         "torch.log(sigmas) - log_density + loss", "torch.log(sigmas) + log_density + loss"),
        ("keypoint_loss", "RLE: masked after the flow instead of before",
         "torch.where(valid, coordinates - targets, 0.0).float()", "(coordinates - targets).float()"),
        ("keypoint_loss", "keypoints: the box's centre is not half a box from its corner",
         "(coordinates + 0.5) * size", "coordinates * size"),
    ],
    "modeling/box_stage.py": [
        ("box_stage", "boxes: deltas with R-CNN's first weights",
         "weights=(2.0, 2.0, 1.0, 1.0)", "weights=(10.0, 10.0, 5.0, 5.0)"),
    ],
    "modeling/decoder.py": [
        ("decoder", "decoder: boxes not detached between stages", "boxes = refined.detach()", "boxes = refined"),
        ("image_queries", "image queries: the first step moves the first boxes",
         "nn.init.zeros_(box_stage.box_delta.bias)", "pass"),
    ],
    "modeling/keypoint_stage.py": [
        ("beyond_the_paper", "anchors: not relative to the box's center", "+ 0.5) / width - 0.5", "+ 0.5) / width"),
    ],
    "modeling/meta_arch.py": [
        ("meta_arch", "inference: a score without its keypoints' confidence",
         "probability * confidence.mean(dim=-1)", "probability"),
        ("beyond_the_paper", "one-to-many boxes: repeats add to the loss",
         "persons * self.one_to_many.repeats", "persons"),
    ],
    "modeling/beyond_the_paper.py": [
        ("image_queries", "image queries: padding hides peaks",
         "center = torch.where(inside, center, -torch.inf)", "center = center + 0"),
    ],
    "modeling/part_heads.py": [
        ("part_heads", "heads: keypoints read other parts' queries",
         "part_queries.float()[:, self.part_of_keypoint]", "part_queries.float()[:, self.part_of_keypoint.flip(0)]"),
        ("part_heads", "heads: coordinates not divided by the query's norm",
         "self.coordinate_weight) / norm", "self.coordinate_weight)"),
    ],
    "data/mapper.py": [
        ("mapper", "data: left and right stay where they are in a flip",
         "keypoint_hflip_indices=self.flip_indices", "keypoint_hflip_indices=np.arange(num_keypoints)"),
        ("mapper", "data: crowds train as persons", 'if annotation.get("iscrowd", 0):', "if False:"),
    ],
    "onnx.py": [
        ("onnx_predictor", "results: ONNX keypoints keep Detectron2's half pixel",
         "np.array([0.5, 0.5, 0.0], np.float32)", "np.array([0.0, 0.0, 0.0], np.float32)"),
    ],
    "safe_loading.py": [
        ("safe_loading", "checkpoints: PyTorch's unpickler unchecked", "weights_only=True", "weights_only=False"),
    ],
    "image_io.py": [
        ("bad_input", "images: no bound on pixels", "if image.width * image.height > max_pixels:", "if False:"),
    ],
    "data/annotations.py": [
        ("annotations", "annotations: the scorers get the file's ids",
         '"id": len(result.persons) + 1,', '"id": annotation.get("id"),'),
        ("annotations", "annotations: an area of 0 stays", "or area <= 0:", "or area < 0:"),
    ],
    "data/coco_format.py": [
        ("bad_input", "annotations: file names may leave their folder", 'or ".." in parts or', "or"),
    ],
}  # fmt: skip


class Mutant(NamedTuple):
    file: str
    test: str
    what: str
    old: str
    new: str


MUTANTS = [Mutant(file, *entry) for file, entries in _BY_FILE.items() for entry in entries]


def first_failure(mutant: Mutant, folder: Path) -> str:
    """The first test that fails on the mutant, or ""."""
    shutil.copytree(ROOT / "querypose", folder / "querypose", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "querypose" / mutant.file
    source = file.read_text()
    if mutant.old not in source:
        raise SystemExit(f"{mutant.file} has no {mutant.old!r} any more: bring this list up to date")
    file.write_text(source.replace(mutant.old, mutant.new))
    # -P: else the working folder's package would come before the copy
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    test = f"tests/test_{mutant.test}.py"
    done = subprocess.run([*command, test], cwd=ROOT, env=environment, capture_output=True, text=True)
    # 1 is pytest's code for tests that failed; others than 0 and 1 mean that it did not come to run them
    if done.returncode not in (0, 1):
        raise SystemExit(f"{test} did not run: {done.stdout}{done.stderr}")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0].split("/")[-1] if failed else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("numbers", type=int, nargs="*", help="of the mutants to run (default: all)")
    chosen = parser.parse_args().numbers or range(1, len(MUTANTS) + 1)
    survivors = 0
    print("| no. | mutant | noticed by |\n|---|---|---|", flush=True)
    for number in chosen:
        with tempfile.TemporaryDirectory() as folder:
            test = first_failure(MUTANTS[number - 1], Path(folder))
        survivors += not test
        print(f"| {number} | {MUTANTS[number - 1].what} | {f'`{test}`' if test else '**nothing**'} |", flush=True)
    print(f"\n{len(chosen) - survivors} of {len(chosen)} mutants were noticed")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
