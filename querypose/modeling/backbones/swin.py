"""Swin Transformer from torchvision with the stock FPN."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import SwinTransformer

from querypose.errors import UserError
from querypose.modeling.backbones.timm_models import FEATURE_STRIDES, fpn_in_features, stock_fpn

PATCH_SIZE = 4


class SwinBackbone(Backbone):
    """Swin's stages at strides 4, 8, 16 and 32, each with a LayerNorm on its output, named res2 to res5.

    torchvision's layers compute what the original ones do at any input size, except where a map, padded to windows, is
    not larger than one window in a direction (res5 of images under 225 pixels, for windows of 7): torchvision leaves
    the shift out there. `features.{1 + 2 i}` is stage i, `features.{2 + 2 i}` the downsampling behind it.
    """

    @configurable
    def __init__(
        self,
        *,
        embed_dim: int,
        depths: list[int],
        num_heads: list[int],
        window_size: int,
        stochastic_depth: float = 0.0,
        out_features: tuple[str, ...] = tuple(FEATURE_STRIDES),
    ):
        """Stages have embed_dim channels, twice, four and eight times as many; those behind the last of the
        out_features are not built. stochastic_depth: probability of skipping the last block, rising from 0.
        """
        super().__init__()
        sizes: Any = ([PATCH_SIZE, PATCH_SIZE], embed_dim, list(depths), list(num_heads), [window_size, window_size])
        model = SwinTransformer(*sizes, stochastic_depth_prob=stochastic_depth, num_classes=1)
        self._stages = {i: key for i, key in enumerate(FEATURE_STRIDES) if key in out_features}
        # what has no part in the result (later stages, the classifier and its norm) would have no gradient
        self.features = model.features[: 2 * max(self._stages) + 2]
        self._out_features = list(out_features)
        self._out_feature_strides = {key: FEATURE_STRIDES[key] for key in out_features}
        self._out_feature_channels = {key: embed_dim * 2**stage for stage, key in self._stages.items()}
        for stage, key in self._stages.items():
            self.add_module(f"norm{stage}", nn.LayerNorm(self._out_feature_channels[key]))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        options = {key.lower(): value for key, value in cfg.MODEL.SWIN.items()}
        return {**options, "out_features": fpn_in_features(cfg)}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """image (B, 3, H, W), normalized, any size -> features by name, (B, C, H / stride, W / stride) rounded up."""
        height, width = image.shape[-2:]
        x = F.pad(image, (0, -width % PATCH_SIZE, 0, -height % PATCH_SIZE))
        outputs = {}
        for index, layer in enumerate(self.features):
            x = layer(x)  # (B, H / stride, W / stride, C)
            stage, is_downsampling = divmod(index - 1, 2)
            if stage in self._stages and not is_downsampling:
                outputs[self._stages[stage]] = getattr(self, f"norm{stage}")(x).permute(0, 3, 1, 2)
        return outputs


def check_swin(swin: CfgNode) -> None:
    """Raise a UserError for values of MODEL.SWIN that make no Swin."""
    if not len(swin.DEPTHS) == len(swin.NUM_HEADS) == 4 or min(*swin.DEPTHS, *swin.NUM_HEADS, swin.EMBED_DIM) < 1:
        raise UserError("MODEL.SWIN needs 4 DEPTHS, 4 NUM_HEADS and an EMBED_DIM, all of at least 1")
    if any(swin.EMBED_DIM * 2**stage % heads for stage, heads in enumerate(swin.NUM_HEADS)):
        raise UserError(f"MODEL.SWIN.NUM_HEADS must divide the channels, EMBED_DIM {swin.EMBED_DIM} times 1, 2, 4, 8")
    if swin.WINDOW_SIZE < 2:
        raise UserError(f"MODEL.SWIN.WINDOW_SIZE is {swin.WINDOW_SIZE}; it must be at least 2")
    if not 0 <= swin.STOCHASTIC_DEPTH < 1:
        raise UserError(f"MODEL.SWIN.STOCHASTIC_DEPTH is {swin.STOCHASTIC_DEPTH}; it must be at least 0 and below 1")


@BACKBONE_REGISTRY.register()
def build_swin_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The Swin of `MODEL.SWIN` with Detectron2's FPN over `MODEL.FPN.IN_FEATURES`: levels p2, p3 .."""
    return stock_fpn(cfg, SwinBackbone(cfg, input_shape))
