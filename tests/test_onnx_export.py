"""The exported graph computes, in ONNX Runtime, what the PyTorch model computes."""

import numpy as np
import pytest
import torch
from tiny_model import spread, tiny_config, tiny_model

from querypose.errors import UserError
from querypose.export import export_onnx
from querypose.modeling.ops import pyramid_pooling
from querypose.modeling.ops.pyramid_pooling import roi_align
from querypose.skeleton import Skeleton

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

NAMES = tuple(f"joint_{i}" for i in range(17))
SKELETON = Skeleton(NAMES, (), ((0, 1),), (0.05,) * 17)
SWIN = (
    *("MODEL.BACKBONE.NAME", "build_swin_fpn_backbone", "MODEL.SWIN.EMBED_DIM", 8),
    *("MODEL.SWIN.DEPTHS", [2, 2, 2, 2], "MODEL.SWIN.NUM_HEADS", [1, 2, 4, 8]),
)
HRNET = ("MODEL.BACKBONE.NAME", "build_hrnet_backbone", "MODEL.HRNET.NAME", "hrnet_w18_small")
DETECTRON2_RESNET = (
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 50),
    *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 8),
)
COORDINATES = ("MODEL.QUERYPOSE.PART_EMBEDDING", "CoordinateSPEGM")
TOP_K = ("MODEL.QUERYPOSE.TEST.TOPK_POSES", 3)
NO_SIGMA = ("MODEL.QUERYPOSE.KEYPOINT_LOSS", "L1")
SIZES = ((64, 96), (70, 101), (130, 95))  # height, width
SWIN_SIZES = ((240, 256), (251, 333))


def exported(folder, variant, *opts, opset=17):
    model = spread(tiny_model(variant, *opts)).eval()
    file = export_onnx(model, tiny_config(variant, *opts), SKELETON, folder / "model.onnx", opset=opset)
    return model, file


def run_onnx(file, **inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


def assert_same(model, outputs, images, threshold=0.0):
    """images: the tensors (3, H, W) that stand in the upper left corners of the batch."""
    with torch.no_grad():
        expected = [result["instances"] for result in model([{"image": image} for image in images])]
    assert threshold or all(map(len, expected))
    expected = [persons[persons.scores >= threshold] for persons in expected]
    names = ["pred_boxes", "scores", "pred_keypoints", "pred_keypoint_sigmas"][: len(outputs)]
    assert len(names) == 3 + model.criterion.keypoint_loss.uses_sigma
    for name, output in zip(names, outputs, strict=True):
        assert output.shape[:2] == (len(images), max(map(len, expected)))
        tolerance = 1e-5 if name == "scores" else 1e-2
        for found, persons in zip(output, expected, strict=True):
            values = persons.pred_boxes.tensor if name == "pred_boxes" else persons.get(name)
            assert np.allclose(found[: len(persons)], values, atol=tolerance), name
            assert name != "scores" or (found[len(persons) :] == 0).all()


@pytest.mark.parametrize(
    ("variant", "opts", "sizes"),
    [
        pytest.param("light", (), SIZES, id="light"),
        pytest.param("full", (), SIZES, id="full"),
        pytest.param("light", TOP_K, SIZES, id="light-top-k"),
        pytest.param("light", (*COORDINATES, *NO_SIGMA), SIZES[1:], id="coordinates-no-sigma"),
        pytest.param("full", DETECTRON2_RESNET, SIZES, id="resnet", marks=pytest.mark.slow),
        pytest.param("light", HRNET, SIZES, id="hrnet-lateral", marks=pytest.mark.slow),
        pytest.param("light", (*HRNET, "MODEL.HRNET.NECK", "pooled"), SIZES, id="hrnet-pooled", marks=pytest.mark.slow),
        pytest.param("full", SWIN, SWIN_SIZES, id="swin", marks=pytest.mark.slow),
    ],
)
def test_the_graph_computes_the_models_inference(tmp_path, variant, opts, sizes):
    model, file = exported(tmp_path, variant, *opts)
    for batch, (height, width) in zip((1, 3, 2), sizes, strict=False):
        images = (255 * torch.rand(batch, 3, height, width)).round()
        outputs = run_onnx(file, images=images)
        assert_same(model, outputs, list(images))
    scores = torch.from_numpy(outputs[1]).flatten().sort(descending=True).values
    for threshold in (scores[0] + 0.01, scores[0] - 1e-4, scores[:4].mean(), torch.tensor(0.0)):
        outputs = run_onnx(file, images=images, score_threshold=threshold.reshape(1))
        assert_same(model, outputs, list(images), threshold)
    # one image of the batch is lower, the other narrower
    outputs = run_onnx(file, images=images[-2:], image_sizes=torch.tensor([[width, 61.0], [73.0, height]]))
    assert_same(model, outputs, [images[-2, :, :61], images[-1, :, :, :73]])


def test_the_file_holds_standard_operators_only(tmp_path):
    proto = onnx.load(exported(tmp_path, "light", opset=16)[1])
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 16)]
    assert "RoiAlign" in {node.op_type for node in proto.graph.node}


def test_the_model_is_as_before_the_export(tmp_path):
    model = tiny_model("light").train()
    export_onnx(model, tiny_config("light"), SKELETON, tmp_path / "model.onnx")
    assert all(module.training for module in model.modules()) and torch.backends.mha.get_fastpath_enabled()
    assert "pool" not in vars(model.decoder.box_stages[0]) and pyramid_pooling.roi_align is roi_align
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_what_cannot_be_exported_is_refused(tmp_path):
    for variant, opts, opset, words in (
        ("light", (), 15, "opset is 15; it must be from 16"),
        ("full", TOP_K, 17, "set MODEL.QUERYPOSE.TEST.TOPK_POSES 0"),
    ):
        with pytest.raises(UserError, match=words):
            exported(tmp_path, variant, *opts, opset=opset)
    with pytest.raises(UserError, match="weights are rounded"):
        export_onnx(tiny_model("light").bfloat16(), tiny_config(), None, tmp_path / "model.onnx")
