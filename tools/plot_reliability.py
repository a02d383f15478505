#!/usr/bin/env python3
"""Compare predicted sigmas of keypoints with real errors on a data set, and find the factor that makes them agree.

Example, the small model on Mini-COCO:
    python tools/plot_reliability.py --dataset minicoco_val --output reliability.png

The factor is found on one half of the images and tested on the other.
"""

from querypose import PosePredictor
from querypose.cli import run_tool, tool_parser
from querypose.data.annotations import image_path
from querypose.data.coco_keypoints import resolve_dataset
from querypose.errors import UserError
from querypose.evaluation.ground_truth import load_ground_truth
from querypose.evaluation.reliability import fit_temperature, halves, keypoint_deviations, reliability
from querypose.structures import SCORE_THRESHOLD
from querypose.visualization.plots import plot_reliability


def main(arguments=None):
    parser = tool_parser(__doc__, model=True)
    add = parser.add_argument
    add("--dataset", required=True, help="a registered data set, or an annotation file FILE.json or FILE.json@IMAGES")
    add("--output", required=True, metavar="PNG", help="the plot to write: .png, .svg or .pdf")
    add("--score-threshold", type=float, default=SCORE_THRESHOLD, help="of the persons to use (default %(default)s)")
    add("--seed", type=int, default=0, help="of the division into halves (default 0)")
    args = parser.parse_intermixed_args(arguments)
    if args.seed < 0:
        parser.error("--seed must be at least 0")

    from detectron2.data import MetadataCatalog  # before querypose it would print a warning

    image_root = MetadataCatalog.get(resolve_dataset(args.dataset)).image_root
    truth = load_ground_truth(args.dataset)
    predict = PosePredictor(args.config_file, score_threshold=args.score_threshold, precision="float32", opts=args.opts)
    if predict.skeleton.keypoint_names != truth.skeleton.keypoint_names:
        raise UserError(f"{args.dataset} has other keypoints than the model; give the --config-file of its model")
    images = truth.content["images"]
    found = predict.stream(image_path(image_root, image["file_name"]) for image in images)
    results = []
    for image, persons in zip(images, found, strict=True):
        results += persons.to_coco(image["id"], category_id=truth.category_id)
    if not results:
        raise UserError(f"no persons found in {args.dataset}; give a lower --score-threshold")

    sigmas, errors, sides, images = keypoint_deviations(truth, results)
    first, second = halves(images, args.seed)
    factor = fit_temperature(sigmas[first], errors[first])
    before, after = (reliability(scale * sigmas[second], errors[second]) for scale in (1.0, factor))
    in_boxes = reliability(sigmas[second] / sides[second], errors[second] / sides[second])
    plot_reliability({"sigma": before, f"{factor:.3f} sigma": after}, args.output)
    print(f"factor {factor:.3f} from {first.sum()} coordinates of half of the images; on {second.sum()} of the others:")
    print(f"ENCE {before.ence:.2f}, with the factor {after.ence:.2f}")
    print(f"rank correlation {before.rank_correlation:.2f}, in units of the box {in_boxes.rank_correlation:.2f}")
    print("bin: sigma, with the factor, real error (root mean squares in pixels)")
    for number, row in enumerate(zip(before.predicted, after.predicted, before.real, strict=True), start=1):
        print(f"{number:3}: " + " ".join(f"{value:7.2f}" for value in row))
    print(f"plot written to {args.output}")


if __name__ == "__main__":
    run_tool(main)
