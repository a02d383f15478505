"""How an instance query reads the features of its region: the dynamic channel MLP (Eq. 1)."""

from detectron2.config import configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

QUERY_INTERACTION_REGISTRY = Registry("QUERY_INTERACTION")
QUERY_INTERACTION_REGISTRY.__doc__ = """
Registry of interactions between an instance query and the features of its region, named by
`MODEL.QUERYPOSE.QUERY_INTERACTION`; used by the box stage, and by the keypoint stage of the full variant.

A registered class is an `nn.Module` built as `cls(cfg, num_tokens)`, `num_tokens` being the number of places in
the region (7 x 7 in the box stage, 14 x 14 in the keypoint stage). Its `forward(query, tokens)` takes the
queries (R, d) and the region's features (R, num_tokens, d) and returns what is added to the queries, (R, d);
the caller adds the residual and normalises.
"""


@QUERY_INTERACTION_REGISTRY.register()
class DynamicChannelMLP(nn.Module):
    """A two-layer MLP over the channels of each place, whose weights the query itself makes (DyMLP_channel, Eq. 1)."""

    @configurable
    def __init__(self, *, dim: int, hidden_dim: int, num_tokens: int):
        """
        Args:
            dim: d, the width of queries and features.
            hidden_dim: the width between the two generated layers.
            num_tokens: number of places in a region.
        """
        super().__init__()
        self.dim = dim
        self.hidden_dim = hidden_dim
        self.generator = nn.Linear(dim, 2 * dim * hidden_dim)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.output = nn.Linear(num_tokens * dim, dim)
        self.norm3 = nn.LayerNorm(dim)

    @classmethod
    def from_config(cls, cfg, num_tokens: int):
        config = cfg.MODEL.QUERYPOSE
        return {"dim": config.HIDDEN_DIM, "hidden_dim": config.DYNAMIC_DIM, "num_tokens": num_tokens}

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """query (R, d), tokens (R, num_tokens, d) -> (R, d)."""
        first, second = self.generator(query).split(self.dim * self.hidden_dim, dim=1)
        tokens = tokens.bmm(first.view(-1, self.dim, self.hidden_dim))
        tokens = F.relu(self.norm1(tokens))
        tokens = tokens.bmm(second.view(-1, self.hidden_dim, self.dim))
        tokens = F.relu(self.norm2(tokens))
        return F.relu(self.norm3(self.output(tokens.flatten(1))))


def build_query_interaction(cfg, num_tokens: int) -> nn.Module:
    """The interaction that `MODEL.QUERYPOSE.QUERY_INTERACTION` names, for regions of `num_tokens` places."""
    return QUERY_INTERACTION_REGISTRY.get(cfg.MODEL.QUERYPOSE.QUERY_INTERACTION)(cfg, num_tokens)
