"""Models as folders in Hugging Face's layout: `config.yaml`, `model.safetensors` and a model card."""

import os
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import save
from torch import nn

from querypose.atomic_io import whole_file, writing
from querypose.errors import UserError

CONFIG, WEIGHTS, CARD = "config.yaml", "model.safetensors", "README.md"

CARD_TEXT = """---
library_name: querypose
pipeline_tag: keypoint-detection
tags: [pose-estimation, detectron2]
---

# QueryPose, {backbone} backbone

Finds persons and their keypoints in an image: boxes, keypoints and a confidence per keypoint.

```python
from querypose import PosePredictor

persons = PosePredictor.from_pretrained("organization/{name}")("photo.jpg")
print(persons.pred_keypoints)  # persons, keypoints, (x, y in pixels, confidence)
```

- Keypoints: {keypoints}
- Parameters: {parameters:.1f} million
- Images: resized to a shorter side of {size} pixels

Training data, accuracy and license of the weights: to be filled in by who publishes them.
"""


def save_pretrained(folder: str | os.PathLike[str], model: nn.Module, cfg: CfgNode) -> None:
    """Write the three files; the config holds the skeleton, and no data set or path of this machine.

    An existing model card stays as it is.
    """
    folder, defaults, cfg = Path(folder), get_cfg(), cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = "", defaults.MODEL.DEVICE, defaults.OUTPUT_DIR
    cfg.DATASETS = defaults.DATASETS
    card = CARD_TEXT.format(
        name=folder.name,
        backbone=cfg.MODEL.BACKBONE.NAME,
        keypoints=", ".join(cfg.MODEL.QUERYPOSE.SKELETON.KEYPOINT_NAMES),
        parameters=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        size=cfg.INPUT.MIN_SIZE_TEST,
    )
    weights = save({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()})
    with writing(folder, "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in {WEIGHTS: weights, CONFIG: cfg.dump().encode(), CARD: card.encode()}.items():
            if name != CARD or not (folder / CARD).exists():
                with whole_file(folder / name) as file:
                    file.write(content)


def pretrained_files(
    name: str | os.PathLike[str], revision: str | None = None, cache_dir: str | Path | None = None
) -> tuple[Path, Path]:
    """Config and weights of a folder, or else of a repository "organization/name" of the Hugging Face Hub.

    revision: branch, tag or commit; None: the main branch. cache_dir: of downloads; None: Hugging Face's own.
    """
    folder = Path(name)
    if not folder.is_dir():
        wanted = [CONFIG, WEIGHTS]
        try:
            folder = Path(snapshot_download(str(name), revision=revision, cache_dir=cache_dir, allow_patterns=wanted))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{name} is neither a folder nor a model on the Hugging Face Hub: {reason}") from error
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise UserError(f"{name} holds no {file}; save a model there with PosePredictor.save_pretrained.")
    return folder / CONFIG, folder / WEIGHTS
