"""The `train.schedule` section: how the learning rate goes while training does, as a factor of the optimizer's lr."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayml.spec.base import Spec, Text

Factor = Annotated[float, Field(ge=0, lt=1)]
Epochs = Annotated[float, Field(gt=0)]


class Warmup(Spec):
    """The learning rate rises in a straight line to where the schedule has it. Exactly one of the first three."""

    steps: Annotated[int, Field(gt=0)] | None = None
    """Optimizer steps that it takes."""
    epochs: Epochs | None = None
    """Epochs that it takes; parts of one are fine."""
    fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the whole training that it takes."""
    start_factor: Factor = 0.01
    """Where it starts."""

    @model_validator(mode="after")
    def _one_length(self) -> Warmup:
        given = [name for name in ("steps", "epochs", "fraction") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of these"
            raise ValueError(f"a warm-up takes steps, epochs or fraction, and {found} are given")
        return self


class WithWarmup(Spec):
    """What every schedule takes but one_cycle, which has its own."""

    kind: str
    """The schedule's name."""
    warmup: Warmup | None = None
    """Multiplies the schedule. cosine, linear and polynomial begin when it is over; the others count from the start."""


class Constant(WithWarmup):
    """The same learning rate throughout."""

    kind: Literal["constant"]


class StepSchedule(WithWarmup):
    """Lower every so many epochs."""

    kind: Literal["step"]
    every_epochs: Epochs = 30
    """How long each learning rate stays."""
    gamma: float = Field(default=0.1, gt=0)
    """Times the learning rate, each time."""


class MultiStep(WithWarmup):
    """Lower at epochs that are listed."""

    kind: Literal["multi_step"]
    at_epochs: Annotated[tuple[Epochs, ...], Field(min_length=1)]
    """Epochs that are finished when it falls, in rising order."""
    gamma: float = Field(default=0.1, gt=0)
    """Times the learning rate, each time."""

    @model_validator(mode="after")
    def _in_order(self) -> MultiStep:
        if any(later <= earlier for earlier, later in zip(self.at_epochs, self.at_epochs[1:], strict=False)):
            raise ValueError("at_epochs has to rise from each entry to the next")
        return self


class Exponential(WithWarmup):
    """Lower after every epoch."""

    kind: Literal["exponential"]
    gamma: float = Field(default=0.95, gt=0)
    """Times the learning rate, after each epoch."""


class Cosine(WithWarmup):
    """Half a cosine from the learning rate to the floor (SGDR, Loshchilov and Hutter, arXiv 1608.03983)."""

    kind: Literal["cosine"]
    floor: Factor = 0.0
    """Where it ends."""
    restart_epochs: Epochs | None = None
    """Length of the first cycle; the next starts at the top again. Without it one cycle lasts until the end."""
    restart_growth: int = Field(default=1, ge=1)
    """Each cycle is this many times as long as the one before."""


class Linear(WithWarmup):
    """A straight line from the learning rate to the floor."""

    kind: Literal["linear"]
    floor: Factor = 0.0
    """Where it ends."""


class Polynomial(WithWarmup):
    """A power of the share of training that is left."""

    kind: Literal["polynomial"]
    power: float = Field(default=2.0, gt=0)
    """1 is a straight line; above 1 it falls faster at first."""
    floor: Factor = 0.0
    """Where it ends."""


class OneCycle(Spec):
    """Up to the learning rate, down to almost nothing (Smith and Topin, arXiv 1708.07120). Momentum stays as it is."""

    kind: Literal["one_cycle"]
    rise: float = Field(default=0.3, gt=0, lt=1)
    """Share of the training in which it rises."""
    start_factor: Factor = 0.04
    """Where it starts."""
    end_factor: Factor = 4e-6
    """Where it ends."""
    shape: Literal["cosine", "linear"] = "cosine"
    """Of the way up and of the way down."""


class Plateau(WithWarmup):
    """Lower when a metric has stopped to improve."""

    kind: Literal["reduce_on_plateau"]
    metric: Text = "val/loss"
    """Read after every epoch."""
    goal: Literal["min", "max"] = "min"
    """What is an improvement."""
    gamma: float = Field(default=0.1, gt=0, lt=1)
    """Times the learning rate, each time."""
    patience: int = Field(default=5, ge=0)
    """Epochs without an improvement that are waited for."""
    threshold: float = Field(default=1e-4, ge=0)
    """What an improvement has to be at least, relative to the best value."""
    cooldown: int = Field(default=0, ge=0)
    """Epochs after each time that do not count."""
    floor: Factor = 0.0
    """It does not fall below this."""


Schedule = Annotated[
    Constant | StepSchedule | MultiStep | Exponential | Cosine | Linear | Polynomial | OneCycle | Plateau,
    Field(discriminator="kind"),
]
