"""The `train.loss` section: what training makes small."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rayml.spec.base import CodeReference, Spec, Text

ClassWeights = Literal["none", "balanced"] | dict[Text, Annotated[float, Field(ge=0)]]


class CrossEntropy(Spec):
    """Cross entropy of the softmax of the logits."""

    kind: Literal["cross_entropy"]
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a label that is spread evenly over all classes (Szegedy et al., arXiv 1512.00567)."""
    class_weights: ClassWeights = "none"
    """What a row of each class counts. `balanced` is the inverse of the class's share of the training split, so that a
    row counts 1 on average; or a section of `class: weight`, 1 for a class that is not named."""


class Focal(Spec):
    """Focal loss: rows that are easy count less (Lin et al., arXiv 1708.02002), on the softmax of the logits."""

    kind: Literal["focal"]
    gamma: float = Field(default=2.0, ge=0)
    """How much less: a row counts (1 - probability of its class) to this power. 0 is cross entropy."""
    class_weights: ClassWeights = "none"
    """What a row of each class counts, alpha in the paper. `balanced` is the inverse of the class's share of the
    training split, so that a row counts 1 on average; or a section of `class: weight`, 1 for a class not named."""


class CallableLoss(Spec):
    """A function of the user's: `def loss(logits, labels, **args) -> Tensor`, from `[rows, classes]` to `[rows]`."""

    kind: Literal["callable"]
    function: CodeReference
    """Called in each training step. One number per row, since the rows of a step may be shared out over workers."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""


Loss = Annotated[CrossEntropy | Focal | CallableLoss, Field(discriminator="kind")]
