"""The `task` and `model` sections: what is predicted, and by which network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rayml.spec.base import CodeReference, Spec


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


class CallableModel(Spec):
    """A function of the user's that returns the network: `def build(schema, **args) -> torch.nn.Module`."""

    kind: Literal["callable"]
    function: CodeReference
    """Called where the job runs."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""


Model = Annotated[SmallCnn | Mlp | CallableModel, Field(discriminator="kind")]
