"""The losses of training, by name. Validation reports cross entropy, whatever the model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rayml.errors import StageError
from rayml.ml.usercode import describe_failure, load_callable
from rayml.spec.words import listed, nearest

LossSum = Callable[[Tensor, Tensor], Tensor]
"""`[rows, classes]` logits and `[rows]` int64 labels to the loss summed over the rows, a float32 scalar. The caller
divides by the rows of the global batch."""

SHOWN_CLASSES = 8


def build_loss(
    config: dict[str, Any], classes: Sequence[str], class_counts: Sequence[int] | None, code: str | None
) -> LossSum:
    """The loss of a `loss` section.

    Args:
        classes: names in the order of the labels.
        class_counts: rows of each class in the training split, needed for `balanced` only.
        code: folder of the user's own modules.

    Raises:
        StageError: a weight for a class that there is not, or a function that cannot be loaded.
    """
    if config["kind"] == "callable":
        return OwnLoss(config["function"], config["args"], code)
    weights = class_weights(config["class_weights"], classes, class_counts)
    if config["kind"] == "focal":
        return Focal(weights, config["gamma"])
    return CrossEntropy(weights, config["label_smoothing"])


def class_weights(
    given: str | dict[str, float], classes: Sequence[str], class_counts: Sequence[int] | None
) -> Tensor | None:
    """What a row of each class counts, `[classes]` float32; None where each counts 1."""
    if given == "none":
        return None
    if isinstance(given, dict):
        for name in given:
            if name not in classes:
                raise unknown_class(name, classes)
        return torch.tensor([given.get(name, 1.0) for name in classes], dtype=torch.float32)
    assert class_counts is not None, "balanced class weights need the counts of the training split"
    counts = torch.tensor(class_counts, dtype=torch.float64)
    present = counts > 0
    # A class without a row weighs 1: it is met only by label smoothing.
    return torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 1.0).float()


def unknown_class(name: str, classes: Sequence[str]) -> StageError:
    near = nearest(name, classes)
    shown = listed(list(classes), "and") if len(classes) <= SHOWN_CLASSES else f"{len(classes)} others"
    return StageError(
        f"there is no class `{name}`" + (f"; did you mean `{near}`?" if near else f"; the classes are {shown}"),
        where="train.loss.class_weights",
        hint="name classes as the data's label column has them",
    )


class Weighted:
    """Holds the class weights where the logits are: they are carried to the device once and not in every step."""

    def __init__(self, weights: Tensor | None) -> None:
        self._weights = weights

    def weights_beside(self, logits: Tensor) -> Tensor | None:
        if self._weights is not None and self._weights.device != logits.device:
            self._weights = self._weights.to(logits.device)
        return self._weights


class CrossEntropy(Weighted):
    """As torch has it, with its meaning of class weights under label smoothing."""

    def __init__(self, weights: Tensor | None, label_smoothing: float) -> None:
        super().__init__(weights)
        self._label_smoothing = label_smoothing

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits.float(),
            labels,
            weight=self.weights_beside(logits),
            reduction="sum",
            label_smoothing=self._label_smoothing,
        )


class Focal(Weighted):
    """arXiv 1708.02002, equation 5, with the softmax probability of the row's class as p_t."""

    def __init__(self, weights: Tensor | None, gamma: float) -> None:
        super().__init__(weights)
        self._gamma = gamma

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.float()
        weights = self.weights_beside(logits)
        log_p = functional.log_softmax(logits, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
        # 1 - p from its logarithm, and at least the smallest float: the gradient of 0 to a power below 1 is infinite.
        missing = (-torch.expm1(log_p)).clamp(min=torch.finfo(torch.float32).tiny)
        losses = -(missing**self._gamma) * log_p
        return losses.sum() if weights is None else (weights[labels] * losses).sum()


class OwnLoss:
    """A function of the user's, looked at every time: what it returns is checked by shape, which waits for nothing."""

    def __init__(self, function: str, arguments: dict[str, Any], code: str | None) -> None:
        self._function, self._arguments, self._code = function, arguments, code
        self._call = load_callable(function, code)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        try:
            losses = self._call(logits, labels, **self._arguments)
        except Exception as error:
            raise StageError(f"the loss raised {describe_failure(error, self._code)}", where=self._function) from error
        rows = len(labels)
        if not isinstance(losses, Tensor) or losses.shape != (rows,):
            found = f"the shape {list(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
            raise StageError(
                f"the loss returned {found} for {rows} rows; [{rows}] is wanted",
                where=self._function,
                hint='one number per row: reduction="none" in torch.nn.functional, and no mean() or sum()',
            )
        if not losses.requires_grad and torch.is_grad_enabled():
            raise StageError(
                "the loss does not depend on the logits for torch: it has no gradient",
                where=self._function,
                hint="compute it from `logits` with torch, without detach(), item() or numpy()",
            )
        return losses.float().sum()
