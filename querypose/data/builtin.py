"""The data sets that QueryPose knows by name, besides Detectron2's own `keypoints_coco_2017_*`."""

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import builtin  # noqa: F401  (registers COCO)

from querypose.data.coco_keypoints import dataset_root, register_coco_keypoints
from querypose.data.crowdpose import register_crowdpose
from querypose.skeleton import Skeleton


def register_all(root=None):
    """Register QueryPose's data sets with Detectron2; those that are registered already stay as they are.

    - `synthetic_people_train`, `synthetic_people_val`: drawn figures, rendered when they are first used.
    - `minicoco_train`, `minicoco_val`: a split of COCO val2017 (tools/prepare_minicoco.py).
    - `keypoints_coco_2017_test-dev`: COCO's test images, without annotations.
    - `crowdpose_train`, `crowdpose_val`, `crowdpose_trainval`, `crowdpose_test`.

    Args:
        root: folder of the data sets; default `DETECTRON2_DATASETS`, else `./datasets`.
    """
    # Here, because the renderer is of no use to those who bring their own data.
    from querypose.synthetic.dataset import register_synthetic_people

    root = Path(root) if root is not None else dataset_root()
    registered = DatasetCatalog.list()
    if "synthetic_people_train" not in registered:
        register_synthetic_people(root)
    for split in ("train", "val"):
        if f"minicoco_{split}" not in registered:
            register_coco_keypoints(
                f"minicoco_{split}",
                root / "minicoco" / f"person_keypoints_{split}.json",
                root / "minicoco" / split,
                skeleton=Skeleton.from_metadata(MetadataCatalog.get("keypoints_coco_2017_val")),
            )
    if "keypoints_coco_2017_test-dev" not in registered:
        register_coco_keypoints(
            "keypoints_coco_2017_test-dev",
            root / "coco" / "annotations" / "image_info_test-dev2017.json",
            root / "coco" / "test2017",
            skeleton=Skeleton.from_metadata(MetadataCatalog.get("keypoints_coco_2017_val")),
            submission_split="test-dev2017",
        )
    if "crowdpose_train" not in registered:
        register_crowdpose(root)
