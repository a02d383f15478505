"""Malformed inputs by kind, as data: what is wrong, and words that the one sentence about it must have."""

import gzip
import io
import json
import os

import numpy as np
import torch
from evaluation_data import one_person
from PIL import Image

PREFIX = "MODEL.QUERYPOSE."
CONFIG_OVERRIDES = [
    # (overrides, words): the kind of a value
    (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER is 'many'; give a value such as its default 40000"),
    (["SOLVER.MAX_ITER", "1.5"], "SOLVER.MAX_ITER is 1.5; give a value"),
    (["SOLVER.MAX_ITER", "True"], "SOLVER.MAX_ITER is True"),
    (["SOLVER.AMP.ENABLED", "1"], "SOLVER.AMP.ENABLED is 1; give a value such as its default False"),
    (["SOLVER.STEPS", "('a',)"], r"SOLVER.STEPS is \('a',\); give a value such as its default \(30000,\)"),
    (["SOLVER.WEIGHT_DECAY_NORM", "none"], "WEIGHT_DECAY_NORM is 'none'; give a number or None"),
    ([PREFIX + "LOSS", "2.0"], "LOSS is 2.0; give a value such as its keys, ATTENTION_WEIGHT, .*L1_WEIGHT"),
    # keys
    (["SOLVER.MAX_ITER"], "SOLVER.MAX_ITER has no value"),
    (["SOLVER.MAX_ITER.MORE", "3"], "SOLVER.MAX_ITER is {'MORE': '3'}"),
    ([PREFIX + "LOSS.WEIGHT", "2.0"], "unknown key MODEL.QUERYPOSE.LOSS.WEIGHT; valid there are .*L1_WEIGHT"),
    # numbers
    (["SOLVER.BASE_LR", "1e999"], "SOLVER.BASE_LR is inf; it must be finite"),
    (["SOLVER.BASE_LR", "-1e-3"], "SOLVER.BASE_LR is -0.001; it must be 0 or greater"),
    (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER is 0; it must be greater than 0"),
    (["SOLVER.STEPS", "(30, 20)"], "each step must be greater than the one before"),
    (["MODEL.PIXEL_STD", "[1, 0, 1]"], "MODEL.PIXEL_STD is .* greater than 0"),
    (["MODEL.PIXEL_MEAN", "[1, 2]"], "MODEL.PIXEL_MEAN has 2 values; give 3"),
    ([PREFIX + "NUM_QUERIES", "0"], "NUM_QUERIES is 0; it must be greater than 0"),
    ([PREFIX + "NUM_HEADS", "3"], "multiple of NUM_HEADS 3"),
    ([PREFIX + "PART_DIM", "6", PREFIX + "NUM_HEADS", "2"], "PART_DIM 6 must be a multiple of 4"),
    ([PREFIX + "HIDDEN_DIM", "32"], "OUT_CHANNELS 16 must equal MODEL.QUERYPOSE.HIDDEN_DIM 32"),
    (["SOLVER.EMA", "1.5"], "SOLVER.EMA is 1.5; it must be less than 1"),
    ([PREFIX + "TEST.TOPK_POSES", "2.5"], "TOPK_POSES is 2.5; it must be a whole number"),
    (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"], "must hold the minimum and the maximum"),
    (["MODEL.FPN.NORM", "batch"], "MODEL.FPN.NORM is 'batch'; valid are .*GN"),
    (["DATASETS.TEST", "(1,)"], r"DATASETS.TEST is \(1,\); give names"),
    (["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"], "MODEL.RESNETS.OUT_FEATURES lacks"),
    (["MODEL.TIMM.OPTIONS.pretrained", "True"], "cannot be built with its keys .*TypeError"),
    (["SEED", "4294967296"], "SEED is 4294967296; it must be less than"),
    (["INPUT.CROP.SIZE", "[0, 0]"], "INPUT.CROP.SIZE is .* greater than 0"),
    (["SOLVER.REFERENCE_WORLD_SIZE", "3"], "must be a multiple of SOLVER.REFERENCE_WORLD_SIZE"),
    (["TEST.EXPECTED_RESULTS", "[0]"], "must be a list of .task, metric"),
    (["TEST.PRECISE_BN.ENABLED", "True"], "PRECISE_BN is not supported in training"),
    ([PREFIX + "SKELETON.SIGMAS", "[1, 1, 1]"], "SKELETON needs KEYPOINT_NAMES"),
    (["MODEL.FPN.NORM", "GN"], "OUT_CHANNELS 16 must be a multiple of 32 with MODEL.FPN.NORM 'GN'"),
    (["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "(1,)"], "SOLVER.MAX_ITER 1 must be greater than their number"),
    (["INPUT.MIN_SIZE_TRAIN", "()"], "INPUT.MIN_SIZE_TRAIN is empty"),
    (["INPUT.CROP.SIZE", "[600, 384]"], "smaller size comes first"),
    (["INPUT.CROP.TYPE", "relative"], "at most 1"),
    (["SOLVER.IMS_PER_BATCH", "8", "SOLVER.ACCUMULATION_STEPS", "3"], "must be a multiple of 3 .1 processes x 3 "),
    # names
    (["SOLVER.OPTIMIZER", "ADAM"], "SOLVER.OPTIMIZER is 'ADAM'; valid are ADAMW, SGD"),
    (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE is 'gpu'"),
    (["MODEL.DEVICE", "hpu"], "MODEL.DEVICE is 'hpu'"),
    (["SOLVER.ACCUMULATION_STEPS", "2", "MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], "STEPS needs .*'QueryPose'"),
    (["MODEL.DEVICE", "cuda:99"], "MODEL.DEVICE is 'cuda:99', which PyTorch does not find here"),
    (["MODEL.LOAD_PROPOSALS", "True"], "LOAD_PROPOSALS is True; valid are False"),
    (["MODEL.CHANNELS_LAST", "auto"], "CHANNELS_LAST is 'auto'; valid are False, None, True"),
    (["MODEL.TIMM.OPTIONS.checkpoint_path", "/tmp/a.pth"], "checkpoint_path is not supported"),
    (["MODEL.TIMM.NAME", "resnet_unknown"], "timm"),
    ([PREFIX + "QUERY_INTERACTION", "Attention"], "QUERY_INTERACTION is 'Attention'; valid are Dynamic"),
    ([PREFIX + "KEYPOINT_STAGE", "PooledKeypointStage", PREFIX + "VARIANT", "full"], "set VARIANT to light"),
    ([PREFIX + "LOSS.ATTENTION_WEIGHT", "1.0", PREFIX + "PART_EMBEDDING", "PartSelfAttention"], "need attention maps"),
    ([PREFIX + "ANCHORED_COORDINATES", "True", PREFIX + "KEYPOINT_STAGE", "PooledKeypointStage"], "need attention"),
    ([PREFIX + "VARIANT", "full", PREFIX + "TRAIN_QUERIES", "matched"], "'matched' needs VARIANT 'light' or"),
    ([PREFIX + "PART_GROUPS", "[1, 2]"], "PART_GROUPS .* list of lists"),
    ([PREFIX + "SKELETON.KEYPOINT_NAMES", "['a', 'a']"], "distinct keypoint names"),
    ([PREFIX + "SKELETON.KEYPOINT_NAMES", "['a']", PREFIX + "SKELETON.FLIP_PAIRS", "[1]"], "pairs of names"),
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
    "MODEL: 3\n": "MODEL is 3; give a value such as its keys",
    "MODLE:\n  X: 1\n": "unknown key MODLE",
    "SOLVER:\n  BASE_LR: .nan\n": "BASE_LR is nan",
    "SOLVER:\n  MAX_ITER:\n": "MAX_ITER is None",
    "_BASE_: missing.yaml\n": "missing.yaml",
    "_BASE_: broken.yaml\n": "its own _BASE_",
    "MODEL: {QUERYPOSE: {VARIANT: !!python/object/apply:os.mkdir ['run']}}\n": "could not determine a constructor",
    b"\xff\xfe\x00\x01": "",
}


def annotations(**changes):
    """The content of an annotation file of one person, with changes such as `images`, or `images__id` of the first."""
    content = one_person()[0]
    for place, value in changes.items():
        kind, _, key = place.partition("__")
        entry = content[kind][0] if key else content
        entry[key or kind] = value
        if value is KeyError:
            del entry[key or kind]
    return content


KEYPOINTS = annotations()["annotations"][0]["keypoints"]
GOOD = json.dumps(annotations())
ANNOTATIONS = [
    (GOOD[:200].encode(), "not valid JSON"),
    (gzip.compress(GOOD.encode()), "not valid JSON .*not compressed"),
    (b"[" * 100_000, "not valid JSON"),
    (b"[]", "not in COCO format"),
    (annotations(images=[3]), "'images' must be a list"),
    (annotations(images=[]), "lists no images"),
    (annotations(categories=[]), "no category with keypoints"),
    (annotations(categories__id=KeyError), "needs an 'id'"),
    (annotations(categories__id="person"), "which no category has"),
    (annotations(categories__keypoints=[1, 2]), "needs a list `keypoints` of names"),
    (annotations(categories__keypoints=["a"]), "OKS sigmas"),
    (annotations(categories__skeleton=[[1]]), "`skeleton` as pairs"),
    (annotations(categories=2 * annotations()["categories"]), "several categories"),
    (annotations(images__id=KeyError), "needs an id"),
    (annotations(images__file_name=KeyError), "a file_name"),
    (annotations(images__file_name=3), "names the image 3"),
    (annotations(images__width="640"), "width and height in pixels"),
    (annotations(images__height=-5), "width and height in pixels"),
    (annotations(images=2 * annotations()["images"]), "occurs twice"),
    (annotations(annotations__category_id=KeyError), "has no 'category_id'"),
    (annotations(annotations__keypoints=KEYPOINTS[:-1]), "8 keypoint values instead of"),
    (annotations(annotations__keypoints=[*KEYPOINTS[:-1], float("inf")]), "not finite numbers"),
    (annotations(annotations__keypoints={"nose": 1}), "instead of a list"),
    (annotations(annotations__keypoints=[]), "has a person with 1 labeled keypoints .* to train on"),
    (annotations(annotations__iscrowd=1), "0 of 1 persons used; left out: crowd 1; no person is left"),
    (annotations(annotations__bbox=[5, 5, 0, 7]), "left out: box without size 1"),
    (annotations(annotations__image_id=77), "left out: unknown image 1"),
]
FOREIGN = ("../../etc/passwd", "/etc/passwd", "C:\\boot.ini", "a\\..\\b.jpg")
ANNOTATIONS += [(annotations(images__file_name=name), "not within the image folder") for name in FOREIGN]
BOXES = ([1, 2, 3], [1, 2, float("nan"), 4], [1, 2, 10**400, 4], [1, 2, None, 4], 4 * [True], [0, 0, 1e200, 9])
ANNOTATIONS += [(annotations(annotations__bbox=box), "instead of four numbers") for box in BOXES]

RESULT = one_person()[1][0]
RESULTS = [
    (b"{}", "not a list"),
    (b"[3]", "entry 0"),
    ([{**RESULT, "image_id": 77}], "image 77"),
    ([{**RESULT, "category_id": 5}], "category_id 5"),
    ([{key: value for key, value in RESULT.items() if key != "score"}], "has no 'score'"),
    ([{**RESULT, "score": float("nan")}], "not finite numbers"),
    ([{**RESULT, "bbox": [1, 2]}], "2 values instead of 4"),
    ([{**RESULT, "bbox": [1, 2, 3, -4]}], "a box of negative size"),
    ([{**RESULT, "keypoints": "all"}], "instead of"),
]


def saved(kind, picture):
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


def images():
    """(name, bytes of a file, words)."""
    noise = Image.effect_noise((96, 64), 80)
    yield from [
        ("text.jpg", b"not a picture", "damaged or no image"),
        ("cut.jpg", saved("JPEG", noise)[:2000], "damaged or no image"),
        ("cut.png", saved("PNG", noise)[:300], "damaged or no image"),
        ("cut.webp", saved("WEBP", noise)[:300], "damaged or no image"),
        ("large.png", saved("PNG", Image.new("1", (12_000, 12_000))), "more than 100 million pixels"),
        ("bomb.png", saved("PNG", Image.new("1", (14_000, 14_000))), "million pixels"),
        ("postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "damaged or no image"),
    ]


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def checkpoints(folder, model):
    """(path, words): files below `folder`, of which those with code would make the folder `run` there."""
    state = model.state_dict()
    first = next(name for name, _ in model.named_parameters() if "decoder" in name)
    whole = io.BytesIO()
    torch.save({"model": state}, whole)
    (folder / "directory.pth").mkdir()
    for name, content, words in (
        ("absent.pth", None, "absent.pth"),
        ("directory.pth", None, "directory.pth"),
        ("empty.pth", b"", "empty.pth"),
        ("text.pth", b"<html>weights", "it begins with b'<html>weights'"),
        ("zip.pth", b"PK\x05\x06" + bytes(18), "zip.pth"),
        ("code.pkl", b"cos\nmkdir\n(S'run'\ntR.", r"would run code \(os.mkdir\)"),
        ("cut.pth", whole.getvalue()[:20_000], "cut.pth"),
        ("list.pth", [torch.zeros(1)], "holds no|cannot be read"),
        ("nothing.pth", {"model": {}}, "holds no|cannot be read"),
        ("other.pth", {"model": {"conv.weight": torch.zeros(3)}}, "another model|lack|not|holds"),
        ("code.pth", {"model": state, "extra": Code(folder / "run")}, "would run code"),
        ("shapes.pth", {"model": {**state, first: torch.zeros(2, 3)}}, "shape|other|not"),
        ("nan.pth", {"model": {**state, first: state[first] * np.nan}}, f"hold NaN or infinity, first {first}"),
        ("half.pth", {"model": dict(list(state.items())[: len(state) // 2])}, "lack|not|misses"),
        ("parameters.pth", {"model": dict(model.named_parameters())}, "lack|not|misses"),
        ("more.pth", {"model": {**state, "decoder.more.weight": torch.zeros(3)}}, "no place|misses|not"),
    ):
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        elif content is not None:
            torch.save(content, folder / name)
        yield folder / name, words


def onnx_model(outputs=("boxes", "scores", "keypoints"), inputs="images", metadata="", **changes):
    """The bytes of a model that returns its input as every output; its description is an export's, with `changes`."""
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Identity", [inputs], [name]) for name in outputs]
    image = helper.make_tensor_value_info(inputs, TensorProto.FLOAT, [1, 3, "h", "w"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "graph", [image], values)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    description = {"format": 1, "skeleton": SKELETON, "preprocessing": SIZES, **changes}
    helper.set_model_props(made, {"querypose": metadata or json.dumps(description)})
    return made.SerializeToString()


SKELETON = {"keypoint_names": ["a", "b"], "flip_pairs": [["a", "b"]], "limbs": [[0, 1]], "sigmas": [0.1, 0.1]}
SIZES = {"min_size": 64, "max_size": 96, "channel_order": "RGB"}
# a file's bytes, or what is changed in `onnx_model`
ONNX_FILES = [
    (None, "no ONNX file"),
    (b"", "no ONNX file"),
    (b"\x08\x08:\x10", "no ONNX file|is not an export"),
    ({"metadata": "words"}, "is not an export"),
    ({"format": 2}, "format is 2"),
    ({"skeleton": None}, "is not an export"),
    ({"skeleton": {**SKELETON, "sigmas": [1]}}, "sigmas"),
    ({"preprocessing": {**SIZES, "min_size": "x"}}, "_size are"),
    ({"preprocessing": {**SIZES, "max_size": 10**9}}, "_size are"),
    ({"preprocessing": {**SIZES, "channel_order": "HSV"}}, "HSV"),
    ({"outputs": ["pose"]}, "outputs|boxes"),
    ({"inputs": "x"}, "inputs|images"),
    ({}, "keypoints|boxes|shape"),
]


# command lines
CONFIG = "--config-file config.yaml"
INPUT = f"{CONFIG} --input photo.jpg"
WEIGHTS = "MODEL.WEIGHTS model.pth"
TRUTH = "--dataset truth.json --results results.json"
FLAGS = [
    ("train_net", "config file"),
    (f"train_net {CONFIG} --num-gpus 0", "--num-gpus"),
    (f"train_net {CONFIG} --num-machines 2", "--dist-url"),
    (f"train_net {CONFIG} --num-machines 2 --dist-url tcp://10.0.0.1", "give tcp://ADDRESS:PORT"),
    (f"train_net {CONFIG} --num-machines 2 --dist-url tcp://a:99999", "give tcp://ADDRESS:PORT"),
    (f"train_net {CONFIG} --timeout nan", "--timeout"),
    (f"train_net {CONFIG} SEED 1 --resume", "--resume must come before"),
    (f"train_net {CONFIG} --machine-rank 3", "--machine-rank"),
    ("train_net --config-file images", "does not exist"),
    ("train_net --config config.yaml --nonsense", "nonsense|unrecognized"),
    (f"train_net {CONFIG} OUTPUT_DIR truth.json", "cannot write to truth.json"),
    (f"test_net {CONFIG}", "nothing to evaluate"),
    (f"test_net {CONFIG} --resume OUTPUT_DIR output/none", "nothing to evaluate: .*a checkpoint in OUTPUT_DIR"),
    (f"test_net {CONFIG} MODEL.WEIGHTS model.pth DATASETS.TEST ()", "nothing to evaluate on; set DATASETS.TEST"),
    (f"demo {CONFIG} --input absent.jpg --output out {WEIGHTS}", "absent.jpg"),
    (f"demo {INPUT} --output photo.jpg {WEIGHTS}", "photo.jpg"),
    (f"demo {INPUT} --output out --smooth {WEIGHTS}", "--track"),
    (f"demo {CONFIG} --webcam -1 --output out {WEIGHTS}", "--webcam must be 0 or greater"),
    (f"demo {INPUT} --output out --sigmas -1", "--sigmas"),
    (f"demo {INPUT} --output out --track --score-threshold 2", "score threshold"),
    (f"demo {INPUT} --output out --keypoint-threshold nan", "keypoint threshold"),
    (f"demo {INPUT} --output out --device cpu MODEL.WEIGHTS", "MODEL.WEIGHTS has no value"),
    (f"visualize_attention {INPUT} --output truth.json {WEIGHTS}", "truth.json"),
    (f"export_onnx {CONFIG} --output truth.json/model.onnx {WEIGHTS}", "cannot write to truth.json"),
    (f"web_demo {CONFIG} {WEIGHTS} --port 99999", "cannot listen"),
    ("convert_weights --source authors model.pth truth.json", "truth.json exists already"),
    ("convert_weights --source authors absent.pth out.pth", "absent.pth"),
    (f"predict_dataset {INPUT} --output output/r --workers 0 {WEIGHTS}", "--workers"),
    ("evaluate_results --dataset truth.json --results absent.json", "absent.json"),
    (f"evaluate_results {TRUTH} --sigmas 0.1", "sigmas"),
    (f"evaluate_results {TRUTH} --protocol crowdpose", "crowdIndex"),
    (f"evaluate_results {TRUTH} --output absent/a.json", "absent"),
    (f"evaluate_results {TRUTH} --per-keypoint truth.json/a.png", "truth.json"),
    ("check_dataset truth.json@absent", "absent"),
    ("check_dataset truth.json@images --output absent/report.json", "absent"),
    ("check_dataset truth.json@images --picture truth.json/a.png", "truth.json"),
    ("prepare_crowdpose --annotations absent", "absent"),
    ("prepare_crowdpose --annotations truth.json --images images", "truth.json is no folder of CrowdPose"),
    ("prepare_minicoco --coco absent", "absent"),
    ("prepare_minicoco --coco absent --output images", "exists already"),
    ("plot_training absent --output a.png", "absent"),
    ("plot_training truth.json --output a.png --labels a b", "labels"),
    ("plot_reliability --dataset absent.json --output a.png", "absent.json"),
    ("plot_reliability --dataset truth.json --output a.png --seed -1", "--seed"),
    (f"benchmark {CONFIG} --size 1 1", "--size"),
    (f"benchmark {CONFIG} --batch 0", "--batch"),
    (f"benchmark {CONFIG} --output photo.jpg", "photo.jpg"),
    ("reproduce_tables --tables table9", "table9"),
    ("reproduce_tables --num-gpus 0", "--num-gpus"),
    ("reproduce_tables --output photo.jpg/a", "photo.jpg"),
    ("reproduce_tables --update absent.md --output images/none", "absent.md"),
    ("reproduce_tables --launch --seeds 1 -- SOLVER.MAX_ITER", "pairs"),
    ("overfit --dataset absent.json", "absent.json"),
    ("overfit --dataset truth.json@images --num-images 0 OUTPUT_DIR output/o", "--num-images"),
    ("overfit --dataset truth.json@images --num-images 5 OUTPUT_DIR output/o", "suitable"),
    ("quickstart --minutes 0", "--minutes"),
    ("quickstart --output truth.json", "truth.json"),
    ("make_model_zoo --output absent/zoo.md", "absent/zoo.md"),
    ("make_model_zoo --output a.md --results absent", "is not a folder"),
    (f"analyze_model {CONFIG} --depth -1", "--depth"),
    (f"visualize_data {CONFIG} --output truth.json", "truth.json"),
    (f"visualize_data {CONFIG} --output output/d --number 0", "--number"),
    ("make_config_reference --output absent/a.md", "absent"),
    ("visualize_results", "required"),
    ("install_detectron2 --nonsense", "nonsense"),
    (f"predict_dataset {CONFIG} --input absent --output output/p", "absent names no image"),
    (f"predict_dataset {CONFIG} --input images --output output/p --threads 0", "--threads"),
    (f"predict_dataset {CONFIG} --input images --output output/q MODEL.WEIGHTS absent.pth", "absent.pth"),
]
