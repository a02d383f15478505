"""Malformed inputs by kind, as data: what is wrong, and words that the one sentence about it must have."""

import gzip
import io
import json
import struct
import zlib

import numpy as np
import torch
from evaluation_data import one_person
from PIL import Image

PREFIX = "MODEL.QUERYPOSE."


CONFIG_OVERRIDES = [
    # (overrides, words): the kind of a value
    (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER is 'many'; give a value such as its default 40000"),
    (["SOLVER.MAX_ITER", "1.5"], "SOLVER.MAX_ITER is 1.5; give a value"),
    (["SOLVER.MAX_ITER", "None"], "SOLVER.MAX_ITER is None"),
    (["SOLVER.MAX_ITER", "True"], "SOLVER.MAX_ITER is True"),
    (["SOLVER.BASE_LR", "fast"], "SOLVER.BASE_LR is 'fast'; give a value"),
    (["SOLVER.BASE_LR", "True"], "SOLVER.BASE_LR is True; give a value"),
    (["SOLVER.AMP.ENABLED", "1"], "SOLVER.AMP.ENABLED is 1; give a value such as its default False"),
    (["SOLVER.STEPS", "('a',)"], r"SOLVER.STEPS is \('a',\); give a value such as its default \(30000,\)"),
    (["SOLVER.WEIGHT_DECAY_NORM", "none"], "WEIGHT_DECAY_NORM is 'none'; give a number or None"),
    ([PREFIX + "LOSS", "2.0"], "LOSS is 2.0; give a value such as its keys, ATTENTION_WEIGHT, .*L1_WEIGHT"),
    # keys
    (["SOLVER.MAX_ITER"], "SOLVER.MAX_ITER has no value"),
    (["SOLVER.MAX_ITERS", "3"], "unknown key SOLVER.MAX_ITERS; valid there are .*MAX_ITER"),
    (["", "3"], "unknown key"),
    (["SOLVER.MAX_ITER.MORE", "3"], "SOLVER.MAX_ITER is {'MORE': '3'}"),
    ([PREFIX + "LOSS.WEIGHT", "2.0"], "unknown key MODEL.QUERYPOSE.LOSS.WEIGHT; valid there are .*L1_WEIGHT"),
    # numbers
    (["SOLVER.BASE_LR", "1e999"], "SOLVER.BASE_LR is inf; it must be finite"),
    (["SOLVER.BASE_LR", "-1e-3"], "SOLVER.BASE_LR is -0.001; it must be 0 or greater"),
    (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER is 0; it must be greater than 0"),
    (["SOLVER.STEPS", "(-5,)"], "SOLVER.STEPS is .* 0 or greater"),
    (["SOLVER.STEPS", "(30, 20)"], "each step must be greater than the one before"),
    (["MODEL.PIXEL_STD", "[1, 0, 1]"], "MODEL.PIXEL_STD is .* greater than 0"),
    (["MODEL.PIXEL_MEAN", "[1, 2]"], "MODEL.PIXEL_MEAN has 2 values; give 3"),
    ([PREFIX + "NUM_QUERIES", "0"], "NUM_QUERIES is 0; it must be greater than 0"),
    ([PREFIX + "NUM_HEADS", "3"], "multiple of NUM_HEADS 3"),
    ([PREFIX + "PART_DIM", "6", PREFIX + "NUM_HEADS", "2"], "PART_DIM 6 must be a multiple of 4"),
    ([PREFIX + "HIDDEN_DIM", "32"], "OUT_CHANNELS 16 must equal MODEL.QUERYPOSE.HIDDEN_DIM 32"),
    (["SOLVER.EMA", "1.5"], "SOLVER.EMA is 1.5; it must be less than 1"),
    (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"], "must hold the minimum and the maximum"),
    (["MODEL.FPN.NORM", "batch"], "MODEL.FPN.NORM is 'batch'; valid are .*GN"),
    (["MODEL.RESNETS.NORM", "batch"], "MODEL.RESNETS.NORM is 'batch'; valid are"),
    (["MODEL.FPN.FUSE_TYPE", "max"], "MODEL.FPN.FUSE_TYPE is 'max'; valid are avg, sum"),
    (["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "0"], "ROI_BOX_HEAD.POOLER_RESOLUTION is 0; it must be greater than 0"),
    (["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "(1,)"], "SOLVER.MAX_ITER 1 must be greater than their number"),
    (["INPUT.MIN_SIZE_TRAIN", "()"], "INPUT.MIN_SIZE_TRAIN is empty"),
    (["INPUT.CROP.RESIZE_BEFORE", "[]"], "INPUT.CROP.RESIZE_BEFORE is empty"),
    (["INPUT.CROP.SIZE", "[600, 384]"], "smaller size comes first"),
    (["INPUT.CROP.TYPE", "relative"], "at most 1"),
    # names
    (["SOLVER.OPTIMIZER", "ADAM"], "SOLVER.OPTIMIZER is 'ADAM'; valid are ADAMW, SGD"),
    (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE is 'gpu'"),
    (["MODEL.DEVICE", "xpu"], "MODEL.DEVICE is 'xpu', which PyTorch does not find here"),
    (["MODEL.DEVICE", "cuda:99"], "MODEL.DEVICE is 'cuda:99', which PyTorch does not find here"),
    (["MODEL.BACKBONE.NAME", "resnet50"], "valid are .*build_resnet_fpn_backbone"),
    (["MODEL.LOAD_PROPOSALS", "True"], "LOAD_PROPOSALS is True; valid are False"),
    (["MODEL.CHANNELS_LAST", "auto"], "CHANNELS_LAST is 'auto'; valid are False, None, True"),
    (["MODEL.TIMM.OPTIONS.checkpoint_path", "/tmp/a.pth"], "checkpoint_path is not supported"),
    (["MODEL.TIMM.NAME", "resnet_unknown"], "timm"),
    ([PREFIX + "QUERY_INTERACTION", "Attention"], "QUERY_INTERACTION is 'Attention'; valid are Dynamic"),
    ([PREFIX + "KEYPOINT_STAGE", "PooledKeypointStage", PREFIX + "VARIANT", "full"], "set VARIANT to light"),
    ([PREFIX + "KEYPOINT_STAGE", "InstanceKeypointStage"], "'light'; set VARIANT to full or branched"),
    (
        [PREFIX + "LOSS.ATTENTION_WEIGHT", "1.0", PREFIX + "PART_EMBEDDING", "PartSelfAttention"],
        "needs attention maps, and PART_EMBEDDING 'PartSelfAttention' makes none",
    ),
    ([PREFIX + "PART_GROUPS", "[['head']]"], "PART_GROUPS leaves out left_hand"),
    ([PREFIX + "PART_GROUPS", "[1, 2]"], "PART_GROUPS .* list of lists"),
    ([PREFIX + "PART_GROUPS", "[['tail']]"], "tail"),
    ([PREFIX + "SKELETON.KEYPOINT_NAMES", "['a', 'a']"], "distinct keypoint names"),
    ([PREFIX + "SKELETON.KEYPOINT_NAMES", "['a']", PREFIX + "SKELETON.FLIP_PAIRS", "[1]"], "pairs of names"),
    ([PREFIX + "SKELETON.KEYPOINT_NAMES", "['a']", PREFIX + "SKELETON.LIMBS", "[[0, 7]]"], "limb"),
    # data sets
    (["DATASETS.TRAIN", "()", "DATASETS.TEST", "()"], "names no data set"),
    (["DATASETS.TRAIN", "keypoints_coco_2071_train"], "did you mean"),
    (["DATASETS.TRAIN", "('nowhere.json@images',)"], "nowhere.json does not exist"),
    (["TEST.KEYPOINT_OKS_SIGMAS", "[0.1]"], "OKS sigmas"),
]


CONFIG_FILES = {
    "": "does not hold keys",
    "MODEL: [": "while parsing",
    "- a\n- b\n": "does not hold keys",
    "just words": "does not hold keys",
    "MODEL: 3\n": "MODEL is 3; give a value such as its keys",
    "MODLE:\n  X: 1\n": "unknown key MODLE",
    "SOLVER:\n  BASE_LR: .nan\n": "BASE_LR is nan",
    "SOLVER:\n  MAX_ITER:\n": "MAX_ITER is None",
    "_BASE_: missing.yaml\n": "missing.yaml",
    "_BASE_: broken.yaml\n": "its own _BASE_",
    "\tSOLVER: 1\n": "",
    "MODEL: {QUERYPOSE: {VARIANT: !!python/object/apply:os.mkdir ['run']}}\n": "could not determine a constructor",
    b"\xff\xfe\x00\x01": "",
}


def annotations():
    """(content of an annotation file of one person, words)."""

    def changed(**entries):
        content = one_person()[0]
        for place, value in entries.items():
            kind, _, key = place.partition("__")
            entry = content[kind][0] if key else content
            if value is KeyError:
                del entry[key or kind]
            else:
                entry[key or kind] = value
        return content

    keypoints = one_person()[0]["annotations"][0]["keypoints"]
    good = json.dumps(one_person()[0])
    yield from [
        (b"", "not valid JSON"),
        (good[:200].encode(), "not valid JSON"),
        (gzip.compress(good.encode()), "not valid JSON .*not compressed"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "not in COCO format"),
        (b"{}", "needs an object with a list 'images'"),
        (changed(images=[3]), "'images' must be a list"),
        (changed(images=[]), "lists no images"),
        (changed(annotations="none"), "'annotations' must be a list"),
        (changed(categories=3), "'categories' must be a list"),
        (changed(categories=[]), "no category with keypoints"),
        (changed(categories__id=KeyError), "needs an 'id'"),
        (changed(categories__id="person"), "which no category has"),
        (changed(categories__keypoints=5), "list of names"),
        (changed(categories__keypoints=[1, 2]), "needs a list `keypoints` of names"),
        (changed(categories__keypoints=["a"]), "OKS sigmas"),
        (changed(categories__skeleton=[[1]]), "`skeleton` as pairs"),
        (changed(categories__sigmas=0.1), "`sigmas` as numbers"),
        (changed(categories__flip_pairs=5), "`flip_pairs` as pairs"),
        (changed(categories__flip_pairs=[["head", "tail"]]), "tail"),
        (changed(categories=2 * one_person()[0]["categories"]), "several categories"),
        (changed(images__id=KeyError), "needs an id"),
        (changed(images__id=[1]), "needs an id .a whole number or text"),
        (changed(images__file_name=KeyError), "a file_name"),
        (changed(images__file_name=3), "names the image 3"),
        (changed(images__file_name="../../etc/passwd"), "not within the image folder"),
        (changed(images__file_name="/etc/passwd"), "not within the image folder"),
        (changed(images__file_name="C:\\boot.ini"), "not within the image folder"),
        (changed(images__file_name="a\\..\\b.jpg"), "not within the image folder"),
        (changed(images__width="640"), "width and height in pixels"),
        (changed(images__height=-5), "width and height in pixels"),
        (changed(images__height=float("nan")), "width and height in pixels"),
        (changed(images=2 * one_person()[0]["images"]), "occurs twice"),
        (changed(annotations__image_id=None), "left out: unknown image 1"),
        (changed(annotations__category_id=KeyError), "has no 'category_id'"),
        (changed(annotations__category_id=99), "category_id 99, which no category has"),
        (changed(annotations__bbox=[1, 2, 3]), "instead of four numbers"),
        (changed(annotations__bbox=[1, 2, float("nan"), 4]), "instead of four numbers"),
        (changed(annotations__bbox=[1, 2, 10**400, 4]), "instead of four numbers"),
        (changed(annotations__bbox=[1, 2, None, 4]), "instead of four numbers"),
        (changed(annotations__keypoints=keypoints[:-1]), "8 keypoint values instead of"),
        (changed(annotations__keypoints=[*keypoints[:-1], float("inf")]), "not finite numbers"),
        (changed(annotations__keypoints=[*keypoints[:-1], "2"]), "not finite numbers"),
        (changed(annotations__keypoints={"nose": 1}), "instead of a list"),
        (changed(annotations__iscrowd=1), "0 of 1 persons used; left out: crowd 1; no person is left"),
        (changed(annotations__bbox=[5, 5, 0, 7]), "left out: box without size 1"),
        (changed(annotations__image_id=77), "left out: unknown image 1"),
    ]


def results():
    """(content of a file of results, words)."""

    def changed(**entries):
        result = json.loads(json.dumps(one_person()[1]))
        for key, value in entries.items():
            if value is KeyError:
                del result[0][key]
            else:
                result[0][key] = value
        return result

    yield from [
        (b"", "not valid JSON"),
        (b"{}", "not a list"),
        (b"[3]", "entry 0"),
        (changed(image_id=77), "image 77"),
        (changed(image_id=[1]), "which is not in the data set"),
        (changed(category_id=5), "category_id 5"),
        (changed(score=KeyError), "has no 'score'"),
        (changed(score="high"), "not finite numbers"),
        (changed(score=float("nan")), "not finite numbers"),
        (changed(bbox=[1, 2]), "2 values instead of 4"),
        (changed(bbox=[1, 2, 3, -4]), "a box of negative size"),
        (changed(keypoints="all"), "instead of"),
    ]


def images():
    """(name, bytes of a file, words)."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))

    def saved(kind):
        stream = io.BytesIO()
        picture.save(stream, kind)
        return stream.getvalue()

    def png(width, height, data=b""):
        def chunk(kind, content):
            checksum = struct.pack(">I", zlib.crc32(kind + content))
            return struct.pack(">I", len(content)) + kind + content + checksum

        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")

    jpeg = saved("JPEG")
    yield from [
        ("text.jpg", b"not a picture", "damaged or no image"),
        ("cut.jpg", jpeg[: len(jpeg) // 2], "damaged or no image"),
        ("cut.png", saved("PNG")[:300], "damaged or no image"),
        ("cut.webp", saved("WEBP")[:300], "damaged or no image"),
        ("header.jpg", jpeg[:20], "damaged or no image"),
        ("no_data.png", png(64, 64), "damaged or no image"),
        ("large.png", png(12_000, 12_000), "more than 100 million pixels"),
        ("bomb.png", png(60_000, 60_000, bytes(10_000_000)), "million pixels"),
        ("postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "damaged or no image"),
    ]


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        import os

        return os.mkdir, (self.folder,)


def checkpoints(folder, model):
    """(path, words): files below `folder`, of which those with code would make the folder `run` there."""

    def saved(name, content, cut=None):
        torch.save(content, folder / name)
        if cut is not None:
            (folder / name).write_bytes((folder / name).read_bytes()[:cut])
        return folder / name

    def written(name, content):
        (folder / name).write_bytes(content)
        return folder / name

    state = model.state_dict()
    first = next(name for name, _ in model.named_parameters() if "decoder" in name)
    (folder / "directory.pth").mkdir()
    yield from [
        (folder / "absent.pth", "absent.pth"),
        (folder / "directory.pth", "directory.pth"),
        (written("empty.pth", b""), "empty.pth"),
        (written("text.pth", b"<html>weights"), "it begins with b'<html>weights'"),
        (written("zip.pth", b"PK\x05\x06" + bytes(18)), "zip.pth"),
        (saved("cut.pth", {"model": state}, cut=20_000), "cut.pth"),
        (saved("list.pth", [torch.zeros(1)]), "holds no|cannot be read"),
        (saved("number.pth", 3), "holds no|cannot be read"),
        (saved("nothing.pth", {"model": {}}), "holds no|cannot be read"),
        (saved("words.pth", {"model": {"weight": "one"}}), "holds (no|str)"),
        (saved("other.pth", {"model": {"conv.weight": torch.zeros(3)}}), "another model|lack|not|holds"),
        (saved("code.pth", {"model": state, "extra": Code(folder / "run")}), "would run code"),
        (saved("shapes.pth", {"model": {**state, first: torch.zeros(2, 3)}}), "shape|other|not"),
        (
            saved("nan.pth", {"model": {**state, first: state[first] * float("nan")}}),
            f"hold NaN or infinity, first {first}",
        ),
        (saved("half.pth", {"model": dict(list(state.items())[: len(state) // 2])}), "lack|not|misses"),
    ]
