"""Every config key of QueryPose, with its default."""

from detectron2.config import CfgNode


def add_querypose_config(cfg: CfgNode) -> None:
    """Add the keys of QueryPose to Detectron2's, in place, and set the paper's values where they differ."""
    _add_model_keys(cfg)
    _add_backbone_keys(cfg)
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
    # "full": the paper's tables; keypoint stages update the instance query for the next stage (Figure 3b).
    # "branched": keypoint stages update the instance query for their own use only (Figure 3a, Table 3).
    # "light": they do not update it, as in the authors' downloadable models.
    # In the last two boxes do not depend on keypoint stages.
    node.VARIANT = "full"
    node.NUM_QUERIES = 100  # N, the most persons that can be found in an image
    node.NUM_STAGES = 6  # S, pairs of a box stage and a keypoint stage
    node.HIDDEN_DIM = 256  # d, width of instance queries and feature maps; MODEL.FPN.OUT_CHANNELS must equal it
    node.PART_DIM = 128  # dp, width of part queries (Table 2c)
    # RoI resolution of box stages (on p2 .. p5) and of keypoint stages (on p2)
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION = 14
    # self-attention and feed-forward blocks of both stages
    node.NUM_HEADS = 8
    node.FEEDFORWARD_DIM = 2048
    node.DYNAMIC_DIM = 64  # hidden width of the dynamic MLP
    # 3x3 convolutions before the SPEGM, and their inner width
    node.NUM_TOWER_LAYERS = 6
    node.TOWER_DIM = 512

    # The next keys are names in the registries of querypose.modeling (docs/EXTENDING.md, docs/ABLATIONS.md).
    # how the instance query interacts with its RoI features, in the box stage and in the keypoint stage (Table 1)
    node.QUERY_INTERACTION = "DynamicChannelMLP"
    node.KEYPOINT_INTERACTION = "DynamicChannelMLP"
    # what predicts the keypoints: part queries (KeypointStage), the instance query (InstanceKeypointStage, Table 1) or
    # the pooled RoI features (PooledKeypointStage, Table 2b)
    node.KEYPOINT_STAGE = "KeypointStage"
    # how part embeddings are made of RoI features (Table 1), and part queries updated with them (Table 2a)
    node.PART_EMBEDDING = "SPEGM"
    node.PART_UPDATE = "SelectiveIteration"
    node.KEYPOINT_LOSS = "RLE"  # residual log-likelihood with or without its flow, or L1, SmoothL1 (docs/ABLATIONS.md)
    # keypoints that share a part query (Figure 4): per_keypoint (a), joined_head (b), rigid (c), head_and_limbs (d), of
    # which (b) and (d) are for COCO's keypoints; limbs: rigid segments of any skeleton, which `rigid` also takes for
    # other keypoints than COCO's. None: the parts of PART_GROUPS, or rigid where there are none
    node.PART_DIVISION = None
    # the parts as lists of keypoint names. A run's config.yaml holds them; set [] to change the PART_DIVISION there
    node.PART_GROUPS = []
    # "deliberate": small initial weights of attention, flow and anchored coordinates; "authors": Xavier for all
    node.INITIALIZATION = "deliberate"
    # queries that train the keypoint stages: "all" (the paper), or those "matched" to a person: in branched and light
    # the same losses and gradients, but for BatchNorm's statistics, in a fraction of the time
    node.TRAIN_QUERIES = "all"

    # weights of the losses (Section 3.4); the matcher weighs its costs of class, L1 and GIoU by the same numbers
    node.LOSS = CfgNode({"CLASS_WEIGHT": 2.0, "L1_WEIGHT": 5.0, "GIOU_WEIGHT": 2.0, "KEYPOINT_WEIGHT": 1.0})
    node.LOSS.HEATMAP_WEIGHT = 0.0  # of keypoint heatmaps on p2 (Section 4.3: useless on pre-trained backbones)
    node.LOSS.ATTENTION_WEIGHT = 0.0  # centers each part's attention map on its keypoints; not the paper's

    # The next four are not the paper's (docs/BEYOND_THE_PAPER.md); off, they change nothing.
    node.ANCHORED_COORDINATES = False  # keypoints are offsets from the mean position under their part's attention
    # COPIES more rows per matched query train the keypoint stages on ground-truth boxes with randomly moved corners
    node.GROUND_TRUTH_REGIONS = CfgNode({"COPIES": 0})
    # a second set of NUM_QUERIES queries trains the box stages, each person matched to 4 of them
    node.ONE_TO_MANY = CfgNode({"NUM_QUERIES": 0})
    # first boxes from the peaks of a person-center map, whose features add to the instance queries
    node.IMAGE_QUERIES = CfgNode({"ENABLED": False})

    # inference: keypoint stages run only for the k queries with the highest class score, which are returned; 0: all N.
    # None is 0 in the full variant, where k is an approximation, and 30 in the others, where it is exact. With None,
    # evaluations run every query, whatever POSE_SCORE_FLOOR is: box AP counts 100 boxes of an image
    node.TEST = CfgNode({"TOPK_POSES": None})
    node.TEST.POSE_SCORE_FLOOR = 0.0  # of these, only queries with at least this class score, 0 .. 1; 0 keeps them all

    # the skeleton of the model; without names that of the data set. A run's config.yaml holds it, for use without data
    node.SKELETON = CfgNode({"KEYPOINT_NAMES": [], "FLIP_PAIRS": [], "LIMBS": [], "SIGMAS": []})

    # memory layout of the images and the convolutions' weights, which only changes rounding. None: True on a CPU with
    # AVX-512. False on any CPU where PyTorch would crash (strided 1x1 convolutions of fewer than 16 channels)
    cfg.MODEL.CHANNELS_LAST = None
    # torch.compile for box stages and keypoint stages: "none", "default", "reduce-overhead" (with CUDA graphs). Where
    # the compiler fails, they run without it, with a warning
    cfg.MODEL.COMPILE = "none"


