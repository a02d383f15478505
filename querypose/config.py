"""Every config key of QueryPose, with its default, and the check of their values at start-up."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

import querypose.detectron2_extension  # noqa: F401  (what the config names)
from querypose.config_values import check_detectron2_values, check_values
from querypose.errors import UserError

VALID_VALUES = {
    "MODEL.QUERYPOSE.VARIANT": ("full", "branched", "light"),
    "MODEL.QUERYPOSE.INITIALIZATION": ("deliberate", "authors"),
    "MODEL.QUERYPOSE.TRAIN_QUERIES": ("all", "matched"),
    "MODEL.COMPILE": ("none", "default", "reduce-overhead"),
    "MODEL.HRNET.NECK": ("lateral", "pooled"),
    "MODEL.HRNET.NORM": ("BN", "FrozenBN", "SyncBN"),
    "MODEL.TIMM.NORM": ("BN", "FrozenBN", "SyncBN"),
    "SOLVER.NON_FINITE": ("stop", "skip"),
    "TEST.EVALUATOR_BACKEND": ("faster-coco-eval", "pycocotools", "crowdposetools"),
}


def add_querypose_config(cfg: CfgNode) -> None:
    """Add the keys of QueryPose to Detectron2's, in place, and set the paper's values where they differ."""
    _add_model_keys(cfg)
    _add_solver_keys(cfg)
    _add_data_keys(cfg)


def _add_model_keys(cfg: CfgNode) -> None:
    # Detectron2's name of the model, and the annotations that its loader reads
    cfg.MODEL.META_ARCHITECTURE = "QueryPose"
    cfg.MODEL.KEYPOINT_ON = True
    cfg.MODEL.MASK_ON = False
    # RGB statistics of ImageNet, in 0 .. 255; the same for every backbone
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.280, 103.530]
    cfg.MODEL.PIXEL_STD = [58.395, 57.120, 57.375]

    node = cfg.MODEL.QUERYPOSE = CfgNode()
    # "full": the paper's tables; keypoint stages hand the instance query on (Figure 3b).
    # "branched": keypoint stages update the instance query for their own use only (Figure 3a, Table 3).
    # "light": they leave it as it is, as in the authors' downloadable models.
    # In the last two boxes do not depend on keypoint stages.
    node.VARIANT = "full"
    # N, persons that can be found in an image
    node.NUM_QUERIES = 100
    # S, pairs of a box stage and a keypoint stage
    node.NUM_STAGES = 6
    # d, width of instance queries and feature maps; MODEL.FPN.OUT_CHANNELS must equal it
    node.HIDDEN_DIM = 256
    # dp, width of part queries (Table 2c)
    node.PART_DIM = 128
    # feature maps for the box decoder, finest first; the keypoint decoder reads the first
    node.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    # sides, in places, of the regions that box stage and keypoint stage read
    node.BOX_POOLER_RESOLUTION = 7
    node.KEYPOINT_POOLER_RESOLUTION = 14
    # self-attention and feed-forward blocks of both stages
    node.NUM_HEADS = 8
    node.FEEDFORWARD_DIM = 2048
    node.DROPOUT = 0.0
    # hidden width of the dynamic MLP, and Linear layers of class and box branch before their last
    node.DYNAMIC_DIM = 64
    node.NUM_CLASS_LAYERS = 1
    node.NUM_BOX_LAYERS = 3
    # 3x3 convolutions before the SPEGM, and their inner width
    node.NUM_TOWER_LAYERS = 6
    node.TOWER_DIM = 512
    # The next keys are names in the registries of querypose.modeling (docs/EXTENDING.md); docs/ABLATIONS.md says which
    # are the paper's.

    # how the instance query reads its region in the box stage, and in the keypoint stage (Table 1)
    node.QUERY_INTERACTION = "DynamicChannelMLP"
    node.KEYPOINT_INTERACTION = "DynamicChannelMLP"
    # what holds the keypoints: part queries (KeypointStage), the instance query (InstanceKeypointStage, Table 1) or
    # the pooled region (PooledKeypointStage, Table 2b)
    node.KEYPOINT_STAGE = "KeypointStage"
    # how part embeddings are made of the region (Table 1), and part queries updated with them (Table 2a)
    node.PART_EMBEDDING = "SPEGM"
    node.PART_UPDATE = "SelectiveIteration"
    # residual log-likelihood with or without its flow, or distances of coordinates (docs/ABLATIONS.md)
    node.KEYPOINT_LOSS = "RLE"
    # keypoints that share a part query (Figure 4): per_keypoint (a), joined_head (b), rigid (c), head_and_limbs (d), of
    # which (b) and (d) are for COCO's keypoints; limbs: rigid segments found from any skeleton's limbs, which `rigid`
    # also takes for other keypoints than COCO's; or PART_GROUPS, lists of keypoint names, which stand in for the named
    # division where there are any
    node.PART_DIVISION = "rigid"
    node.PART_GROUPS = []
    # "deliberate": small weights where attention and coordinates start; "authors": Xavier everywhere
    node.INITIALIZATION = "deliberate"
    # queries that train the keypoint stages: "all" (the paper), or those "matched" to a person.
    # branched, light: each keypoint stage runs only the queries matched at it or at a later one: the same losses and
    # gradients, but for BatchNorm's statistics, in a fraction of the time.
    # full: every query goes through them, as in inference, but gradients pass through the matched ones only: the same
    # losses, but for BatchNorm's statistics (those of matched and of other queries apart), and less memory; the class
    # loss no longer trains the keypoint stages through unmatched queries
    node.TRAIN_QUERIES = "all"

    # weights of the losses (Section 3.4)
    node.LOSS = CfgNode({"CLASS_WEIGHT": 2.0, "L1_WEIGHT": 5.0, "GIOU_WEIGHT": 2.0, "KEYPOINT_WEIGHT": 1.0})
    # box units below which KEYPOINT_LOSS SmoothL1 counts an error squared
    node.LOSS.SMOOTH_L1_BETA = 0.05
    # an auxiliary loss on keypoint heatmaps of P2, in training only (Section 4.3: of no use on pre-trained backbones)
    node.AUX_HEATMAP = False
    node.LOSS.HEATMAP_WEIGHT = 1.0
    # an auxiliary loss that draws each part's attention map to its keypoints, in training only; not the paper's
    node.AUX_ATTENTION = False
    node.LOSS.ATTENTION_WEIGHT = 1.0
    # weights of the costs by which persons are assigned to queries
    node.COST = CfgNode({"CLASS": 2.0, "L1": 5.0, "GIOU": 2.0})

    # The next four are not the paper's (docs/BEYOND_THE_PAPER.md); off, they change nothing.

    # keypoints are offsets from the expected position under their part's attention map
    node.ANCHORED_COORDINATES = False
    # COPIES more rows per matched query train the keypoint stages on ground-truth boxes whose corners move by up to
    # JITTER of the side; 0 for none
    node.GROUND_TRUTH_REGIONS = CfgNode({"COPIES": 0, "JITTER": 0.1})
    # a second set of NUM_QUERIES queries trains the box stages, each person matched to REPEATS of them; 0 for none
    node.ONE_TO_MANY = CfgNode({"NUM_QUERIES": 0, "REPEATS": 4})
    # first boxes from the peaks of a person-center map, whose features add to the instance queries
    node.IMAGE_QUERIES = CfgNode({"ENABLED": False})

    # inference: keypoint stages only for the k queries of an image with the highest class score; only they are
    # returned. 0 runs all N. None is 0 in the full variant, where k is an approximation (each stage leaves out the
    # queries that it scores lowest itself), and 30 in the others, where each is returned as it would be among all N.
    node.TEST = CfgNode({"TOPK_POSES": None})
    # of these, only queries with at least this class score, 0 .. 1; 0 keeps them all
    node.TEST.POSE_SCORE_FLOOR = 0.0
    # evaluations (tools/test_net.py, TEST.EVAL_PERIOD) run every query whatever stands above, because box AP counts 100
    # boxes of an image; True evaluates what inference returns: keypoint AP as it is in use, a lower box AP
    node.TEST.EVALUATE_TOPK = False

    # the skeleton of the model; empty names mean that of the data set. A training run writes it into its
    # config.yaml, so that its weights can be used where the data set is absent.
    node.SKELETON = CfgNode({"KEYPOINT_NAMES": [], "FLIP_PAIRS": [], "LIMBS": [], "SIGMAS": []})

    _add_backbone_keys(cfg)
    # memory layout of the images and the convolutions' weights, True or False; the results are the same but for
    # rounding. None takes the faster one: True on a CPU with AVX-512, unless PyTorch crashes there with the backbone
    # (strided 1x1 convolutions of fewer than 16 channels), else False
    cfg.MODEL.CHANNELS_LAST = None
    # torch.compile for the parts of box stages and keypoint stages whose shapes do not depend on the image: "none",
    # "default", "reduce-overhead" (with CUDA graphs). Where the compiler fails, they run without it, with a warning.
    cfg.MODEL.COMPILE = "none"


def _add_backbone_keys(cfg: CfgNode) -> None:
    # MODEL.BACKBONE.NAME chooses one of the backbones below or Detectron2's build_resnet_fpn_backbone, for which
    # MODEL.RESNETS counts and, for it alone, MODEL.BACKBONE.FREEZE_AT. Keys that mean the same everywhere:
    # - NORM, what BatchNorm does in training: "BN" batch statistics, trainable; "FrozenBN" constants; "SyncBN" batch
    #   statistics over all GPUs. MODEL.RESNETS.NORM is Detectron2's FrozenBN. Here it is BN: the authors' HRNet
    #   checkpoints hold counters of trained batches, which only trainable BatchNorm has, and a timm model may start
    #   from random weights, which frozen statistics would not normalise. FrozenBN is for few images on each GPU.
    # - ACTIVATION_CHECKPOINTING: blocks keep only their inputs for the backward pass and compute the rest anew, the
    #   same numbers with less memory and a third more time.

    # build_resnet_fpn_backbone; its other keys are Detectron2's
    cfg.MODEL.RESNETS.ACTIVATION_CHECKPOINTING = False

    # build_timm_fpn_backbone: a timm model by name; PRETRAINED loads timm's own weights; OPTIONS are further
    # arguments of timm's constructor (any key); FROZEN keeps the weights as they are (the neck is trained)
    cfg.MODEL.TIMM = CfgNode({"NAME": "resnet18", "PRETRAINED": False})
    cfg.MODEL.TIMM.OPTIONS = CfgNode(new_allowed=True)
    cfg.MODEL.TIMM.NORM = "BN"
    cfg.MODEL.TIMM.ACTIVATION_CHECKPOINTING = False
    cfg.MODEL.TIMM.FROZEN = False

    # build_hrnet_backbone: NAME is one of timm's HRNets. NECK, what p3 .. p5 are made of: "pooled", as in the authors'
    # W32: all branches joined at stride 4 and averaged; "lateral", as in their W48: each level from the one before it
    # and its own branch
    cfg.MODEL.HRNET = CfgNode({"NAME": "hrnet_w32", "NECK": "pooled", "NORM": "BN"})
    cfg.MODEL.HRNET.ACTIVATION_CHECKPOINTING = False

    # build_swin_fpn_backbone; the sizes are those of Swin-T
    cfg.MODEL.SWIN = CfgNode({"EMBED_DIM": 96, "DEPTHS": [2, 2, 6, 2], "NUM_HEADS": [3, 6, 12, 24], "WINDOW_SIZE": 7})
    cfg.MODEL.SWIN.ACTIVATION_CHECKPOINTING = False
    # probability that the last block is skipped in training; for the blocks before it it falls linearly to 0
    cfg.MODEL.SWIN.STOCHASTIC_DEPTH = 0.2

    # build_movenet_backbone, for images in RGB with PIXEL_MEAN and PIXEL_STD [127.5, 127.5, 127.5]: FROZEN trains only
    # the 1x1 convolutions from MoveNet's neck to p2 .. p5; False trains its trunk and neck too
    cfg.MODEL.MOVENET = CfgNode({"FROZEN": True})


def _add_solver_keys(cfg: CfgNode) -> None:
    # "ADAMW" or "SGD"; parameters with the same settings share a group
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    # learning rate for IMS_PER_BATCH images in a step, all GPUs together; scale it with them
    cfg.SOLVER.BASE_LR = 2.5e-5
    cfg.SOLVER.IMS_PER_BATCH = 16
    # the optimiser's weight decay
    cfg.SOLVER.WEIGHT_DECAY = 1e-4
    # norms (and biases, WEIGHT_DECAY_BIAS) decay as the rest does, unless a number says otherwise
    cfg.SOLVER.WEIGHT_DECAY_NORM = None
    # each process takes its images of a batch in this many parts, one after the other, and steps once: the gradient of
    # the whole batch (BatchNorm's statistics apart) in the memory of one part
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # on a CPU: what a step frees stays with the process for the next step, and does not go back to the system, which
    # would clear every page of it again; faster, and at times with more memory. Linux (glibc) only
    cfg.SOLVER.KEEP_FREED_MEMORY = True
    # learning rates relative to BASE_LR
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    cfg.SOLVER.FLOW_MULTIPLIER = 10.0
    # the learning rate rises linearly from this fraction of itself within so many iterations
    cfg.SOLVER.WARMUP_FACTOR = 0.01
    cfg.SOLVER.WARMUP_ITERS = 1000
    # how many of the checkpoints of every CHECKPOINT_PERIOD iterations stay: the newest ones; 0 keeps all.
    # model_final.pth and model_best.pth are not counted
    cfg.SOLVER.CHECKPOINTS_KEPT = 5
    # model_best.pth: the state with the highest keypoint AP on the first of DATASETS.TEST among all evaluations
    cfg.SOLVER.KEEP_BEST = True
    # a step whose loss or gradient is NaN or infinite never changes the weights. "stop" then ends the training, "skip"
    # goes on with the next batch, at most ten times in a row; both name the first such tensor, and write the batch to
    # OUTPUT_DIR/non_finite_<iteration>.pth
    cfg.SOLVER.NON_FINITE = "stop"
    # gradients are scaled down together where the norm of all of them is above CLIP_VALUE
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = 2.0


def _add_data_keys(cfg: CfgNode) -> None:
    # order of the channels that the model gets
    cfg.INPUT.FORMAT = "RGB"
    # lengths in pixels of an image's short side, one of which is drawn, and the most that its long side may have
    cfg.INPUT.MIN_SIZE_TRAIN = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    cfg.INPUT.MAX_SIZE_TRAIN = 1333
    # with probability PROB: short side to one of RESIZE_BEFORE, then a crop with sides in SIZE (pixels); then the
    # resizing of MIN_SIZE_TRAIN
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute_range"
    cfg.INPUT.CROP.SIZE = [384, 600]
    cfg.INPUT.CROP.PROB = 0.5
    cfg.INPUT.CROP.RESIZE_BEFORE = [400, 500, 600]
    # training: brightness, contrast and saturation are each scaled by a factor within 1 +- this
    cfg.INPUT.COLOR_JITTER = 0.0
    # images of which no person has a labelled keypoint are left out (the paper's 57k of train2017); 0 keeps them
    cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE = 1
    # images that cannot be read stop the run; True goes on with other ones, counts them and lists them in
    # OUTPUT_DIR/unreadable_images.txt
    cfg.DATALOADER.SKIP_UNREADABLE_IMAGES = False
    # what computes AP: "faster-coco-eval" or "pycocotools" (same numbers); for CrowdPose also "crowdposetools", the
    # official tool, where it is installed
    cfg.TEST.EVALUATOR_BACKEND = "faster-coco-eval"
    # evaluations in bfloat16, to see what it costs in AP; a CPU without its instructions computes the same, slower
    cfg.TEST.AMP = CfgNode({"ENABLED": False})
    # name of the algorithm in the file that COCO's server takes for test-dev
    cfg.TEST.SUBMISSION_NAME = "querypose"


def setup_config(
    config_file: str, opts: Sequence[str] = (), add_config: Callable[[CfgNode], None] | None = None
) -> CfgNode:
    """Defaults, then the file, then `KEY VALUE` pairs; checked, and with the skeleton of the data set filled in.

    MODEL.DEVICE "cuda", Detectron2's default, becomes "cpu" on a machine without CUDA.

    Args:
        add_config: adds an extension's own keys to the defaults.

    Raises:
        UserError: a missing file, an unknown key, a value that cannot be, a data set that cannot be read.
    """
    from querypose.data import skeleton_of
    from querypose.modeling import part_division

    cfg = get_cfg()
    add_querypose_config(cfg)
    if add_config is not None:
        add_config(cfg)
    if not os.path.isfile(config_file):
        raise UserError(
            f"the config file '{config_file}' does not exist; give a file such as configs/querypose_R50.yaml"
        )
    try:
        # Detectron2's default lets a YAML file name Python objects to be made, and so run any program
        cfg.merge_from_file(config_file, allow_unsafe=False)
        cfg.merge_from_list(list(opts))
    except RecursionError as error:
        raise UserError(f"{config_file} is its own _BASE_, or nested too deeply; mend its _BASE_") from error
    except (KeyError, ValueError, AssertionError, OSError, SyntaxError, MemoryError, yaml.YAMLError) as error:
        raise UserError(f"{config_file} with overrides {list(opts)}: {_reason(error, cfg)}") from error
    except (AttributeError, TypeError) as error:
        raise UserError(
            f"{config_file}{f' with overrides {list(opts)}' if opts else ''} does not hold keys with values where keys "
            "have values; see configs/querypose_R50.yaml for one that does"
        ) from error
    check_config(cfg)
    skeleton = skeleton_of(cfg)
    # mistakes in the division end here, before anything is written
    part_division.build_part_division(skeleton, cfg.MODEL.QUERYPOSE.PART_DIVISION, cfg.MODEL.QUERYPOSE.PART_GROUPS)
    cfg.MODEL.QUERYPOSE.SKELETON.KEYPOINT_NAMES = list(skeleton.keypoint_names)
    cfg.MODEL.QUERYPOSE.SKELETON.FLIP_PAIRS = [list(pair) for pair in skeleton.flip_pairs]
    cfg.MODEL.QUERYPOSE.SKELETON.LIMBS = [list(limb) for limb in skeleton.limbs]
    cfg.MODEL.QUERYPOSE.SKELETON.SIGMAS = list(skeleton.sigmas)
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def check_config(cfg: CfgNode) -> None:
    """Raise a UserError for values that contradict each other or that no part of the model has."""
    from querypose import modeling
    from querypose.modeling.backbones.swin import check_swin_sizes

    valid = valid_values()
    if cfg.MODEL.QUERYPOSE.PART_GROUPS:
        del valid["MODEL.QUERYPOSE.PART_DIVISION"]
    for key, values in valid.items():
        if _get(cfg, key) not in values:
            raise UserError(f"{key} is '{_get(cfg, key)}'; valid are {', '.join(sorted(values))}")

    defaults = get_cfg()
    add_querypose_config(defaults)
    check_values(cfg, defaults)
    check_detectron2_values(cfg)

    if cfg.MODEL.CHANNELS_LAST not in (None, True, False):
        raise UserError(f"MODEL.CHANNELS_LAST is {cfg.MODEL.CHANNELS_LAST!r}; valid are None (automatic), True, False")
    if cfg.MODEL.BACKBONE.NAME == "build_swin_fpn_backbone":
        swin = cfg.MODEL.SWIN
        check_swin_sizes(swin.EMBED_DIM, swin.DEPTHS, swin.NUM_HEADS, swin.WINDOW_SIZE, swin.STOCHASTIC_DEPTH)

    config = cfg.MODEL.QUERYPOSE
    for key in ("HIDDEN_DIM", "PART_DIM"):
        if config[key] % config.NUM_HEADS:
            raise UserError(f"MODEL.QUERYPOSE.{key} {config[key]} must be a multiple of NUM_HEADS {config.NUM_HEADS}")
    if config.PART_DIM % 4:
        raise UserError(f"MODEL.QUERYPOSE.PART_DIM {config.PART_DIM} must be a multiple of 4 (the gates' reduction)")
    if cfg.MODEL.FPN.OUT_CHANNELS != config.HIDDEN_DIM:
        raise UserError(
            f"MODEL.FPN.OUT_CHANNELS {cfg.MODEL.FPN.OUT_CHANNELS} must equal "
            f"MODEL.QUERYPOSE.HIDDEN_DIM {config.HIDDEN_DIM}"
        )
    stage = modeling.KEYPOINT_STAGE_REGISTRY.get(config.KEYPOINT_STAGE)
    if config.VARIANT not in stage.variants:
        raise UserError(
            f"MODEL.QUERYPOSE.KEYPOINT_STAGE '{config.KEYPOINT_STAGE}' has no use for what VARIANT '{config.VARIANT}' "
            f"is about; set VARIANT to {' or '.join(stage.variants)}"
        )
    if config.AUX_ATTENTION:
        making = [name for name, embedding in modeling.PART_EMBEDDING_REGISTRY if embedding.makes_attention]
        if not stage.has_parts or config.PART_EMBEDDING not in making:
            found = "KEYPOINT_STAGE" if not stage.has_parts else "PART_EMBEDDING"
            raise UserError(
                f"MODEL.QUERYPOSE.AUX_ATTENTION needs attention maps, and {found} '{config[found]}' makes none; set it "
                f"to False, or use KEYPOINT_STAGE 'KeypointStage' with PART_EMBEDDING {' or '.join(sorted(making))}"
            )
    if not 0 <= config.TEST.POSE_SCORE_FLOOR < 1:
        raise UserError(
            f"MODEL.QUERYPOSE.TEST.POSE_SCORE_FLOOR is {config.TEST.POSE_SCORE_FLOOR}; it must be 0 (none) or more, "
            "and below 1"
        )


def valid_values() -> dict[str, list[str]]:
    """Of every key that takes one of a few names: the names, those of classes in the registries included."""
    from detectron2.modeling import BACKBONE_REGISTRY

    from querypose import modeling

    registries = {
        "QUERY_INTERACTION": modeling.QUERY_INTERACTION_REGISTRY,
        "KEYPOINT_INTERACTION": modeling.QUERY_INTERACTION_REGISTRY,
        "KEYPOINT_STAGE": modeling.KEYPOINT_STAGE_REGISTRY,
        "PART_EMBEDDING": modeling.PART_EMBEDDING_REGISTRY,
        "PART_UPDATE": modeling.PART_UPDATE_REGISTRY,
        "PART_DIVISION": modeling.PART_DIVISION_REGISTRY,
        "KEYPOINT_LOSS": modeling.KEYPOINT_LOSS_REGISTRY,
    }
    valid = {key: list(values) for key, values in VALID_VALUES.items()}
    valid |= {f"MODEL.QUERYPOSE.{key}": [name for name, _ in registry] for key, registry in registries.items()}
    valid["MODEL.BACKBONE.NAME"] = [name for name, _ in BACKBONE_REGISTRY]
    return valid


def topk_poses(cfg: CfgNode) -> int:
    """MODEL.QUERYPOSE.TEST.TOPK_POSES, with its None turned into the variant's default."""
    config = cfg.MODEL.QUERYPOSE
    if config.TEST.TOPK_POSES is not None:
        return config.TEST.TOPK_POSES
    return 0 if config.VARIANT == "full" else 30


def _get(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _reason(error: Exception, cfg: CfgNode) -> str:
    """One sentence on a key or value that yacs refused, with the keys that stand where an unknown one was given."""
    text = str(error).strip("'\"")
    if "Non-existent config key: " in text or "Non-existent key: " in text:
        key = text.split("key: ")[-1].strip()
        node, parts = cfg, key.split(".")
        for part in parts[:-1]:
            node = node.get(part, {}) if isinstance(node, dict) else {}
        return f"unknown key {key}; valid there are {', '.join(sorted(node)) or 'none'}"
    return text
