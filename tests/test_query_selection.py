"""Fewer queries in the keypoint stages: what stays equal, and what a training step waits for."""

from collections import Counter

import pytest
import torch
from tiny_model import NUM_QUERIES, gradients_of, spread, tiny_batch, tiny_model, without_batch_statistics
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from querypose.modeling import box_stage, meta_arch
from querypose.modeling.losses.matcher import Match
from querypose.modeling.ops.pyramid_pooling import pool_every_level

TOPK = "MODEL.QUERYPOSE.TEST.TOPK_POSES"
FLOOR = "MODEL.QUERYPOSE.TEST.POSE_SCORE_FLOOR"
MATCHED = ("MODEL.QUERYPOSE.TRAIN_QUERIES", "matched")
STAGES = "MODEL.QUERYPOSE.NUM_STAGES"


def results_of(*opts):
    with torch.no_grad():
        return spread(tiny_model(*opts)).eval()(tiny_batch(), do_postprocess=False)


def class_scores(instances):
    return instances.scores / instances.pred_keypoints[..., 2].mean(dim=1)


def assert_same(results, wanted):
    for ours, theirs in zip(results, wanted, strict=True):
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.pred_keypoints, theirs.pred_keypoints, rtol=1e-5, atol=1e-4)


# the full variant is exact where all stages select the same queries, as a single one does
@pytest.mark.parametrize("opts", [("light",), ("branched",), ("full", STAGES, 1)])
@torch.no_grad()
def test_topk_poses_are_those_of_the_exhaustive_run(opts):
    model = spread(tiny_model(*opts)).eval()
    everyone, rows = model(tiny_batch(), do_postprocess=False), []
    for stage in model.decoder.keypoint_stages:
        stage.tower.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    for topk in (1, 4, 50):
        rows.clear()
        model.topk_poses, number = topk, min(topk, NUM_QUERIES)
        kept = model(tiny_batch(), do_postprocess=False)
        assert set(rows) == {2 * number}
        assert_same(kept, [all_[class_scores(all_).topk(number).indices.sort().values] for all_ in everyone])


@torch.no_grad()
def test_full_runs_all_by_default_and_inside_every_query():
    few = spread(tiny_model("full", TOPK, 3)).eval()
    wanted, kept = results_of("full"), few(tiny_batch(), do_postprocess=False)
    assert [len(result) for result in wanted] == [NUM_QUERIES] * 2 and [len(result) for result in kept] == [3, 3]
    assert all(result.pred_keypoints.isfinite().all() for result in kept)
    with few.every_query():
        assert_same(few(tiny_batch(), do_postprocess=False), wanted)
    assert few.topk_poses == 3
    # by default poses are selected where that is exact
    assert tiny_model("full").topk_poses == 0 and tiny_model("branched").topk_poses == 30
    assert tiny_model("branched", TOPK, 0).topk_poses == 0


@pytest.mark.parametrize("variant", ["light", "full"])
def test_a_floor_keeps_those_above_it(variant):
    everyone = results_of(variant)
    scores = torch.cat([class_scores(result) for result in everyone])
    floor = scores.sort().values[4:6].mean().item()
    kept = results_of(variant, FLOOR, floor)
    assert sum(map(len, kept)) == 2 * NUM_QUERIES - 5
    assert_same(kept, [wanted[class_scores(wanted) >= floor] for wanted in everyone])
    assert [len(result) for result in results_of(variant, FLOOR, 0.9999)] == [0, 0]


@pytest.mark.parametrize(("variant", "persons"), [("light", (2, 3)), ("branched", (0, 1)), ("branched", (0, 0))])
def test_matched_queries_alone_train_the_keypoint_stages_as_all_do(variant, persons):
    models = (without_batch_statistics(spread(tiny_model(variant, *opts))) for opts in ((), MATCHED))
    assert_same_training(*models, tiny_batch(persons=persons))


def assert_same_training(every, matched, batch):
    (losses, gradients), (same_losses, same_gradients) = (gradients_of(model, batch) for model in (every, matched))
    assert {name: value.item() for name, value in same_losses.items()} == pytest.approx(
        {name: value.item() for name, value in losses.items()}, rel=1e-4
    )
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(same_gradients[name], gradient, rtol=1e-4, atol=1e-6 * largest, msg=name)


def test_a_stage_runs_the_queries_matched_at_it_or_later(monkeypatch):
    """Three stages that match other queries each: the losses and gradients of all, of 4, 3 and 2 queries."""
    pairs = [Match(torch.tensor(rows), torch.tensor([0, 1])) for rows in ([1, 2], [2, 4], [0, 4])]
    models, rows = [], []
    for opts in ((), MATCHED):
        model = without_batch_statistics(spread(tiny_model("light", *opts, STAGES, 3)))
        monkeypatch.setattr(model.criterion.matcher, "assign", lambda *_: pairs)
        for stage in model.decoder.keypoint_stages:
            stage.tower.register_forward_hook(lambda module, args, out: rows.append(len(out)))
        models.append(model)
    assert_same_training(*models, tiny_batch(persons=(2, 0)))
    assert rows == [2 * NUM_QUERIES] * 3 + [4, 3, 2]
    # a batch without a person runs one row, so that every parameter takes part
    monkeypatch.undo()
    models[1](tiny_batch(persons=(0, 0)))
    assert rows[6:] == [1, 1, 1]


class CountWaits(TorchDispatchMode):
    """Counts the operators whose results the host must wait for on a GPU."""

    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "item")

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in self.waiting or (name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


BEYOND = (
    *("MODEL.QUERYPOSE.ANCHORED_COORDINATES", True, "MODEL.QUERYPOSE.GROUND_TRUTH_REGIONS.COPIES", 2),
    *("MODEL.QUERYPOSE.ONE_TO_MANY.NUM_QUERIES", 5, "MODEL.QUERYPOSE.IMAGE_QUERIES.ENABLED", True),
)


@pytest.mark.parametrize("opts", [("light", *MATCHED), ("light",), ("full",), ("light", *MATCHED, *BEYOND)])
def test_a_training_step_waits_for_nothing_but_the_matching(opts, monkeypatch):
    model, matchings = spread(tiny_model(*opts)).train(), []

    def uncounted(function):
        def call(*args):
            matchings.append(function)
            with _disable_current_modes():
                return function(*args)

        return call

    assign = model.criterion.matcher.assign
    # matches and image sizes are on the host there
    for owner, name in ((model.criterion.matcher, "assign"), (meta_arch, "matched_rows"), (model, "preprocess")):
        monkeypatch.setattr(owner, name, uncounted(getattr(owner, name)))
    monkeypatch.setattr(box_stage, "pool_own_level", pool_every_level)
    batch = tiny_batch()
    with CountWaits() as waits:
        sum(model(batch).values()).backward()
    assert not waits.found, waits.found
    assert matchings.count(assign) == (2 if model.one_to_many is not None else 1)
