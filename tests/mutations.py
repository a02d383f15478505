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

ROOT = Path(__file__).resolve().parents[1]

# tests/test_NAME.py, what one file of querypose/ holds, and what it becomes
MUTANTS = [
    ("flow", "torch.exp(-log_scale)", "torch.exp(log_scale)"),
    ("flow", "log_det - log_scale.sum(dim=1)", "log_det + log_scale.sum(dim=1)"),
    # matching and loss
    ("matcher", "- self.giou_weight * (iou", "+ self.giou_weight * (iou"),
    ("matcher", "= positive - negative", "= positive"),
    ("criterion", 'self.weights["l1"] * l1_loss / num_persons', "l1_loss / num_persons"),
    ("criterion", 'self.weights["keypoint"] * loss / valid.shape[1]', 'self.weights["keypoint"] * loss'),
    ("criterion", "boxes.boxes[stage].detach().flatten", "boxes.boxes[stage].flatten"),
    ("beyond_the_paper", "num_persons * copies, ", "num_persons, "),
    ("keypoint_loss", "targets, inside & (keypoints[..., 2] > 0)", "targets, keypoints[..., 2] > 0"),
    ("keypoint_loss", "torch.log(sigmas) - log_density + loss", "torch.log(sigmas) + log_density + loss"),
    ("keypoint_loss", "torch.where(valid, coordinates - targets, 0.0).float()", "(coordinates - targets).float()"),
    ("keypoint_loss", "(coordinates + 0.5) * size", "coordinates * size"),
    # stages
    ("box_stage", "weights=(2.0, 2.0, 1.0, 1.0)", "weights=(10.0, 10.0, 5.0, 5.0)"),
    ("decoder", "boxes = refined.detach()", "boxes = refined"),
    ("image_queries", "nn.init.zeros_(box_stage.box_delta.bias)", "pass"),
    ("image_queries", "center = torch.where(inside, center, -torch.inf)", "center = center + 0"),
    ("selective_iteration", "embedding_gate, query_gate = torch", "query_gate, embedding_gate = torch"),
    ("beyond_the_paper", "+ 0.5) / width - 0.5", "+ 0.5) / width"),
    ("beyond_the_paper", "persons * self.one_to_many.repeats", "persons"),
    ("part_heads", ".float()[:, self.part_of_keypoint]", ".float()[:, self.part_of_keypoint.flip(0)]"),
    ("part_heads", "self.coordinate_weight) / norm", "self.coordinate_weight)"),
    # results
    ("meta_arch", "probability * confidence.mean(dim=-1)", "probability"),
    ("onnx_predictor", "np.array([0.5, 0.5, 0.0], np.float32)", "np.array([0.0, 0.0, 0.0], np.float32)"),
    # data and files
    ("mapper", "keypoint_hflip_indices=self.flip_indices", "keypoint_hflip_indices=np.arange(num_keypoints)"),
    ("mapper", 'if annotation.get("iscrowd", 0):', "if False:"),
    ("safe_loading", "weights_only=True", "weights_only=False"),
    ("annotations", '"id": len(result.persons) + 1,', '"id": annotation.get("id"),'),
    ("annotations", "or area <= 0:", "or area < 0:"),
    ("bad_input", "if image.width * image.height > MAX_PIXELS:", "if False:"),
    ("bad_input", 'or ".." in parts or', "or"),
]


def mutate(package: Path, old: str, new: str) -> None:
    """Replace a text in the one file below a folder that holds it."""
    files = [file for file in package.rglob("*.py") if old in file.read_text()]
    if len(files) != 1:
        raise SystemExit(f"{len(files)} files have {old!r}: bring tests/mutations.py up to date")
    source = files[0].read_text().replace(old, new)
    compile(source, files[0], "exec")
    files[0].write_text(source)


def first_failure(test: str, old: str, new: str) -> str:
    """The first test that fails on the mutant, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "querypose", f"{folder}/querypose", ignore=shutil.ignore_patterns("__pycache__"))
        mutate(Path(folder), old, new)
        # -P: else the working folder's package would come before the copy
        command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        command.append(f"tests/test_{test}.py")
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    # 1 is pytest's code for tests that failed; others than 0 and 1 mean that it did not come to run them
    if done.returncode not in (0, 1):
        raise SystemExit(f"test_{test} did not run: {done.stdout}{done.stderr}")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0].split("/")[-1] if failed else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("numbers", type=int, nargs="*", help="of the mutants to run (default: all)")
    chosen = parser.parse_args().numbers or range(1, len(MUTANTS) + 1)
    survivors = 0
    print("| no. | instead of | there is | noticed by |\n|---|---|---|---|", flush=True)
    for number in chosen:
        test, old, new = MUTANTS[number - 1]
        failed = first_failure(test, old, new)
        survivors += not failed
        print(f"| {number} | `{old}` | `{new}` | {f'`{failed}`' if failed else '**nothing**'} |", flush=True)
    print(f"\n{len(chosen) - survivors} of {len(chosen)} mutants were noticed")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
