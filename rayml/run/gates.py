"""Gates: whether a step's metrics are what the job asks for. Judged anew at every run, cached step or not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rayml.artifacts.manifest import Artifact
from rayml.errors import GateError
from rayml.plan.plan import Step
from rayml.spec.evaluate import parse_gate


@dataclass(frozen=True)
class Verdict:
    """One gate and what came of it."""

    step: str
    metric: str
    value: float
    bound: str
    passed: bool


def judge(step: Step, metrics: dict[str, float]) -> list[Verdict]:
    """Every gate of a step. A metric that is missing or not a number does not pass."""
    return [check(step.name, metric, metrics.get(metric, math.nan), bound) for metric, bound in gates_of(step).items()]


def gates_of(step: Step) -> dict[str, str]:
    """Metric to bound; empty where the step has no gate."""
    gates: dict[str, str] = step.policy.get("gates", {})
    return gates


def check(step: str, metric: str, value: float, bound: str) -> Verdict:
    """Hold one value against one bound such as `>= 0.95`."""
    compare, limit = parse_gate(bound)
    return Verdict(step, metric, value, bound, not math.isnan(value) and compare(value, limit))


def refuse(verdicts: list[Verdict], artifact: Artifact) -> None:
    """GateError where a gate is not met, with the worst sample where the step names one."""
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if not failed:
        return
    step = failed[0].step
    sentences = [f"{verdict.metric} is {verdict.value:.6g}, the gate asks for {verdict.bound}" for verdict in failed]
    worst = artifact.manifest.facts.get("worst")
    if worst:
        shown = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in worst.items()}
        sentences.append("worst sample: " + ", ".join(f"{name} {value}" for name, value in shown.items()))
    raise GateError("; ".join(sentences), where=f"{step} gate", hint=f"what was made is kept: {artifact.path}")
