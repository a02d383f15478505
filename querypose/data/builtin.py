"""The data sets that QueryPose knows by name, besides Detectron2's own `keypoints_coco_2017_*`."""

import functools
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import builtin  # noqa: F401  (registers COCO)

from querypose.data.coco_keypoints import annotation_file, dataset_root, load_coco_keypoints, register_coco_keypoints
from querypose.data.crowdpose import register_crowdpose
from querypose.skeleton import Skeleton
from querypose.synthetic.dataset import CATEGORY, SPLIT_SIZES, VERSION, write_synthetic_people


def register_all(root: str | Path | None = None) -> None:
    """Register QueryPose's data sets with Detectron2; those that are registered already stay as they are.

    Detectron2's own `keypoints_coco_2017_*` are from now on loaded by QueryPose's loader.

    - `synthetic_people_{train,minitrain,val}`: synthetic people, rendered when they are first used.
    - `minicoco_train`, `minicoco_val`: a split of COCO val2017 (tools/prepare_minicoco.py).
    - `keypoints_coco_2017_test-dev`: COCO's test images, without annotations.
    - `crowdpose_train`, `crowdpose_val`, `crowdpose_trainval`, `crowdpose_test`.

    Args:
        root: folder of the data sets; default `DETECTRON2_DATASETS`, else `./datasets`.
    """
    root = Path(root) if root is not None else dataset_root()
    registered = DatasetCatalog.list()
    coco = Skeleton.from_metadata(MetadataCatalog.get("keypoints_coco_2017_val"))
    for name in ("keypoints_coco_2017_train", "keypoints_coco_2017_val", "keypoints_coco_2017_val_100"):
        DatasetCatalog.remove(name)
        image_root = MetadataCatalog.get(name).image_root
        DatasetCatalog.register(
            name, lambda name=name, root=image_root: load_coco_keypoints(annotation_file(name), root, name)
        )
    if "synthetic_people_train" not in registered:
        register_synthetic_people(root)
    if "minicoco_train" not in registered:
        for split in ("train", "val"):
            folder = root / "minicoco"
            register_coco_keypoints(
                f"minicoco_{split}", folder / f"person_keypoints_{split}.json", folder / split, coco
            )
    if "keypoints_coco_2017_test-dev" not in registered:
        register_coco_keypoints(
            "keypoints_coco_2017_test-dev",
            root / "coco" / "annotations" / "image_info_test-dev2017.json",
            root / "coco" / "test2017",
            coco,
            submission_split="test-dev2017",
        )
    if "crowdpose_train" not in registered:
        register_crowdpose(root)


def register_synthetic_people(root: Path) -> None:
    """Register `synthetic_people_*`, rendered into `<root>/synthetic_people/v<version>` when first used."""
    folder, skeleton = root / "synthetic_people" / f"v{VERSION}", Skeleton.from_coco_category(CATEGORY)
    for split, num_images in SPLIT_SIZES.items():
        register_coco_keypoints(
            f"synthetic_people_{split}",
            folder / "annotations" / f"person_keypoints_{split}.json",
            folder / split,
            skeleton,
            prepare=functools.partial(write_synthetic_people, folder, split, num_images),
        )
