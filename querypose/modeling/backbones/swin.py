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
        """
        Args:
            embed_dim: channels of res2; every stage after it has twice as many.
            depths: blocks of the four stages.
            num_heads: attention heads of the four stages.
            window_size: side of the attention windows, in locations.
            stochastic_depth: the probability that the last block is skipped in training; it rises linearly from 0.
            out_features: those of res2 .. res5 to return; stages behind the last of them are not built.
        """
        super().__init__()
        model = SwinTransformer(
            patch_size=[PATCH_SIZE, PATCH_SIZE],
            embed_dim=embed_dim,
            depths=list(depths),
            num_heads=list(num_heads),
            window_size=[window_size, window_size],
            stochastic_depth_prob=stochastic_depth,
            num_classes=1,
        )
        stage_of = {key: list(FEATURE_STRIDES).index(key) for key in out_features}
        # what has no part in the result (later stages, the classifier and its norm) would have no gradient
        self.features = model.features[: 2 * max(stage_of.values()) + 2]
        self._out_features = list(out_features)
        self._out_feature_strides = {key: FEATURE_STRIDES[key] for key in out_features}
        self._out_feature_channels = {key: embed_dim * 2**stage for key, stage in stage_of.items()}
        self._output_of_layer = {1 + 2 * stage: (key, f"norm{stage}") for key, stage in stage_of.items()}
        for key, stage in stage_of.items():
            self.add_module(f"norm{stage}", nn.LayerNorm(self._out_feature_channels[key]))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        config = cfg.MODEL.SWIN
        return {
            "embed_dim": config.EMBED_DIM,
            "depths": config.DEPTHS,
            "num_heads": config.NUM_HEADS,
            "window_size": config.WINDOW_SIZE,
            "stochastic_depth": config.STOCHASTIC_DEPTH,
            "out_features": fpn_in_features(cfg),
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """image (B, 3, H, W), normalized, any size -> features by name, (B, C, H / stride, W / stride) rounded up."""
        height, width = image.shape[-2:]
        x = F.pad(image, (0, -width % PATCH_SIZE, 0, -height % PATCH_SIZE))
        outputs = {}
        for index, layer in enumerate(self.features):
            x = layer(x)  # (B, H / stride, W / stride, C)
            if index in self._output_of_layer:
                key, norm = self._output_of_layer[index]
                outputs[key] = getattr(self, norm)(x).permute(0, 3, 1, 2)
        return {key: outputs[key] for key in self._out_features}


def check_swin_sizes(
    embed_dim: int, depths: list[int], num_heads: list[int], window_size: int, stochastic_depth: float
) -> None:
    """Raise a UserError for values of MODEL.SWIN that make no Swin."""
    stages = len(FEATURE_STRIDES)
    if len(depths) != stages or len(num_heads) != stages or min(*depths, *num_heads, embed_dim) < 1:
        raise UserError(
            f"MODEL.SWIN has DEPTHS {list(depths)}, NUM_HEADS {list(num_heads)} and EMBED_DIM {embed_dim}; give "
            f"{stages} DEPTHS, {stages} NUM_HEADS and an EMBED_DIM, all of at least 1"
        )
    for stage, heads in enumerate(num_heads):
        if embed_dim * 2**stage % heads:
            raise UserError(
                f"MODEL.SWIN.NUM_HEADS {list(num_heads)} must divide the channels of its stage: {heads} does not "
                f"divide {embed_dim * 2**stage} (EMBED_DIM {embed_dim} times 2^{stage})"
            )
    if window_size < 2 or not 0 <= stochastic_depth < 1:
        raise UserError(
            f"MODEL.SWIN has WINDOW_SIZE {window_size} and STOCHASTIC_DEPTH {stochastic_depth}; the former must be at "
            "least 2, the latter at least 0 and below 1"
        )


@BACKBONE_REGISTRY.register()
def build_swin_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The Swin of `MODEL.SWIN` with Detectron2's FPN over `MODEL.FPN.IN_FEATURES`: levels p2, p3 .."""
    return stock_fpn(cfg, SwinBackbone(cfg, input_shape))
