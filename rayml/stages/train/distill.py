"""Learning a teacher's answers beside the labels (Hinton et al., arXiv 1503.02531).

The teacher has answered once for every row, in canonical order, before training begins: its logits lie in a file that
every rank maps, and are looked up by the same row numbers as the features. So what a step learns does not depend on how
many ranks there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rayml.errors import StageError
from rayml.ml.losses import LossSum
from rayml.ml.trained import LOGITS_FILE


@dataclass(frozen=True)
class Distillation:
    """How the teacher's answers come into the loss."""

    temperature: float
    """By which the logits of both are divided before the softmax."""
    hard: float
    """Share of the loss that is on the labels."""
    classes: int

    def __call__(self, base: LossSum, logits: Tensor, labels: Tensor, soft: Tensor | None) -> Tensor:
        """The loss summed over the rows, a float32 scalar.

        Args:
            base: the loss on the labels.
            logits: `[rows, classes]`, or `[rows, classes + 1]` where the last column is how far each row is from the
                teacher inside the networks (rayml.stages.train.matching).
            labels: `[rows] int64`.
            soft: `[rows, classes] float32` logits of the teacher; None where only memory and speed are measured.
        """
        answers, distance = logits[:, : self.classes], logits[:, self.classes :]
        loss = base(answers, labels)
        if soft is not None:
            loss = self.hard * loss + (1 - self.hard) * soft_loss(answers, soft, self.temperature)
        return loss + distance.float().sum() if distance.shape[1] else loss


def soft_loss(logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(soft / T) || softmax(logits / T)) summed over the rows, a float32 scalar.

    With T^2 the gradients keep their size whatever the temperature (section 2 of the paper).
    """
    learned = functional.log_softmax(logits.float() / temperature, dim=1)
    taught = functional.log_softmax(soft.float() / temperature, dim=1)
    return temperature**2 * functional.kl_div(learned, taught, reduction="sum", log_target=True)


def build_distillation(config: dict[str, Any] | None, classes: int) -> Distillation | None:
    """The loss of a `distill` configuration; None without one."""
    return None if config is None else Distillation(config["temperature"], config["hard"], classes)


def open_logits(folder: str | None, rows: int, classes: int) -> NDArray[np.float32]:
    """Map the teacher's logits, `[rows, classes]`.

    Raises:
        StageError: there are none, or they are of other rows or classes.
    """
    assert folder is not None, "a step with `distill` has an input `teacher`"
    path = Path(folder) / LOGITS_FILE
    try:
        logits: NDArray[np.float32] = np.load(path, mmap_mode="r")
        if not isinstance(logits, np.ndarray):
            raise ValueError("it is an archive")
    except (OSError, ValueError) as error:
        raise StageError(f"the teacher's answers cannot be read: {error}", where=str(path)) from error
    if logits.shape != (rows, classes):
        raise StageError(
            f"the teacher has answered with {list(logits.shape)} logits, and the student needs {[rows, classes]}",
            where=str(path),
            hint="teacher and student have to know the same rows and the same classes",
        )
    return logits
