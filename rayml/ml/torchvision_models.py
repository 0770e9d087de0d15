"""The classification networks of torchvision, brought to any number of channels, classes and pixels.

The names of their parameters stay as torchvision has them, so that its weights load. torchvision takes a second to
import, and so it is imported where it is used.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from rayml.errors import StageError
from rayml.ml.schema import ImageFeature, Schema
from rayml.spec.words import nearest

MAX_GROUPS = 32
"""Groups of a group norm where the channels allow it (Wu and He, arXiv 1803.08494)."""

FITTING: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
"""What a constructor is given besides: second outputs, used in training only, are left out."""


def torchvision_network(schema: Schema, *, name: str, norm: str, small_images: bool, resize: int | None) -> nn.Module:
    """A network of torchvision with random weights. StageError where it is unknown or does not fit the rows."""
    from torchvision import models

    feature = schema.feature
    if not isinstance(feature, ImageFeature):
        raise StageError(
            "torchvision's networks take images, and the rows hold numbers", hint="write model: {kind: mlp}"
        )
    names = models.list_models(module=models)
    if name not in names:
        near = f"did you mean {nearest(name, names) or 'resnet18'}?"
        raise StageError(f"torchvision has no classification network {name!r}", where="model.name", hint=near)
    height, width = (resize, resize) if resize else (feature.height, feature.width)
    try:
        network: nn.Module = models.get_model(
            name, weights=None, num_classes=len(schema.classes), **fitting(name, height, width)
        )
    except ValueError as error:
        what = f"{name} does not fit images of {height} x {width} pixels: {' '.join(str(error).split())}"
        raise StageError(what, where="model.name", hint="set model.resize, for example to 224") from error
    if feature.channels != 3:
        replace_first_convolution(network, feature.channels)
    if small_images:
        shrink_stem(network, name)
    if norm == "group":
        replace_batch_norms(network)
    return network


def fitting(name: str, height: int, width: int) -> dict[str, Any]:
    """Further arguments of the constructor. StageError where a network takes square images only, and these are not."""
    if name.startswith("vit_"):
        if height != width:
            raise StageError(
                f"{name} takes square images, and these have {height} x {width} pixels",
                where="model.name",
                hint="set model.resize: the model then brings each image to that height and width",
            )
        return {"image_size": height}
    if name.startswith("maxvit"):
        return {"input_size": (height, width)}
    return FITTING.get(name, {})


def replace_first_convolution(network: nn.Module, channels: int) -> None:
    """Let the first convolution take another number of channels. Its other settings stay."""
    name, first = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    replacement = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]  # a pair, as nn.Conv2d itself made it
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    nn.init.kaiming_normal_(replacement.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(name, replacement)


def shrink_stem(network: nn.Module, name: str) -> None:
    """The first layers that He et al. (arXiv 1512.03385, section 4.2) used for images of 32 pixels."""
    from torchvision.models import ResNet

    if not isinstance(network, ResNet):
        raise StageError(f"small_images fits the ResNets only, not {name}", where="model.small_images")
    first = network.conv1
    network.conv1 = nn.Conv2d(first.in_channels, first.out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()


def replace_batch_norms(network: nn.Module) -> None:
    """Group norm in the place of each batch norm."""
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    for name, module in found:
        groups = math.gcd(MAX_GROUPS, module.num_features)
        network.set_submodule(name, nn.GroupNorm(groups, module.num_features))


class Resize(nn.Module):
    """`[batch, channels, any, any]` to `[batch, channels, size, size]`, bilinear."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        return functional.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
