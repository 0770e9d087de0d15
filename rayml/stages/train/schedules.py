"""The learning rate as a pure function of the optimizer step, so that a resumed run has the one it would have had.

Our own, and held to torch.optim.lr_scheduler's classes in the tests: those move an optimizer's rate from its present
value to the next, and reach step n only by way of all before it. The one schedule that depends on the past,
reduce_on_plateau, is torch's class with its state handed out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayml.errors import StageError

if TYPE_CHECKING:
    from torch.optim import Optimizer

PLATEAU_STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


@dataclass(frozen=True)
class Position:
    """Where a step is in the training."""

    done: int
    """Steps before this one, those of the warm-up too."""
    steps_per_epoch: int
    step: int
    """Steps between the warm-up and this one."""
    steps: int
    """Steps between the warm-up and the end."""

    @property
    def share(self) -> float:
        """How much of what follows the warm-up is done, 0 to 1."""
        return min(self.step / self.steps, 1.0)


class Schedule:
    """The factor of the learning rate at each optimizer step.

    Args:
        config: a `schedule` section.
        steps_per_epoch: optimizer steps of one epoch.
        epochs: of the whole training.

    Raises:
        StageError: the warm-up takes all of the training.
    """

    def __init__(self, config: dict[str, Any], steps_per_epoch: int, epochs: int) -> None:
        self._config, self._steps_per_epoch = config, steps_per_epoch
        self._steps = steps_per_epoch * epochs
        self._warmup = config.get("warmup")
        self._warmup_steps = warmup_steps(self._warmup, steps_per_epoch, self._steps)
        self._plateau = Plateau(config) if config["kind"] == "reduce_on_plateau" else None

    def factor(self, step: int) -> float:
        """The factor for the step that comes after `step` others. Pure, but for the metrics of reduce_on_plateau."""
        position = Position(
            done=step,
            steps_per_epoch=self._steps_per_epoch,
            step=max(step - self._warmup_steps, 0),
            steps=self._steps - self._warmup_steps,
        )
        main = self._plateau.factor if self._plateau else SHAPES[self._config["kind"]](self._config, position)
        if step >= self._warmup_steps:
            return main
        start = self._warmup["start_factor"] if self._warmup else 1.0
        return main * float(start + (1 - start) * step / self._warmup_steps)

    @property
    def metric(self) -> str | None:
        """The metric that `observe` waits for, and None where the schedule needs none."""
        return self._config["metric"] if self._plateau else None

    def observe(self, metric: float) -> None:
        """Tell the value of the metric, once after every epoch."""
        if self._plateau:
            self._plateau.observe(metric)

    def state(self) -> dict[str, float]:
        """What depends on the past, as JSON. Empty where nothing does."""
        return self._plateau.state() if self._plateau else {}

    def load(self, state: dict[str, float]) -> None:
        """Go on from what `state` gave."""
        if self._plateau:
            self._plateau.load(state)


def warmup_steps(warmup: dict[str, Any] | None, steps_per_epoch: int, steps: int) -> int:
    """Optimizer steps of the warm-up: 0 without one, at least 1 with one. StageError where it leaves nothing."""
    if warmup is None:
        return 0
    if warmup["steps"] is not None:
        found = int(warmup["steps"])
    elif warmup["epochs"] is not None:
        found = max(round(warmup["epochs"] * steps_per_epoch), 1)
    else:
        found = max(round(warmup["fraction"] * steps), 1)
    if found >= steps:
        raise StageError(
            f"the warm-up takes {found} optimizer steps, and the whole training has {steps}",
            where="train.schedule.warmup",
            hint="write a shorter one, such as {fraction: 0.1}, or more epochs",
        )
    return found


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Give every group its learning rate times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def constant(config: dict[str, Any], at: Position) -> float:
    return 1.0


def step(config: dict[str, Any], at: Position) -> float:
    return float(config["gamma"] ** periods(at, config["every_epochs"]))


def multi_step(config: dict[str, Any], at: Position) -> float:
    passed = sum(periods(at, epochs) > 0 for epochs in config["at_epochs"])
    return float(config["gamma"] ** passed)


def exponential(config: dict[str, Any], at: Position) -> float:
    return float(config["gamma"] ** periods(at, 1))


def periods(at: Position, epochs: float) -> int:
    """How many times so many epochs are over."""
    return at.done // whole_steps(at, epochs)


def whole_steps(at: Position, epochs: float) -> int:
    return max(round(epochs * at.steps_per_epoch), 1)


def cosine(config: dict[str, Any], at: Position) -> float:
    share = at.share
    if config["restart_epochs"] is not None:
        share = share_of_cycle(at.step, whole_steps(at, config["restart_epochs"]), config["restart_growth"])
    return falling(config["floor"], (1 + math.cos(math.pi * share)) / 2)


def share_of_cycle(done: int, length: int, growth: int) -> float:
    """How much of the present cycle is done, where each is `growth` times as long as the one before."""
    while done >= length:
        if growth == 1:
            done %= length
        else:
            done, length = done - length, length * growth
    return done / length


def linear(config: dict[str, Any], at: Position) -> float:
    return falling(config["floor"], 1 - at.share)


def polynomial(config: dict[str, Any], at: Position) -> float:
    return falling(config["floor"], (1 - at.share) ** config["power"])


def falling(floor: float, height: float) -> float:
    """`height` from 1 to 0 as a factor from 1 to the floor."""
    return floor + (1 - floor) * height


def one_cycle(config: dict[str, Any], at: Position) -> float:
    """As torch counts: the top is the last step of the rise, and the end is the last step of all."""
    top, end = max(config["rise"] * at.steps - 1, 0.0), at.steps - 1
    if at.step <= top:
        low, share = config["start_factor"], at.step / top if top > 0 else 1.0
    else:
        low, share = config["end_factor"], 1 - (min(at.step, end) - top) / (end - top)
    height = share if config["shape"] == "linear" else (1 - math.cos(math.pi * share)) / 2
    return falling(low, height)


SHAPES: dict[str, Callable[[dict[str, Any], Position], float]] = {
    "constant": constant,
    "step": step,
    "multi_step": multi_step,
    "exponential": exponential,
    "cosine": cosine,
    "linear": linear,
    "polynomial": polynomial,
    "one_cycle": one_cycle,
}


class Plateau:
    """torch's ReduceLROnPlateau over a parameter of no use, whose learning rate is the factor."""

    def __init__(self, config: dict[str, Any]) -> None:
        import torch
        from torch.optim.lr_scheduler import ReduceLROnPlateau

        self._optimizer = torch.optim.SGD([torch.zeros(())], lr=1.0)
        self._scheduler = ReduceLROnPlateau(
            self._optimizer,
            mode=config["goal"],
            factor=config["gamma"],
            patience=config["patience"],
            threshold=config["threshold"],
            cooldown=config["cooldown"],
            min_lr=config["floor"],
        )

    @property
    def factor(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def observe(self, metric: float) -> None:
        self._scheduler.step(metric)

    def state(self) -> dict[str, float]:
        values = self._scheduler.state_dict()
        return {"factor": self.factor, **{name: values[name] for name in PLATEAU_STATE if math.isfinite(values[name])}}

    def load(self, state: dict[str, float]) -> None:
        self._optimizer.param_groups[0]["lr"] = state["factor"]
        self._scheduler.load_state_dict({name: state[name] for name in PLATEAU_STATE if name in state})
