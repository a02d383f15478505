"""The two post-norm transformer blocks that box stage and keypoint stage share."""

from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Multi-head self-attention (MHSA in equations 1 and 2), residual, LayerNorm.

    It runs without attention weights, so PyTorch takes its fused scaled-dot-product kernel.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (batch, length, dim) -> the same shape."""
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.norm(tokens + self.dropout(attended))


class FeedForward(nn.Module):
    """Linear, ReLU, Linear; residual, LayerNorm."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0):
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (..., dim) -> the same shape."""
        hidden = self.dropout(F.relu(self.linear1(tokens)))
        return self.norm(tokens + self.dropout(self.linear2(hidden)))
