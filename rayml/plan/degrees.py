"""How a strategy divides its workers. Checked here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rayml.errors import PlanError
from rayml.spec.words import count

FACTORS: dict[str, tuple[str, str]] = {
    "fsdp": ("replicate", "shard"),
    "tensor_parallel": ("data", "tensor"),
    "pipeline": ("data", "stages"),
}
"""The two degrees of a strategy whose product is the number of workers. The second may be `auto`."""


@dataclass(frozen=True)
class Degrees:
    """A division of the workers."""

    strategy: dict[str, Any]
    """The strategy section with every degree a number."""
    data: int
    """Shares that a batch is cut into: ranks that hold parts of one copy of the model read the same rows."""


def resolve_degrees(strategy: dict[str, Any], workers: int) -> Degrees:
    """PlanError where the degrees do not multiply to the number of workers."""
    kind = strategy["kind"]
    if kind == "local" and workers != 1:
        raise PlanError(
            f"{workers} workers, and strategy local is one process",
            where="train.workers",
            hint="type --set train.workers=1 or --set train.strategy.kind=ddp",
        )
    if kind not in FACTORS:
        return Degrees(strategy, data=workers)
    first, second = FACTORS[kind]
    known = strategy[first]
    if strategy[second] == "auto" and workers % known == 0:
        strategy = {**strategy, second: workers // known}
    if strategy[second] == "auto" or known * strategy[second] != workers:
        raise PlanError(
            f"{first} {known} x {second} {strategy[second]} is not {count(workers, 'worker')}",
            where=f"train.strategy.{first}",
            hint=f"{first} x {second} has to be {workers}: {', '.join(products(first, second, workers))}",
        )
    return Degrees(strategy, data=workers if kind == "fsdp" else known)


def products(first: str, second: str, workers: int) -> list[str]:
    """Every pair of degrees that fits."""
    return [f"{first} {each} x {second} {workers // each}" for each in range(1, workers + 1) if workers % each == 0]


def check_batch(batch_size: int, data: int, accumulation: int) -> None:
    """PlanError where a global batch does not divide into equal micro-batches."""
    parts = data * accumulation
    if batch_size % parts == 0:
        return
    below, above = batch_size // parts * parts, (batch_size // parts + 1) * parts
    fits = [str(each) for each in (below, above) if each]
    raise PlanError(
        f"batch_size {batch_size} = {count(data, 'share')} x accumulation {accumulation} x "
        f"{batch_size / parts:.10g} rows, and a micro-batch has whole rows",
        where="train.batch_size",
        hint=f"batch sizes that fit: {' and '.join(fits)}; or change train.workers or train.accumulation",
    )


def auto_batch_size(target: int, data: int, accumulation: int) -> int:
    """The multiple of all factors that is nearest to `target`, and not 0."""
    parts = data * accumulation
    return max(1, round(target / parts)) * parts
