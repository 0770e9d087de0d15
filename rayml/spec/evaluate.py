"""The `evaluate` section: metrics of the exported model, and the gates that they have to pass."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from rayml.spec.base import Fits, Spec
from rayml.spec.words import show

MetricName = Literal[
    "accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
    "roc_auc",
]
METRICS: tuple[MetricName, ...] = get_args(MetricName)

_GATE = re.compile(r"^\s*(>=|<=|>|<)\s*([-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)\s*$")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def parse_gate(text: str) -> tuple[Callable[[float, float], bool], float]:
    """The comparison and the bound of a gate such as `>= 0.95`. ValueError where it is not one."""
    match = _GATE.match(text)
    if match is None:
        raise ValueError(f'{show(text)} is not a gate; write a comparison and a number, such as ">= 0.95"')
    bound = float(match[2])
    if not math.isfinite(bound):
        raise ValueError(f"{show(text)} has a bound that is too large a number")
    return _OPERATORS[match[1]], bound


def _check_gate(text: str) -> str:
    parse_gate(text)
    return text


Gate = Annotated[
    str,
    Field(pattern=_GATE.pattern),
    AfterValidator(_check_gate),
    Fits('a comparison and a number, such as ">= 0.95"'),
]


class EvaluateSpec(Spec):
    """Runs on the exported model, not on the trained one."""

    split: Literal["val", "test"] = "test"
    """The rows that are measured."""
    bootstrap: int = Field(default=1000, ge=100, le=100_000)
    """Resamples behind each 95 % interval."""
    gates: dict[MetricName, Gate] = Field(default_factory=dict)
    """Metric to bound, such as `accuracy: ">= 0.95"`. A gate that is not met ends the run with exit code 3."""
