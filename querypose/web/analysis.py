"""Everything that the web page shows about an image, as plain numbers."""

import base64
import threading

import numpy as np
import torch

from querypose.predictor import PosePredictor, to_coco

MAX_PERSONS = 30
MIN_SCORE = 0.01


def analyze(predictor: PosePredictor, image: np.ndarray) -> dict:
    """The persons of an image (H, W, 3) uint8 RGB with their attention maps.

    Returns:
        `width`, `height` in pixels; `keypoint_names`, `limbs` (pairs of indices) and `sides` of the skeleton;
        `persons`, at most 30 and best first, each with `box` (corners in pixels), `score`, `keypoints` (K of x, y and
        confidence), `coco` (the same as a COCO result) and, where the model has maps, `attention`: the last stage's,
        base64 of parts x height x width bytes, 255 at each map's maximum; `attention_shape`, these three sizes or None.
    """
    outputs, mine = [], threading.get_ident()

    def keep(module, inputs, output):
        # other threads may use the model at the same time
        if threading.get_ident() == mine:
            outputs.append(output)

    handle = predictor.model.get_submodule("decoder").register_forward_hook(keep)
    try:
        persons = predictor(image)
    finally:
        handle.remove()
    persons = persons[persons.scores >= MIN_SCORE][:MAX_PERSONS]
    maps = _attention_of(outputs[0], persons.scores)
    coco = to_coco(persons, 0)
    skeleton = predictor.skeleton
    listed = []
    for index, result in enumerate(coco):
        person = {
            "box": persons.pred_boxes.tensor[index].tolist(),
            "score": float(persons.scores[index]),
            "keypoints": persons.pred_keypoints[index].tolist(),
            "coco": result,
        }
        if maps is not None:
            person["attention"] = base64.b64encode(maps[index].tobytes()).decode()
        listed.append(person)
    return {
        "width": image.shape[1],
        "height": image.shape[0],
        "keypoint_names": list(skeleton.keypoint_names),
        "limbs": [list(limb) for limb in skeleton.limbs],
        "sides": list(skeleton.sides),
        "attention_shape": None if maps is None else list(maps.shape[1:]),
        "persons": listed,
    }


def _attention_of(output, scores: torch.Tensor) -> np.ndarray | None:
    """The last stage's maps of the persons with these scores (n,): (n, M, H, W) uint8, or None without maps."""
    attention = output.attention[-1]
    if attention is None:
        return None
    # the same arithmetic as the model's inference, so that a person's score is exactly its row's
    confidence = (1 - output.sigmas[-1]).mean(dim=-1).mean(dim=-1)
    row_scores = output.logits[-1].float().flatten()[output.rows].sigmoid() * confidence
    rows = (row_scores.cpu()[None] - scores[:, None]).abs().argmin(dim=1)
    maps = attention.detach().float().cpu()[rows]
    maps = maps / maps.flatten(2).amax(dim=2)[..., None, None].clamp(min=1e-12)
    return (maps * 255).round().to(torch.uint8).numpy()
