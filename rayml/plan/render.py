"""The plan for people and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rayml.plan.plan import Plan, Step
from rayml.plan.preview import preview
from rayml.plan.show import Forecast
from rayml.spec.words import count

if TYPE_CHECKING:
    from rich.console import Console

FROM_DATA = "from data"
LATER = {
    "data.image.size": FROM_DATA,
    "data.image.channels": FROM_DATA,
    "data.columns": FROM_DATA,
    "serve.port": "a free one, asked for when the endpoint starts",
}
"""What only the data, or the moment, can say; nothing else may still be "auto" in a plan."""
ROOM_FOR_KEYS = 90
"""Columns of a terminal below which the keys are left out, so that the reasons can be read."""


def plan_json(plan: Plan, planned: Forecast) -> dict[str, Any]:
    """Plan and forecast as one document."""
    return {
        "job": plan.job,
        "seed": plan.seed,
        "rayml": plan.rayml,
        "cluster": plan.cluster.model_dump(),
        "from_data": planned.resolved,
        "memory": None if planned.memory is None else {"total": planned.memory.total, **planned.memory.model_dump()},
        "steps": [step.model_dump() for step in planned.steps],
        "will_run": [step.name for step in planned.work],
        **sweep_json(plan),
    }


def sweep_json(plan: Plan) -> dict[str, Any]:
    """What a plan says of a sweep; nothing where the job has none."""
    if all(step.name != "tune" for step in plan.steps):
        return {}
    size, points = preview(plan)
    decision = None if plan.decision is None else plan.decision.model_dump()
    return {"sweep": {"configurations": size, "first": points, "decision": decision}}


def print_plan(console: Console, plan: Plan, planned: Forecast) -> None:
    """The table of steps, what each resolved to, and what the data says."""
    from rich.table import Table
    from rich.text import Text

    cluster = plan.cluster
    console.print(
        Text.assemble(
            (plan.job, "bold"),
            f"  seed {plan.seed}, on {count(cluster.cpus, 'CPU')}, {count(cluster.gpus, 'GPU')}, "
            f"{cluster.object_store / 2**20:,.0f} MiB object store",
        )
    )
    if plan.code:
        console.print(f"runs your code from {plan.code}", highlight=False, soft_wrap=True)
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    columns = ("step", "resources", "status", "estimate", "why", "key")
    for column in columns[: -1 if console.width < ROOM_FOR_KEYS else None]:
        table.add_column(column, no_wrap=column != "why", overflow="fold")
    for step in planned.steps:
        status = Text(step.status, style="blue" if step.status == "cached" else "yellow")
        cells = (step.name, step.resources, status, estimate(step.estimate_s), Text(step.reason), step.key[:12])
        table.add_row(*cells[: len(table.columns)])
    console.print(table)
    console.print(Text("resolved", style="dim"))
    for path, value in resolved_values(plan, planned):
        console.print(f"  {path} = {value}", highlight=False, markup=False, soft_wrap=True)
    console.print(summary(planned))


def estimate(seconds: float | None) -> str:
    """Seconds as a person reads them."""
    if seconds is None:
        return "unknown"
    return f"{seconds:.1f} s" if seconds else "0"


def resolved_values(plan: Plan, planned: Forecast) -> list[tuple[str, Any]]:
    """Every leaf of every step's configuration, and what only the data says."""
    leaves = [leaf for step in plan.steps for leaf in walk(step.name, shown_of(step))]
    shown = [(path, LATER.get(path, value) if value == "auto" else value) for path, value in leaves]
    found = [(f"data -> {name}", value) for name, value in planned.resolved.items()]
    found += sweep_values(plan)
    if any(step.name == "train" for step in plan.steps):
        found.append(("train -> memory per worker", memory_words(planned)))
    return [*shown, *found]


def shown_of(step: Step) -> dict[str, Any]:
    """A step's configuration and policy, without what stands elsewhere: the steps of a trial are the job's own."""
    hidden = {"tune": ("trial", "warm"), "compress": ("train", "train_code", "blocks")}.get(step.name, ())
    return {name: value for name, value in {**step.config, **step.policy}.items() if name not in hidden}


def sweep_values(plan: Plan) -> list[tuple[str, Any]]:
    """How large the space of a sweep is, its first configurations, and what it decided."""
    if all(step.name != "tune" for step in plan.steps):
        return []
    size, points = preview(plan)
    found: list[tuple[str, Any]] = [("tune -> configurations", "not countable" if size is None else f"{size:,}")]
    for number, point in enumerate(points):
        found.append((f"tune -> trial {number}", ", ".join(f"{path}={value}" for path, value in point.items())))
    if plan.decision is not None:
        found.append(("tune -> decided", f"trial {plan.decision.trial}, {plan.decision.why}"))
    return found


def memory_words(planned: Forecast) -> str:
    """The estimate in words, or how to get one."""
    memory = planned.memory
    if memory is None:
        return FROM_DATA if FROM_DATA in planned.resolved.values() else "not estimated yet; --estimate does it"
    parts = ", ".join(f"{name} {megabytes(size)}" for name, size in memory.parts.items())
    copies = f"; the first worker keeps {megabytes(memory.checkpoint)} more in RAM for checkpoints"
    return f"{megabytes(memory.total)}: {parts}{copies if memory.checkpoint else ''}"


def megabytes(size: int) -> str:
    """`233 MB`, `1.4 GB`; below 10 MB with one digit after the point."""
    if size >= 10**9:
        return f"{size / 10**9:.1f} GB"
    return f"{size / 10**6:.0f} MB" if size >= 10**7 else f"{size / 10**6:.1f} MB"


def walk(path: str, value: Any) -> list[tuple[str, Any]]:
    """The leaves below a value, each with its path."""
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in walk(f"{path}.{key}", inner)]
    return [(path, value)]


def summary(planned: Forecast) -> str:
    """One sentence: what a run would do, and how long that takes as far as is known."""
    work = planned.work
    if not work:
        return "nothing to run: every step is there"
    known = [step.estimate_s for step in work if step.estimate_s is not None]
    names = ", ".join(step.name for step in work)
    time = f"about {sum(known):.0f} s" if len(known) == len(work) else "time not known before the first run"
    costs = planned.costs.sentence()
    return f"would run {names}: {time}{'; ' if costs else ''}{costs}"