def _add_backbone_keys(cfg: CfgNode) -> None:
    # MODEL.BACKBONE.NAME chooses one of the backbones below or Detectron2's build_resnet_fpn_backbone, for which
    # MODEL.RESNETS and MODEL.BACKBONE.FREEZE_AT count.
    # NORM, what BatchNorm does in training: "BN" batch statistics, as the authors' HRNets have; "FrozenBN" constants,
    # for pre-trained weights and few images on each GPU; "SyncBN" batch statistics over all GPUs

    # residual blocks recompute what the backward pass needs: the same numbers with less memory and a third more time
    cfg.MODEL.BACKBONE.ACTIVATION_CHECKPOINTING = False

    # build_timm_fpn_backbone: a timm model by name; PRETRAINED loads timm's own weights; OPTIONS are further
    # arguments of timm's constructor (any key); FROZEN keeps the weights as they are (the neck is trained)
    cfg.MODEL.TIMM = CfgNode({"NAME": "resnet18", "PRETRAINED": False, "NORM": "BN", "FROZEN": False})
    cfg.MODEL.TIMM.OPTIONS = CfgNode(new_allowed=True)

    # build_hrnet_backbone: NAME is one of timm's HRNets. NECK, what p3 .. p5 are made of: "pooled", as in the authors'
    # W32: all branches joined at stride 4 and averaged; "lateral", as in their W48: each level from the one before it
    # and its own branch
    cfg.MODEL.HRNET = CfgNode({"NAME": "hrnet_w32", "NECK": "pooled", "NORM": "BN"})

    # build_swin_fpn_backbone; the sizes are those of Swin-T
    cfg.MODEL.SWIN = CfgNode({"EMBED_DIM": 96, "DEPTHS": [2, 2, 6, 2], "NUM_HEADS": [3, 6, 12, 24], "WINDOW_SIZE": 7})
    # probability that the last block is skipped in training; for the blocks before it it falls linearly to 0
    cfg.MODEL.SWIN.STOCHASTIC_DEPTH = 0.2

    # build_movenet_backbone, for images in RGB with PIXEL_MEAN and PIXEL_STD [127.5, 127.5, 127.5]: FROZEN trains only
    # the 1x1 convolutions from MoveNet's neck to p2 .. p5; False trains its trunk and neck too
    cfg.MODEL.MOVENET = CfgNode({"FROZEN": True})


