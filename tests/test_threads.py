"""One predictor called by eight threads gives what it gives to one."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny_model import spread, tiny_config, tiny_model

from querypose import PosePredictor
from querypose.skeleton import Skeleton

SKELETON = Skeleton(tuple(f"joint_{i}" for i in range(17)), (), ((0, 1),), (0.05,) * 17)
THREADS = 8


@pytest.mark.parametrize("opts", [("light",), ("full",), ("light", "MODEL.QUERYPOSE.TEST.TOPK_POSES", 3)])
def test_threads_get_what_one_gets(opts):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in rng.integers(40, 100, (2 * THREADS, 2))]
    cfg = tiny_config(*opts, "INPUT.MIN_SIZE_TEST", 0)
    predictor = PosePredictor.from_model(spread(tiny_model(*opts)), cfg, SKELETON, score_threshold=0.0)
    serial = [predictor(image) for image in images]
    with ThreadPoolExecutor(THREADS) as pool:
        parallel = list(pool.map(predictor, images))
    assert len({tuple(persons.scores.tolist()) for persons in serial}) == len(images), "each image has its own result"
    for one, other in zip(serial, parallel, strict=True):
        assert one.image_size == other.image_size and len(one) == len(other) > 0
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_keypoints, other.pred_keypoints)
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
