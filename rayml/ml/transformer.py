"""A pre-norm transformer encoder that classifies images and rows of numbers.

Queries, keys, values and the other projections are linear layers of their own, named `q`, `k`, `v`, `o`, `up` and
`down`: tensor parallelism cuts them by name, and the number of heads follows from the width that a rank then holds.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayml.errors import StageError
from rayml.ml.schema import ImageFeature, Schema

EXPANSION = 4
"""Units of the feed-forward layer per number of a token (Vaswani et al., arXiv 1706.03762)."""


def transformer(schema: Schema, *, width: int, depth: int, heads: int, patch: int, dropout: float) -> nn.Module:
    """Tokens, blocks, a last norm, the mean over the tokens, and one linear layer. StageError where heads do not fit.

    Everything is in one `nn.Sequential`, so its parts can be run one after another on different machines.
    """
    if width % heads:
        raise StageError(f"a width of {width} does not divide by {heads} heads", where="model.width")
    feature = schema.feature
    if isinstance(feature, ImageFeature):
        tokens: nn.Module = PatchTokens(feature, patch, width)
    else:
        tokens = ColumnTokens(len(feature.columns), width)
    parts = {
        "tokens": tokens,
        "blocks": nn.Sequential(*(Block(width, width // heads, dropout) for _ in range(depth))),
        "norm": nn.LayerNorm(width),
        "pool": TokenMean(),
        "head": nn.Linear(width, len(schema.classes)),
    }
    return nn.Sequential(OrderedDict(parts))


class PatchTokens(nn.Module):
    """`[batch, channels, height, width]` to `[batch, patches, token]`, with a learned position for each patch.

    An image that the patch does not divide is filled up with 0, the mean of the training split, to the right and below.
    """

    def __init__(self, feature: ImageFeature, patch: int, width: int) -> None:
        super().__init__()
        self.fill = (0, -feature.width % patch, 0, -feature.height % patch)
        patches = -(-feature.height // patch) * -(-feature.width // patch)
        self.project = nn.Conv2d(feature.channels, width, kernel_size=patch, stride=patch)
        self.position = nn.Parameter(torch.empty(1, patches, width))
        nn.init.normal_(self.position, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.project(functional.pad(images, self.fill)).flatten(2).transpose(1, 2)
        return tokens + self.position


class ColumnTokens(nn.Module):
    """`[batch, columns]` to `[batch, columns, token]`: each number times a vector of its column, plus another one."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(columns, width))
        self.bias = nn.Parameter(torch.empty(columns, width))
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)

    def forward(self, values: Tensor) -> Tensor:
        return values.unsqueeze(2) * self.weight + self.bias


class Block(nn.Module):
    """Attention and feed-forward layers, each added to what came in. `[batch, tokens, width]` to the same shape."""

    def __init__(self, width: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, head_width, dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens)))
        added: Tensor = tokens + self.dropout(self.feed_forward(self.feed_forward_norm(tokens)))
        return added


class Attention(nn.Module):
    """Self-attention over all tokens. `[batch, tokens, width]` to the same shape."""

    def __init__(self, width: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.head_width = head_width
        self.dropout = dropout
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.o = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = (self.by_head(project(tokens)) for project in (self.q, self.k, self.v))
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        projected: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return projected

    def by_head(self, projected: Tensor) -> Tensor:
        """`[batch, tokens, heads * head_width]` to `[batch, heads, tokens, head_width]`, for the heads of this rank."""
        batch, tokens, _ = projected.shape
        return projected.view(batch, tokens, -1, self.head_width).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with GELU and dropout between them, for each token alone."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, EXPANSION * width)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(EXPANSION * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        narrowed: Tensor = self.down(self.dropout(functional.gelu(self.up(tokens))))
        return narrowed


class TokenMean(nn.Module):
    """`[batch, tokens, width]` to `[batch, width]`."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1)
