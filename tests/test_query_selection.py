"""Fewer queries in the keypoint stages: what stays equal, what mixes nothing, what is waited for."""

from collections import Counter

import pytest
import torch
from tiny_model import NUM_QUERIES, spread, tiny_batch, tiny_model, without_batch_statistics
from torch.utils._python_dispatch import TorchDispatchMode

from querypose.modeling import box_stage
from querypose.modeling.losses.matcher import Match
from querypose.modeling.ops.pyramid_pooling import pool_every_level

TOPK = "MODEL.QUERYPOSE.TEST.TOPK_POSES"
FLOOR = "MODEL.QUERYPOSE.TEST.POSE_SCORE_FLOOR"
MATCHED = ("MODEL.QUERYPOSE.TRAIN_QUERIES", "matched")


def class_scores(instances):
    return instances.scores / instances.pred_keypoints[..., 2].mean(dim=1)


def assert_same(results, wanted):
    torch.testing.assert_close(results.scores, wanted.scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results.pred_boxes.tensor, wanted.pred_boxes.tensor, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results.pred_keypoints, wanted.pred_keypoints, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_a_floor_keeps_those_above_it():
    everyone = spread(tiny_model("light")).eval()(tiny_batch(), do_postprocess=False)
    scores = torch.cat([class_scores(result) for result in everyone])
    floor = (scores.sort().values[4:6].mean()).item()
    kept = spread(tiny_model("light", FLOOR, floor)).eval()(tiny_batch(), do_postprocess=False)
    assert sum(map(len, kept)) == 2 * NUM_QUERIES - 5
    for result, wanted in zip(kept, everyone, strict=True):
        assert_same(result, wanted[class_scores(wanted) >= floor])


@pytest.mark.parametrize("variant", ["light", "full"])
@torch.no_grad()
def test_nobody_above_the_floor(variant):
    results = spread(tiny_model(variant, FLOOR, 0.9999)).eval()(tiny_batch())
    assert [len(result["instances"]) for result in results] == [0, 0]


@torch.no_grad()
def test_full_runs_all_by_default_and_every_query_when_told():
    exact = spread(tiny_model("full")).eval()
    assert exact.topk_poses == 0
    few = spread(tiny_model("full", TOPK, 3)).eval()
    wanted, kept = exact(tiny_batch(), do_postprocess=False), few(tiny_batch(), do_postprocess=False)
    assert [len(result) for result in wanted] == [NUM_QUERIES] * 2 and [len(result) for result in kept] == [3, 3]
    assert all(result.pred_keypoints.isfinite().all() for result in kept)
    with few.every_query():
        for result, expected in zip(few(tiny_batch(), do_postprocess=False), wanted, strict=True):
            assert_same(result, expected)
    assert few.topk_poses == 3


@torch.no_grad()
def test_full_with_the_same_rows_in_every_stage_keeps_each_query_s_own_parts():
    """With one stage, what the selected rows get is exactly what they get among all."""
    opts = ("MODEL.QUERYPOSE.NUM_STAGES", 1)
    wanted = spread(tiny_model("full", *opts)).eval()(tiny_batch(), do_postprocess=False)
    kept = spread(tiny_model("full", *opts, TOPK, 3)).eval()(tiny_batch(), do_postprocess=False)
    for result, expected in zip(kept, wanted, strict=True):
        best = class_scores(expected).topk(3).indices.sort().values
        assert_same(result, expected[best])


def step(model, persons=(2, 3)):
    losses = model(tiny_batch(persons=persons))
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def test_full_matched_has_the_losses_of_all_and_a_gradient_for_every_parameter():
    losses, gradients = step(without_batch_statistics(spread(tiny_model("full"))))
    matched_losses, matched_gradients = step(without_batch_statistics(spread(tiny_model("full", *MATCHED))))
    for name, value in losses.items():
        assert matched_losses[name].item() == pytest.approx(value.item(), rel=1e-4), name
    # the last stage's heads are read for matched queries alone, in both
    heads = [name for name in gradients if name.startswith("decoder.keypoint_stages.1.heads.")]
    for name in heads:
        torch.testing.assert_close(matched_gradients[name], gradients[name], rtol=1e-3, atol=1e-5)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in matched_gradients.values())