def _add_solver_keys(cfg: CfgNode) -> None:
    # "ADAMW", "SGD" or another name in querypose.engine.OPTIMIZER_REGISTRY
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    # learning rate for IMS_PER_BATCH images in a step, all GPUs together; scale it with them
    cfg.SOLVER.BASE_LR = 2.5e-5
    cfg.SOLVER.IMS_PER_BATCH = 16
    cfg.SOLVER.WEIGHT_DECAY = 1e-4
    cfg.SOLVER.WEIGHT_DECAY_NORM = None  # None: as WEIGHT_DECAY
    # each process splits its images of a batch into this many parts, one after the other, and steps once: the gradient
    # of the whole batch (BatchNorm's statistics apart) in the memory of one part
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # learning rates relative to BASE_LR
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    cfg.SOLVER.FLOW_MULTIPLIER = 10.0
    # the learning rate rises linearly from this fraction of itself within so many iterations
    cfg.SOLVER.WARMUP_FACTOR = 0.01
    cfg.SOLVER.WARMUP_ITERS = 1000
    # a step whose loss or gradient is NaN or infinite never changes the weights. "stop" then ends the run, "skip"
    # continues with the next batch, at most ten times in a row; the batch is in OUTPUT_DIR/non_finite_<iteration>.pth
    cfg.SOLVER.NON_FINITE = "stop"
    # decay of the moving average of the weights, which is then evaluated and saved, such as 0.999; 0 turns it off
    cfg.SOLVER.EMA = 0.0
    # gradients are scaled down together where the norm of all of them is above CLIP_VALUE
    cfg.SOLVER.CLIP_GRADIENTS.update({"ENABLED": True, "CLIP_TYPE": "full_model", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0})


def _add_data_keys(cfg: CfgNode) -> None:
    cfg.INPUT.FORMAT = "RGB"  # order of the channels of the model's input
    # lengths in pixels of an image's short side, one of which is sampled, and the most that its long side may have
    cfg.INPUT.MIN_SIZE_TRAIN = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    cfg.INPUT.MAX_SIZE_TRAIN = 1333
    # training, with probability 0.5: short side to one of RESIZE_BEFORE, then a crop with sides in SIZE (pixels); then
    # the resizing of MIN_SIZE_TRAIN
    cfg.INPUT.CROP.update({"ENABLED": True, "TYPE": "absolute_range", "SIZE": [384, 600]})
    cfg.INPUT.CROP.RESIZE_BEFORE = [400, 500, 600]
    cfg.INPUT.COLOR_JITTER = 0.0  # training: brightness, contrast and saturation are each scaled within 1 +- this
    cfg.INPUT.ROTATION = 0.0  # training: images are rotated by up to this many degrees in either direction
    # images without any labeled keypoint are excluded (the paper's 57k of train2017 remain); 0 keeps them
    cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE = 1
    # images that cannot be read stop the run; True takes other ones and lists them in
    # OUTPUT_DIR/unreadable_images.txt
    cfg.DATALOADER.SKIP_UNREADABLE_IMAGES = False
    # what computes AP: "faster-coco-eval" or "pycocotools" (same numbers)
    cfg.TEST.EVALUATOR_BACKEND = "faster-coco-eval"
    cfg.TEST.FLIP = False  # inference on the image and its mirror image, averaged (docs/BEYOND_THE_PAPER.md)
    # evaluate in bfloat16; a CPU without its instructions computes the same, slower
    cfg.TEST.AMP = CfgNode({"ENABLED": False})
