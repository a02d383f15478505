"""Overfitting sanity check: a correct chain of data, model and losses reaches keypoint AP 90 and more on a few images.

    python tools/overfit.py --dataset train.json@images [--num-images 16] [KEY VALUE ..]

Takes the first photographs with two to six persons, all with labeled keypoints, trains configs/overfit.yaml on them
without augmentation and evaluates on the same ones.
"""

import json
from pathlib import Path

from querypose import PosePredictor  # first: it silences a warning of fvcore's
from querypose.cli import run_tool, tool_parser

# isort: split
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from querypose.atomic_io import make_output_folder
from querypose.data.annotations import read_annotations
from querypose.data.coco_keypoints import annotation_file
from querypose.engine import train_net
from querypose.errors import UserError
from querypose.setup_config import setup_config
from querypose.visualization.sheets import prediction_sheet

CONFIG = Path(__file__).resolve().parents[1] / "configs/overfit.yaml"
MIN_AREA = 48**2  # pixels; smaller persons cover only a few locations of the feature map
MIN_KEYPOINTS = 5


def main() -> None:
    parser = tool_parser(__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True, help="COCO-format keypoint file, FILE.json or FILE.json@IMAGES")
    parser.add_argument("--num-images", type=int, default=16, help="how many photographs (default 16)")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args()

    if args.num_images < 1:
        raise UserError(f"--num-images {args.num_images} must be at least 1")
    cfg = setup_config(str(CONFIG), ["DATASETS.TRAIN", repr((args.dataset,)), *args.opts])
    if not args.resume:
        train_net.refuse_existing_run(cfg.OUTPUT_DIR)
    output = make_output_folder(cfg.OUTPUT_DIR, "OUTPUT_DIR")
    subset = write_subset(args.dataset, args.num_images, output / "photographs.json")
    dataset = f"{subset}@{MetadataCatalog.get(args.dataset).image_root}"

    flags = ["--config-file", str(CONFIG), *(["--resume"] if args.resume else [])]
    opts = [*args.opts, "DATASETS.TRAIN", repr((dataset,)), "DATASETS.TEST", repr((dataset,))]
    results = train_net.main(train_net.parser().parse_args([*flags, *opts]))
    predictor = PosePredictor(output / "config.yaml", output / "model_final.pth")
    sheet = prediction_sheet(DatasetCatalog.get(dataset), {"prediction": predictor}, predictor.skeleton)
    Image.fromarray(sheet).save(output / "predictions.png")
    print(
        f"keypoint AP {results['keypoints']['AP']:.1f}, box AP {results['bbox']['AP']:.1f} on the {args.num_images} "
        f"photographs that it was trained on, after {cfg.SOLVER.MAX_ITER} iterations; see {output}/predictions.png"
    )


def write_subset(dataset: str, num_images: int, path: Path) -> Path:
    """Write the annotations of the first suitable photographs, with all their persons; returns the path."""
    file = read_annotations(annotation_file(dataset))
    min_keypoints = min(MIN_KEYPOINTS, len(file.category["keypoints"]) if file.category else 0)
    persons = {image["id"]: [] for image in file.images}
    for person in file.persons:
        persons[person["image_id"]].append(person)

    def suits(person):
        return person["num_keypoints"] >= min_keypoints and person["area"] >= MIN_AREA and not person["iscrowd"]

    chosen = [here for here in persons.values() if 2 <= len(here) <= 6 and all(map(suits, here))][:num_images]
    if len(chosen) < num_images:
        raise UserError(
            f"{dataset} has {len(chosen)} suitable photographs, of 2 to 6 persons, each with {min_keypoints} labeled "
            f"keypoints and {MIN_AREA} square pixels; set --num-images or use others"
        )
    annotations = [person for here in chosen for person in here]
    ids = {person["image_id"] for person in annotations}
    images = [image for image in file.images if image["id"] in ids]
    path.write_text(json.dumps({"images": images, "categories": [file.category], "annotations": annotations}))
    return path


if __name__ == "__main__":
    run_tool(main)
