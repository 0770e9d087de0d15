"""The `task` and `model` sections: what is predicted, and by which network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rayml.spec.base import CodeReference, Spec, Text


class ImageClassification(Spec):
    """One class per image."""

    kind: Literal["image_classification"]


class TabularClassification(Spec):
    """One class per row of numbers."""

    kind: Literal["tabular_classification"]


Task = Annotated[ImageClassification | TabularClassification, Field(discriminator="kind")]


class SmallCnn(Spec):
    """Two convolutions and a linear layer, with group norm, so that a result does not depend on the worker count."""

    kind: Literal["small_cnn"]
    width: int = Field(default=32, ge=4, le=1024, multiple_of=4)
    """Channels of the first convolution; the second has twice as many."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the activations that are set to 0 in each training step."""


class Mlp(Spec):
    """Fully connected layers with ReLU."""

    kind: Literal["mlp"]
    hidden: tuple[Annotated[int, Field(gt=0)], ...] = (64, 64)
    """Units of each hidden layer."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the activations that are set to 0 in each training step."""


class Transformer(Spec):
    """A pre-norm encoder over patches of an image (Dosovitskiy et al., arXiv 2010.11929) or over a table's columns.

    A column becomes one token, as in FT-Transformer (Gorishniy et al., arXiv 2106.11959).
    """

    kind: Literal["transformer"]
    width: int = Field(default=64, ge=1, le=16384)
    """Numbers that stand for one token; a multiple of `heads`."""
    depth: int = Field(default=4, ge=1, le=256)
    """Blocks of attention and feed-forward layers."""
    heads: int = Field(default=4, ge=1, le=256)
    """Attention heads of each block."""
    patch: int = Field(default=4, ge=1, le=256)
    """Height and width in pixels of the piece of an image that becomes one token; not used for tables."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the activations, and of the attention, that is set to 0 in each training step."""


class TorchvisionModel(Spec):
    """A classification network of torchvision, with random first weights unless `train.start` says otherwise."""

    kind: Literal["torchvision"]
    name: Text = "resnet18"
    """As in `torchvision.models`: resnet18, resnet50, efficientnet_b0, convnext_tiny, vit_b_16, ..."""
    norm: Literal["batch", "group"] = "batch"
    """`batch` is what torchvision has and what its weights need. With `group` a result does not depend on how the rows
    of a batch are dealt to workers; it takes the place of batch norm, in networks that have it."""
    small_images: bool = False
    """For ResNets and images of about 32 pixels: a first convolution of 3x3 and stride 1, and no pooling after it."""
    resize: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Height and width to which the model itself brings an image. It does so in the exported file, too."""


class CallableModel(Spec):
    """A function of the user's that returns the network: `def build(schema, **args) -> torch.nn.Module`."""

    kind: Literal["callable"]
    function: CodeReference
    """Called where the job runs."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""


Model = Annotated[SmallCnn | Mlp | Transformer | TorchvisionModel | CallableModel, Field(discriminator="kind")]

TORCHVISION_MODELS = tuple(
    f"{family}{variant}"
    for family, variants in {
        "alexnet": [""],
        "convnext_": ["tiny", "small", "base", "large"],
        "densenet": ["121", "161", "169", "201"],
        "efficientnet_": ["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "v2_s", "v2_m", "v2_l"],
        "googlenet": [""],
        "inception_v3": [""],
        "maxvit_t": [""],
        "mnasnet": ["0_5", "0_75", "1_0", "1_3"],
        "mobilenet_": ["v2", "v3_small", "v3_large"],
        "regnet_x_": ["400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf"],
        "regnet_y_": ["400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf", "128gf"],
        "resnet": ["18", "34", "50", "101", "152"],
        "resnext": ["50_32x4d", "101_32x8d", "101_64x4d"],
        "shufflenet_v2_": ["x0_5", "x1_0", "x1_5", "x2_0"],
        "squeezenet": ["1_0", "1_1"],
        "swin_": ["t", "s", "b", "v2_t", "v2_s", "v2_b"],
        "vgg": ["11", "11_bn", "13", "13_bn", "16", "16_bn", "19", "19_bn"],
        "vit_": ["b_16", "b_32", "l_16", "l_32", "h_14"],
        "wide_resnet": ["50_2", "101_2"],
    }.items()
    for variant in variants
)
"""What `torchvision.models.list_models` says, so that a misspelt name is found without importing torch."""

RESNETS = ("resnet", "resnext", "wide_resnet")
"""The families that `small_images` fits."""
