"""The two post-norm transformer blocks that box stage and keypoint stage share."""

from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Multi-head self-attention (MHSA in equations 1 and 2), residual, LayerNorm."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (batch, length, dim) -> the same shape."""
        # without weights PyTorch takes its fused kernel
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.norm(tokens + attended)


class FeedForward(nn.Module):
    """Linear, ReLU, Linear; residual, LayerNorm."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (..., dim) -> the same shape."""
        return self.norm(tokens + self.linear2(F.relu(self.linear1(tokens))))
