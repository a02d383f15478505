"""Any timm model as a Detectron2 backbone with the stock FPN."""

import timm
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from torch import Tensor

from querypose.errors import UserError

FEATURE_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class TimmBackbone(Backbone):
    """A timm `features_only` model; its features at strides 4, 8, 16 and 32 are named res2 to res5."""

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        options: dict | None = None,
        out_features: tuple[str, ...] = tuple(FEATURE_STRIDES),
    ):
        """
        Args:
            name: a timm model name.
            options: further arguments of timm's constructor, such as `channels` of a ResNet.
            pretrained: load timm's weights (needs a network or a filled cache).
            out_features: those of res2 .. res5 to return.

        Raises:
            UserError: timm does not know the name, or the model lacks a stride.
        """
        super().__init__()
        try:
            self.model = timm.create_model(name, features_only=True, pretrained=pretrained, **(options or {}))
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(
                f"MODEL.TIMM.NAME is '{name}', which timm cannot build as a feature extractor: {error}"
            ) from error
        index_of = {stride: index for index, stride in enumerate(self.model.feature_info.reduction())}
        missing = [FEATURE_STRIDES[key] for key in out_features if FEATURE_STRIDES[key] not in index_of]
        if missing:
            raise UserError(
                f"the timm model '{name}' has no features at stride {missing}; choose one with strides 4 to 32"
            )
        channels = self.model.feature_info.channels()
        self._indices = {key: index_of[FEATURE_STRIDES[key]] for key in out_features}
        self._out_features = list(out_features)
        self._out_feature_strides = {key: FEATURE_STRIDES[key] for key in out_features}
        self._out_feature_channels = {key: channels[index] for key, index in self._indices.items()}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """image (B, 3, H, W), normalised -> features by name, (B, C, H / stride, W / stride)."""
        features = self.model(image)
        return {key: features[index] for key, index in self._indices.items()}


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """`MODEL.TIMM.NAME` with Detectron2's FPN over `MODEL.FPN.IN_FEATURES`: levels p2, p3 .."""
    bottom_up = TimmBackbone(
        cfg.MODEL.TIMM.NAME,
        pretrained=cfg.MODEL.TIMM.PRETRAINED,
        options=dict(cfg.MODEL.TIMM.OPTIONS),
        out_features=tuple(cfg.MODEL.FPN.IN_FEATURES),
    )
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
