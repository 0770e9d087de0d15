"""Quantization-aware training: layers compute with the rounding that ONNX Runtime's int8 kernels will do.

Weights of convolutions and linear layers are rounded to int8, symmetric, with one scale for each output channel; what
goes into these layers is rounded to 8 bits with one scale and zero point, from a range that follows the batches (Jacob
et al., arXiv 1712.05877). Gradients pass the rounding, and not what was cut off. The arithmetic is that of
onnxruntime/python/tools/quantization/quant_utils.py, `compute_scale_zp`. Batch norm stays as it is: folded into the
convolution before it, it multiplies whole channels, and so do their scales.

The weights keep their names: only a layer's forward pass is replaced, and it gets a submodule with the range.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayml.ml.models import Classifier
from rayml.spec.words import count

RANGE = "input_range"
"""Name of the submodule of each layer. The artifact is without it."""
BITS = {"uint8": (0, 255), "int8": (-128, 127)}
"""First and last value of an activation's type."""
SLOWEST = 0.01
"""Share of a batch in the moving range, once there were 100 of them; before, the range is the mean over all."""

SMALLEST = 1e-12
"""Least scale: there is one where all values are 0."""


class InputRange(nn.Module):
    """Rounds what goes into a layer, within a range that is the moving mean of the batches' smallest and largest.

    Args:
        dtype: uint8 or int8.
    """

    track_running_stats = True
    """Ranks give each other such buffers (rayml.stages.train.strategies.statistics)."""

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.first, self.last = BITS[dtype]
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        """Of any shape, to the same shape and dtype."""
        whole = values.float()
        if self.training and torch.is_grad_enabled():
            self.follow(whole.detach())
        scale = ((self.high - self.low) / (self.last - self.first)).clamp(min=SMALLEST)
        zero = (self.first - self.low / scale).round().clamp(self.first, self.last).to(torch.int32)
        rounded = torch.fake_quantize_per_tensor_affine(whole, scale, zero, self.first, self.last)
        return rounded.to(values.dtype)

    @torch.no_grad()
    def follow(self, values: Tensor) -> None:
        """Move the range towards that of a batch. It always holds 0, which padding needs without an error."""
        low, high = torch.aminmax(values)
        self.seen += 1
        share = (1 / self.seen).clamp(min=SLOWEST)
        self.low += share * (low.clamp(max=0) - self.low)
        self.high += share * (high.clamp(min=0) - self.high)


def add_fake_quantization(model: Classifier, config: dict[str, Any]) -> str:
    """Let the convolutions and linear layers of a network compute as int8 would. Returns what was done, as a sentence.

    Args:
        config: `per_channel`, `activations` (uint8 or int8), and `reduce_range` for weights of 7 bits, which need not
            be there.
    """
    limit = 64 if config.get("reduce_range") else 127
    layers: list[nn.Module] = [each for each in model.network.modules() if isinstance(each, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        layer.add_module(RANGE, InputRange(config["activations"]))
        compute: Callable[..., Tensor] = convolve if isinstance(layer, nn.Conv2d) else multiply
        layer.forward = partial(compute, layer, partial(round_weight, limit, per_channel=config["per_channel"]))
    return f"{count(len(layers), 'layer')} trained with the rounding of int8"


def convolve(layer: nn.Conv2d, rounded: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """The forward pass of a convolution, with its input and weight rounded."""
    made: Tensor = layer._conv_forward(layer.get_submodule(RANGE)(values), rounded(layer.weight), layer.bias)
    return made


def multiply(layer: nn.Linear, rounded: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """The forward pass of a linear layer, with its input and weight rounded."""
    return functional.linear(layer.get_submodule(RANGE)(values), rounded(layer.weight), layer.bias)


def round_weight(limit: int, weight: Tensor, *, per_channel: bool) -> Tensor:
    """`[outputs, ...]` weights as int8 holds them, from -limit to limit. Of the same shape and dtype."""
    whole = weight.float()
    if not per_channel:
        scale = (whole.detach().abs().amax() / limit).clamp(min=SMALLEST)
        zero = torch.zeros((), dtype=torch.int32, device=weight.device)
        return torch.fake_quantize_per_tensor_affine(whole, scale, zero, -limit, limit).to(weight.dtype)
    scale = (whole.detach().flatten(1).abs().amax(1) / limit).clamp(min=SMALLEST)
    zero = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(whole, scale, zero, 0, -limit, limit).to(weight.dtype)
