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
tags:
- pose-estimation
- detectron2
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

    An existing model card stays as it is. Raises `UserError` for a folder that cannot be written to.
    """
    folder = Path(folder)
    defaults = get_cfg()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = "", defaults.MODEL.DEVICE, defaults.OUTPUT_DIR
    cfg.DATASETS = defaults.DATASETS
    contents = {
        WEIGHTS: save({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}),
        CONFIG: cfg.dump().encode(),
    }
    if not (folder / CARD).exists():
        contents[CARD] = CARD_TEXT.format(
            name=folder.name,
            backbone=cfg.MODEL.BACKBONE.NAME,
            keypoints=", ".join(cfg.MODEL.QUERYPOSE.SKELETON.KEYPOINT_NAMES),
            parameters=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
            size=cfg.INPUT.MIN_SIZE_TEST,
        ).encode()
    with writing(folder, "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            with whole_file(folder / name) as file:
                file.write(content)


def pretrained_files(
    name: str | os.PathLike[str], revision: str | None = None, cache_dir: str | Path | None = None
) -> tuple[Path, Path]:
    """Config and weights of a folder, or else of a repository of the Hugging Face Hub.

    Args:
        name: the folder, or "organization/name".
        revision: branch, tag or commit of the repository; None: its main branch.
        cache_dir: where downloads are kept; None: Hugging Face's own cache.

    Raises:
        UserError: neither exists, or a file is missing in it.
    """
    folder = Path(name)
    if not folder.is_dir():
        try:
            found = snapshot_download(
                str(name), revision=revision, cache_dir=cache_dir, allow_patterns=[CONFIG, WEIGHTS]
            )
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{name} is neither a folder nor a model on the Hugging Face Hub: {reason}") from error
        folder = Path(found)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise UserError(f"{name} holds no {file}; save a model there with PosePredictor.save_pretrained.")
    return folder / CONFIG, folder / WEIGHTS
