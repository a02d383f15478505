#!/usr/bin/env python
"""Write a model as one ONNX file: images in; boxes, scores and keypoints out.

Example:
    tools/export_onnx.py --config-file configs/quickstart.yaml --output quickstart.onnx \
        MODEL.WEIGHTS weights/quickstart.pth
"""

import argparse
import os
import statistics
import timeit
from pathlib import Path

import numpy as np
import torch

from querypose import PosePredictor
from querypose.errors import UserError, exit_on_user_error
from querypose.export import export_onnx
from querypose.export.onnx_export import DEFAULT_OPSET
from querypose.image_io import read_image_rgb
from querypose.onnx import OnnxPosePredictor

RUNS = 7


def compare(predictor: PosePredictor, file: Path, image: np.ndarray) -> str:
    """Run both on an image (H, W, 3), in turns and with as many threads; return a line on differences and times."""
    threads = torch.get_num_threads()
    exported = OnnxPosePredictor(file, score_threshold=predictor.score_threshold, num_threads=threads)
    expected, found = predictor(image), exported(image)
    seconds = [
        [timeit.timeit(lambda run=run: run(image), number=1) for run in (predictor, exported)] for _ in range(RUNS)
    ]
    with_torch, with_onnx = (statistics.median(times) * 1000 for times in zip(*seconds, strict=True))
    result = f"{len(found)} persons instead of {len(expected)}"
    if len(found) == len(expected):
        distance = np.abs(found.keypoints[..., :2] - expected.pred_keypoints[..., :2].numpy()).max(initial=0)
        result = f"{len(found)} persons, keypoints differ by at most {distance:.1e} pixels"
    return (
        f"{result}; {threads} threads, median of {RUNS}: PyTorch {with_torch:.0f} ms, ONNX Runtime {with_onnx:.0f} ms, "
        f"ratio {with_torch / with_onnx:.2f}"
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="KEY VALUE pairs override the config, for example MODEL.QUERYPOSE.TEST.TOPK_POSES 20 (light variant): "
        "at most 20 persons in an image.",
    )
    parser.add_argument("--config-file", metavar="FILE", help="the model's config (default: the small model)")
    parser.add_argument("--output", required=True, metavar="FILE.onnx", help="file to write")
    parser.add_argument("--opset", type=int, default=DEFAULT_OPSET, help=f"ONNX opset (default {DEFAULT_OPSET})")
    parser.add_argument("--compare", metavar="IMAGE", help="run the file and PyTorch on an image and compare them")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args(arguments)

    if os.path.exists(args.output):
        raise UserError(f"{args.output} exists; give another --output or remove it.")
    folder = os.path.dirname(os.path.abspath(args.output))
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write to the folder {folder}; make it or choose another --output.")
    image = read_image_rgb(args.compare) if args.compare else None
    predictor = PosePredictor(args.config_file, device="cpu", opts=args.opts)
    file = export_onnx(predictor.model, predictor.cfg, predictor.skeleton, args.output, opset=args.opset)
    print(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
    if image is not None:
        print(compare(predictor, file, image))


if __name__ == "__main__":
    with exit_on_user_error():
        main()