def test_whoever_is_matched_no_query_gets_the_parts_of_another():
    """Other queries carry gradients in every stage: no prediction of any query moves."""
    decoder = spread(tiny_model("full")).decoder.eval()
    features = [torch.randn(2, 16, 64 // stride, 96 // stride) for stride in (4, 8, 16, 32)]
    sizes = torch.tensor([[96.0, 64.0], [80.0, 48.0]])
    with torch.no_grad():
        wanted = decoder(features, sizes)
    for stages in (([0, 1, 7], [8, 3]), ([3, 8], [7, 0, 1]), ([11], [0])):
        asked = iter(stages)
        output = decoder(features, sizes, track=lambda *_, asked=asked: (torch.tensor(next(asked)), None))
        for ours, expected in (
            (output.coordinates, wanted.coordinates),
            (output.sigmas, wanted.sigmas),
            (output.boxes, wanted.boxes),
        ):
            for one, other in zip(ours, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_light_matched_trains_in_whatever_order_the_persons_are_matched(monkeypatch):
    """Swapping the persons of two queries between stages swaps their targets and nothing that the model computes."""
    model = without_batch_statistics(spread(tiny_model("light", *MATCHED)))
    seen = []
    hook = model.decoder.register_forward_hook(lambda module, args, output: seen.append(output))
    for order in ([0, 1], [1, 0]):
        pairs = [Match(torch.tensor([2, 4]), torch.tensor([0, 1])), Match(torch.tensor([2, 4]), torch.tensor(order))]
        monkeypatch.setattr(model.criterion.matcher, "assign", lambda *_, pairs=pairs: pairs)
        model(tiny_batch(persons=(2, 2)))
    hook.remove()
    for one, other in zip(seen[0].coordinates, seen[1].coordinates, strict=True):
        assert torch.equal(one, other)


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


@pytest.mark.parametrize("opts", [("light", *MATCHED), ("light",), ("full",), ("full", *MATCHED)])
def test_a_training_step_waits_for_nothing_but_the_matching(opts, monkeypatch):
    model = spread(tiny_model(*opts)).train()
    assign, inside = model.criterion.matcher.assign, []

    def outside_of_the_count(*args):
        inside.append(1)
        with torch.utils._python_dispatch._disable_current_modes():
            return assign(*args)

    monkeypatch.setattr(model.criterion.matcher, "assign", outside_of_the_count)
    # the rows are on the host there: their union is no question to the device
    monkeypatch.setattr(box_stage.BoxStage, "pool", lambda self, *args: pool_every_level(self.pooler, *args))
    from querypose.modeling import meta_arch

    rows_of = meta_arch.matched_rows

    def on_host(matches):
        with torch.utils._python_dispatch._disable_current_modes():
            return rows_of(matches)

    monkeypatch.setattr(meta_arch, "matched_rows", on_host)
    preprocess = model.preprocess

    def sizes_on_host(inputs):
        with torch.utils._python_dispatch._disable_current_modes():
            return preprocess(inputs)

    monkeypatch.setattr(model, "preprocess", sizes_on_host)
    batch = tiny_batch()
    with CountWaits() as waits:
        sum(model(batch).values()).backward()
    assert not waits.found, waits.found
    assert len(inside) == (2 if opts == ("full", *MATCHED) else 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_a_gpu_waits_for_nothing_but_the_matching(monkeypatch):
    model = spread(tiny_model("light", *MATCHED)).cuda().train()
    assign = model.criterion.matcher.assign

    def allowed(*args):
        torch.cuda.set_sync_debug_mode("default")
        try:
            return assign(*args)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(model.criterion.matcher, "assign", allowed)
    batch = tiny_batch()
    sum(model(batch).values()).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(model(batch).values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
