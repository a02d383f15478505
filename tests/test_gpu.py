"""On a GPU: the numbers of a CPU, mixed precision, compilation, CUDA graphs, training and its resumption."""

import pytest
import torch
from killed_training import Do, config, largest_difference, state_of, train
from test_query_selection import BEYOND, MATCHED
from test_resume import kill
from tiny_model import gradients_of, spread, tiny_batch, tiny_model

from querypose import PosePredictor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
PHOTO = "docs/images/synthetic_people.jpg"
QUICK_START = ("configs/quickstart.yaml", "weights/quickstart.pth")


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """Convolutions in float32 rather than TF32, so that CPU and GPU agree."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@torch.no_grad()
def predictions(model, batch):
    return [result.to("cpu") for result in model.eval()(batch, do_postprocess=False)]


def assert_close(results, wanted):
    fields = [[(one.scores, one.pred_boxes.tensor, one.pred_keypoints) for one in each] for each in (results, wanted)]
    torch.testing.assert_close(*fields, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("variant", ["light", "branched", "full"])
def test_predictions_losses_and_gradients_are_those_of_the_cpu(variant):
    found, losses = [], []
    for device in ("cpu", "cuda"):
        model = spread(tiny_model(variant)).to(device)
        found.append(predictions(model, tiny_batch()))
        terms, gradients = gradients_of(model.train(), tiny_batch())
        norm = torch.stack([gradient.norm() for gradient in gradients.values() if gradient is not None]).norm()
        losses.append({name: value.item() for name, value in {**terms, "norm": norm}.items()})
    assert_close(*found)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_stages_and_cuda_graphs_compute_the_same(mode):
    plain, compiled = (spread(tiny_model("light", "MODEL.COMPILE", m)).cuda() for m in ("none", mode))
    for seed in (0, 1, 2, 0):  # a graph is recorded in the second call and replayed from the third on
        batch = tiny_batch(seed=seed)
        assert_close(predictions(compiled, batch), predictions(plain, batch))


def test_the_predictor_finds_the_same_persons_on_both_devices():
    wanted, found = (PosePredictor(*QUICK_START, device=device)(PHOTO) for device in ("cpu", "cuda"))
    assert len(found) == len(wanted) == 3 and found.pred_keypoints.device.type == "cpu"
    torch.testing.assert_close(found.pred_keypoints[..., :2], wanted.pred_keypoints[..., :2], rtol=0, atol=0.5)
    for precision in ("bfloat16", "float16"):
        rounded = PosePredictor(*QUICK_START, device="cuda", precision=precision)(PHOTO)
        torch.testing.assert_close(rounded.pred_keypoints[..., :2], wanted.pred_keypoints[..., :2], rtol=0, atol=3.0)


def test_training_resumes_as_if_nothing_had_happened(people, tmp_path):
    """Five steps in mixed precision, at once and with a stop after the third."""

    def run(folder, *hooks):
        torch.manual_seed(0)
        opts = ("MODEL.DEVICE", "cuda", "SOLVER.AMP.ENABLED", True, "SOLVER.MAX_ITER", 5)
        return train(config(people, tmp_path / folder, *opts), *hooks)

    run("once")
    with pytest.raises(SystemExit):
        run("twice", Do(2, kill))
    assert run("twice").start_iter == 3
    # sums of gradients have no fixed order on a GPU, and Adam's steps are of the size of the learning rate
    once, twice = (state_of(tmp_path / folder)["model"] for folder in ("once", "twice"))
    assert largest_difference(once, twice) < 1e-3


@pytest.mark.parametrize("opts", [(), BEYOND])
def test_a_training_step_waits_for_nothing_but_the_matching(opts, monkeypatch):
    model = spread(tiny_model("light", *MATCHED, *opts)).cuda().train()
    assign = model.criterion.matcher.assign

    def allowed(*args):
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        try:
            return assign(*args)
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    monkeypatch.setattr(model.criterion.matcher, "assign", allowed)
    batch = tiny_batch()
    gradients_of(model, batch)  # libraries set themselves up
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients_of(model, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
