#!/usr/bin/env python
r"""Write a model as one ONNX file: images in; boxes, scores and keypoints out.

Example:
    tools/export_onnx.py --config-file configs/quickstart.yaml --output quickstart.onnx \
        MODEL.WEIGHTS weights/quickstart.pth
"""

import statistics
import timeit
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from querypose import PosePredictor
from querypose.atomic_io import check_output_file
from querypose.cli import run_tool, tool_parser
from querypose.export import DEFAULT_OPSET, export_onnx
from querypose.image_io import read_image_rgb
from querypose.onnx import OnnxPosePredictor


def compare(predictor: PosePredictor, file: Path, image: np.ndarray) -> Iterator[str]:
    """Run the model in every installed runtime on an image (H, W, 3), in turns on as many threads; a line on each."""
    threads = torch.get_num_threads()
    runs = {"PyTorch, float32": predictor}
    for runtime, precision in (("openvino", "float32"), ("openvino", "auto"), ("onnxruntime", "float32")):
        if find_spec(runtime):
            run = OnnxPosePredictor(file, runtime=runtime, precision=precision, num_threads=threads)
            runs[f"{run.runtime}, {precision}"] = run
    expected = predictor(image)
    seconds = {name: [] for name in runs}
    for _ in range(7):
        for name, run in runs.items():
            seconds[name].append(timeit.timeit(lambda run=run: run(image), number=1))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, run in runs.items():
        found = run(image)
        line = f"{name}, {threads} threads: {1000 * medians[name]:.0f} ms, {len(found)} persons"
        if run is not predictor:
            line += f", {medians['PyTorch, float32'] / medians[name]:.1f} times as fast as PyTorch"
            if len(expected) and len(found):
                # rounding may change the order of the others
                distance = found.keypoints[..., :2] - expected.pred_keypoints[0, :, :2].numpy()
                pixels = np.abs(distance).max(axis=(1, 2)).min()
                line += f"; the best person's keypoints differ by at most {pixels:.1g} pixels"
        yield line


def main(arguments=None):
    parser = tool_parser(__doc__, model=True)
    add = parser.add_argument
    add("--output", required=True, metavar="FILE.onnx", help="file to write")
    add("--opset", type=int, default=DEFAULT_OPSET, help=f"ONNX opset (default {DEFAULT_OPSET})")
    add("--compare", metavar="IMAGE", help="run the file and PyTorch on an image, all persons")
    args = parser.parse_intermixed_args(arguments)

    check_output_file(args.output)
    image = read_image_rgb(args.compare) if args.compare else None
    predictor = PosePredictor(args.config_file, device="cpu", precision="float32", score_threshold=0.0, opts=args.opts)
    file = export_onnx(predictor.model, predictor.cfg, predictor.skeleton, args.output, opset=args.opset)
    print(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
    if image is not None:
        print("\n".join(compare(predictor, file, image)))


if __name__ == "__main__":
    run_tool(main)
