"""Any timm model as a Detectron2 backbone with the stock FPN."""

from typing import Any

import timm
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.utils import comm
from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d
from torch import Tensor, nn

from querypose.errors import UserError

FEATURE_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class TimmBackbone(Backbone):
    """A timm `features_only` model; its features at strides 4, 8, 16 and 32 are named res2 to res5."""

    @configurable
    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        options: dict[str, Any] | None = None,
        out_features: tuple[str, ...] = tuple(FEATURE_STRIDES),
        norm: str = "BN",
        frozen: bool = False,
    ):
        """options: further arguments of timm's constructor, such as `channels` of a ResNet. norm: a mode of
        `set_batch_norm`; `frozen`, with which the neck alone is trained, needs FrozenBN. Parameters that have no part
        in the out_features are frozen anyway.
        """
        super().__init__()
        self.model = create_timm_model("MODEL.TIMM.NAME", name, pretrained=pretrained, **(options or {}))
        strides = self.model.feature_info.reduction()
        missing = [FEATURE_STRIDES[key] for key in out_features if FEATURE_STRIDES[key] not in strides]
        if missing:
            raise UserError(f"the timm model '{name}' has no features at stride {missing}; choose another")
        # the last one of a stride
        index_of = {stride: index for index, stride in enumerate(strides)}
        self._indices = {key: index_of[FEATURE_STRIDES[key]] for key in out_features}
        self._out_features = list(out_features)
        self._out_feature_strides = {key: FEATURE_STRIDES[key] for key in out_features}
        channels = self.model.feature_info.channels()
        self._out_feature_channels = {key: channels[index] for key, index in self._indices.items()}
        self._channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"  # as of some transformers
        self._freeze_unused(name)
        set_batch_norm(self.model, norm, "MODEL.TIMM.NORM")
        if frozen and has_batch_norm(self.model):
            raise UserError(f"MODEL.TIMM.NORM '{norm}' changes with every batch; with MODEL.TIMM.FROZEN give FrozenBN")
        if frozen:
            self.model.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = {key.lower(): value for key, value in cfg.MODEL.TIMM.items()}
        return {**options, "out_features": fpn_in_features(cfg)}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """image (B, 3, H, W), normalized -> features by name, (B, C, H / stride, W / stride)."""
        maps = self.model(image)
        features = {key: maps[index] for key, index in self._indices.items()}
        if self._channels_last:
            return {key: feature.permute(0, 3, 1, 2) for key, feature in features.items()}
        return features

    def _freeze_unused(self, name: str) -> None:
        """Freeze the parameters that reach no feature (timm builds some networks whole), found by running the model.

        The image is not square and small, so that a model for one input size ends here rather than in the FPN.
        """
        parameters = list(self.model.parameters())
        self.model.eval()
        try:
            with torch.enable_grad():
                features = self.forward(torch.zeros(1, 3, 64, 96)).values()
                gradients = torch.autograd.grad([f.sum() for f in features], parameters, allow_unused=True)
        except (RuntimeError, ValueError, AssertionError) as error:
            message = f"the timm model '{name}' does not take images of any size that 32 divides: {error}"
            raise UserError(f"{message}; choose another, or allow it by MODEL.TIMM.OPTIONS") from error
        self.model.train()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)


def create_timm_model(key: str, name: str, **options: Any) -> Any:
    """A timm `features_only` model; raise `UserError`, with the config key of its name, where there is none."""
    try:
        return timm.create_model(name, features_only=True, **options)
    except (RuntimeError, ValueError, TypeError, AssertionError, OSError) as error:
        hint = "; its weights need a network or timm's filled cache" if isinstance(error, OSError) else ""
        raise UserError(f"{key} is '{name}', which timm cannot build as a feature extractor: {error}{hint}") from error


def has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def set_batch_norm(model: nn.Module, mode: str, key: str) -> None:
    """Convert every BatchNorm2d inside `model`, in place; names and values of its weights stay.

    mode: "BN" leaves them as they are; "FrozenBN": running statistics, scale and shift become constants (buffers) in
    training too; "SyncBN": batch statistics over all processes. key: the config key that holds the mode.
    """
    if mode == "BN":
        return
    if not has_batch_norm(model):
        raise UserError(f"{key} is '{mode}', but the model has no BatchNorm; set it to BN")
    if mode == "SyncBN" and comm.get_world_size() > 1 and not torch.cuda.is_available():
        raise UserError(f"{key} 'SyncBN' works on GPUs only; train on one process or set it to BN or FrozenBN")
    # timm's conversions and not Detectron2's or torch's: they keep the activation that timm's BatchNormAct2d holds
    {"FrozenBN": freeze_batch_norm_2d, "SyncBN": convert_sync_batchnorm}[mode](model)


def fpn_in_features(cfg: CfgNode) -> tuple[str, ...]:
    """`MODEL.FPN.IN_FEATURES`; raise `UserError` unless it is res2 .. res5 or an unbroken run of these."""
    names, known = list(cfg.MODEL.FPN.IN_FEATURES), list(FEATURE_STRIDES)
    if not names or not any(names == known[first : first + len(names)] for first in range(len(known))):
        raise UserError(f"MODEL.FPN.IN_FEATURES is {names}; give {known} or some of these, without a gap")
    return tuple(names)


def stock_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """Detectron2's FPN over `MODEL.FPN.IN_FEATURES` of `bottom_up`, without a p6."""
    fpn = cfg.MODEL.FPN
    return FPN(bottom_up, fpn.IN_FEATURES, fpn.OUT_CHANNELS, fpn.NORM, fuse_type=fpn.FUSE_TYPE)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """`MODEL.TIMM.NAME` with Detectron2's FPN over `MODEL.FPN.IN_FEATURES`: levels p2, p3 .."""
    return stock_fpn(cfg, TimmBackbone(cfg))
