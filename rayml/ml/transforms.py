"""The fitted transforms as a part of the network, so that the exported file takes raw records."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayml.ml.schema import ImageFeature, Schema


class Preprocess(nn.Module):
    """Raw records to normalized floats.

    Images: `[batch, height, width, channels] uint8` to `[batch, channels, height, width] float32`.
    Vectors: `[batch, columns] float32` to the same shape, with NaN replaced where the data section said so.
    """

    offset: Tensor
    scale: Tensor
    missing: Tensor | None

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.is_image = isinstance(schema.feature, ImageFeature)
        self.memory_format = torch.contiguous_format
        shape = (1, -1, 1, 1) if self.is_image else (1, -1)
        fitted = schema.normalization
        self.register_buffer("offset", torch.tensor(fitted.offset).reshape(shape), persistent=False)
        self.register_buffer("scale", torch.tensor(fitted.scale).reshape(shape), persistent=False)
        missing = None if fitted.missing is None else torch.tensor(fitted.missing).reshape(shape)
        self.register_buffer("missing", missing, persistent=False)

    def forward(self, raw: Tensor) -> Tensor:
        values = raw.permute(0, 3, 1, 2) if self.is_image else raw
        # In the weights' layout: gradients of another one would be copied into DDP's buckets element by element.
        values = values.to(torch.float32, memory_format=self.memory_format)
        if self.missing is not None:
            values = torch.where(torch.isnan(values), self.missing, values)
        return (values - self.offset) / self.scale
