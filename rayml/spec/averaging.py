"""The `train.average` section: weights that are a mean over the training, in place of the last ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rayml.spec.base import Spec


class Ema(Spec):
    """Exponential moving average of the weights (Polyak averaging), after each optimizer step."""

    kind: Literal["ema"]
    decay: float = Field(default=0.999, gt=0, lt=1)
    """Share of the average that each step keeps: it looks back over about 1 / (1 - decay) steps."""
    start_step: int = Field(default=0, ge=0)
    """Optimizer steps before the average begins."""
    ramp: bool = True
    """Look back less at first, so that the first weights are soon forgotten: the decay is at most (1 + n) / (10 + n) at
    the n-th step of the average."""


class Swa(Spec):
    """Stochastic weight averaging (Izmailov et al., arXiv 1803.05407): the plain mean over the end of the training.

    The statistics of batch norm are measured again for the mean weights, on the training split.
    """

    kind: Literal["swa"]
    start: Annotated[float, Field(ge=0, lt=1)] = 0.75
    """Share of the whole training before the mean begins."""
    every_steps: Annotated[int, Field(gt=0)] | None = None
    """Optimizer steps from one weight of the mean to the next. Without it: the end of every epoch, as in the paper."""


Average = Annotated[Ema | Swa, Field(discriminator="kind")]
