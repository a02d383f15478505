"""The data sets that QueryPose knows by name, besides Detectron2's own `keypoints_coco_2017_*`."""

import functools
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import builtin  # noqa: F401  (registers COCO)

from querypose.data.coco_keypoints import dataset_root, load_coco_keypoints, register_coco_keypoints
from querypose.data.crowdpose import CROWDPOSE_SKELETON, CROWDPOSE_SPLITS
from querypose.skeleton import Skeleton
from querypose.synthetic.dataset import CATEGORY, SPLIT_SIZES, VERSION, write_synthetic_people


def register_all() -> None:
    """Register QueryPose's data sets, in the folder `dataset_root()`; those that are registered already stay.

    Detectron2's own `keypoints_coco_2017_*` are from now on loaded by QueryPose's loader.
    """
    root = dataset_root()
    for name in ("keypoints_coco_2017_train", "keypoints_coco_2017_val", "keypoints_coco_2017_val_100"):
        DatasetCatalog.remove(name)
        DatasetCatalog.register(name, functools.partial(load_coco_keypoints, name))
    folder, skeleton = root / "synthetic_people" / f"v{VERSION}", Skeleton.from_coco_category(CATEGORY)
    for split, num_images in SPLIT_SIZES.items():  # rendered when they are first used
        prepare = functools.partial(write_synthetic_people, folder, split, num_images)
        file = folder / "annotations" / f"person_keypoints_{split}.json"
        _register(f"synthetic_people_{split}", file, folder / split, skeleton, prepare=prepare)
    coco = Skeleton.from_metadata(MetadataCatalog.get("keypoints_coco_2017_val"))
    for split in ("train", "val"):
        file = root / "minicoco" / f"person_keypoints_{split}.json"
        _register(f"minicoco_{split}", file, root / "minicoco" / split, coco)
    name, file = "keypoints_coco_2017_test-dev", root / "coco" / "annotations" / "image_info_test-dev2017.json"
    _register(name, file, root / "coco" / "test2017", coco, submission_split="test-dev2017")
    for split in CROWDPOSE_SPLITS:
        folder, name = root / "crowdpose", f"crowdpose_{split}"
        file = folder / "annotations" / f"{name}.json"
        _register(name, file, folder / "images", CROWDPOSE_SKELETON, evaluator_type="crowdpose")


def _register(name: str, *arguments: Any, **metadata: Any) -> None:
    if name not in DatasetCatalog.list():
        register_coco_keypoints(name, *arguments, **metadata)
