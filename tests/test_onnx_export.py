"""The exported graph computes, in ONNX Runtime, what the PyTorch model computes."""

import numpy as np
import pytest
import torch
from tiny_model import spread, tiny_config, tiny_model

from querypose.errors import UserError
from querypose.export import export_onnx
from querypose.modeling import QueryPose
from querypose.modeling.ops import pyramid_pooling
from querypose.modeling.ops.roi_align import roi_align
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
    return session.run(
        ["boxes", "scores", "keypoints", "keypoint_sigmas"], {name: value.numpy() for name, value in inputs.items()}
    )


def assert_same(model, outputs, images):
    """images: the tensors (3, H, W) that stand in the upper left corners of the batch."""
    with torch.no_grad():
        expected = model([{"image": image} for image in images])
    for boxes, scores, keypoints, sigmas, result in zip(*outputs, expected, strict=True):
        instances = result["instances"]
        number = len(instances)
        assert number and (scores[number:] == 0).all()
        assert np.abs(scores[:number] - instances.scores.numpy()).max() < 1e-4
        assert np.abs(boxes[:number] - instances.pred_boxes.tensor.numpy()).max() < 1e-3 * max(images[0].shape)
        assert np.abs(keypoints[:number] - instances.pred_keypoints.numpy()).max() < 1e-3 * max(images[0].shape)
        assert np.abs(sigmas[:number] - instances.pred_keypoint_sigmas.numpy()).max() < 1e-3 * max(images[0].shape)


@pytest.mark.parametrize(
    ("variant", "opts", "sizes"),
    [
        pytest.param("light", (), SIZES, id="light"),
        pytest.param("full", (), SIZES, id="full"),
        pytest.param("light", ("MODEL.QUERYPOSE.TEST.TOPK_POSES", 3), SIZES, id="light-top-k"),
        pytest.param("light", COORDINATES, SIZES[1:], id="coordinates"),
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
        assert_same(model, run_onnx(file, images=images), list(images))


@pytest.mark.parametrize("opts", [("light",), ("full",), ("light", "MODEL.QUERYPOSE.TEST.TOPK_POSES", 3)])
def test_a_threshold_gives_the_persons_above_it(tmp_path, opts):
    model, file = exported(tmp_path, *opts)
    images = (255 * torch.rand(2, 3, 70, 101)).round()
    with torch.no_grad():
        everyone = [result["instances"] for result in model([{"image": image} for image in images])]
    scores = torch.cat([persons.scores for persons in everyone]).sort(descending=True).values
    for threshold in (scores[0] + 0.01, scores[0] - 1e-4, scores[:4].mean(), torch.tensor(0.0)):
        outputs = run_onnx(file, images=images, score_threshold=threshold.reshape(1))
        expected = [persons[persons.scores >= threshold] for persons in everyone]
        number = max(map(len, expected))
        assert [output.shape for output in outputs] == [
            *[(2, number, 4), (2, number), (2, number, 17, 3), (2, number, 17, 2)]
        ]
        for boxes, found, keypoints, sigmas, persons in zip(*outputs, expected, strict=True):
            n = len(persons)
            assert np.allclose(found[:n], persons.scores, atol=1e-5) and (found[n:] == 0).all()
            assert np.allclose(boxes[:n], persons.pred_boxes.tensor, atol=1e-2)
            assert np.allclose(keypoints[:n], persons.pred_keypoints, atol=1e-2)
            assert np.allclose(sigmas[:n], persons.pred_keypoint_sigmas, atol=1e-2)


def test_images_of_different_sizes_share_a_batch(tmp_path):
    model, file = exported(tmp_path, "light", opset=16)
    images = (255 * torch.rand(2, 3, 90, 100)).round()
    sizes = torch.tensor([[100.0, 61.0], [73.0, 90.0]])
    outputs = run_onnx(file, images=images, image_sizes=sizes)
    assert_same(model, outputs, [images[0, :, :61], images[1, :, :, :73]])


def test_the_file_holds_standard_operators_only(tmp_path):
    _, file = exported(tmp_path, "light", opset=16)
    proto = onnx.load(file)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 16)]
    assert "RoiAlign" in {node.op_type for node in proto.graph.node}


def test_a_model_without_sigma_exports_none(tmp_path):
    opts = ("MODEL.QUERYPOSE.KEYPOINT_LOSS", "L1")
    file = export_onnx(tiny_model("light", *opts), tiny_config("light", *opts), SKELETON, tmp_path / "model.onnx")
    assert [output.name for output in onnx.load(file).graph.output] == ["boxes", "scores", "keypoints"]


def test_the_model_is_as_before_the_export(tmp_path):
    model = spread(tiny_model("light")).train()
    export_onnx(model, tiny_config("light"), SKELETON, tmp_path / "model.onnx")
    assert model.training and all("pool" not in vars(stage) for stage in model.decoder.box_stages)
    assert pyramid_pooling.roi_align is roi_align
    assert isinstance(model, QueryPose) and sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def test_an_opset_without_such_a_roi_align_is_refused(tmp_path):
    with pytest.raises(UserError, match="opset is 15; it must be from 16"):
        export_onnx(tiny_model(), tiny_config(), SKELETON, tmp_path / "model.onnx", opset=15)
