"""`rayml tune JOB --lr-range` and `--batch-range`: measured on the workers of the job's train step, nothing is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rayml.artifacts.store import LocalStore, Store
from rayml.errors import PlanError, RaymlError, StageError
from rayml.observe.runs import Home, RunFolder
from rayml.plan.plan import Plan
from rayml.run.session import Session
from rayml.run.suggest import suggest_batch, suggest_lr
from rayml.stages.api import Context
from rayml.stages.train import stage
from rayml.stages.train.launchers.base import Order
from rayml.stages.train.launchers.table import load_launcher

Listener = Callable[..., None]

FOLDER = "tune"
"""Below the home folder: the workers' logs of the last time, by job."""

MEMORY_SHARE = 0.8
STEPS = {"lr_range": 100, "batch_range": 10}


def finder_settings(kind: str, first: float, last: float, steps: int | None) -> dict[str, Any]:
    """What the workers are told. PlanError where a ramp does not rise."""
    steps = STEPS[kind] if steps is None else steps
    if kind == "batch_range":
        return {"kind": kind, "steps": steps, "memory_share": MEMORY_SHARE}
    if not 0 < first < last:
        raise PlanError(f"a ramp from {first:g} to {last:g} does not rise", where="--from", hint="--from 1e-6 --to 1")
    return {"kind": kind, "from": first, "to": last, "steps": steps}


def find(plan: Plan, home: Home, settings: dict[str, Any], emit: Listener) -> dict[str, Any]:
    """What the workers found, with what follows from it. The data step has to be there.

    Raises:
        PlanError: the job trains nothing, or another process does the same.
        StageError: a worker failed.
    """
    store = LocalStore(home.artifacts)
    folder = RunFolder(home.root / FOLDER / plan.job)
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.held() as alone:
        if not alone:
            raise PlanError(f"another `rayml tune` works for {plan.job}", hint="wait for it, or name another --home")
        found = ask_workers(plan, store, folder.path, settings, emit)
    if settings["kind"] == "lr_range":
        return {**found, "suggestion": suggest_lr(found["points"])}
    if not found["table"]:
        raise StageError(found["ended"], where="tune", hint="use a smaller model, or strategy: {kind: fsdp}")
    return {**found, "suggestion": suggest_batch(found)}


def ask_workers(plan: Plan, store: Store, folder: Path, settings: dict[str, Any], emit: Listener) -> dict[str, Any]:
    """Start the workers as a run does; the fact that the first one tells."""
    step = plan.step("train")
    data = store.find("data", step.inputs["data"])
    assert data is not None, "the data step was run before"
    told: dict[str, Any] = {}

    def hear(kind: str, **fields: Any) -> None:
        if kind == "fact":
            told[fields["name"]] = fields["value"]
        else:
            emit(kind, **fields)

    context = Context(plan, f"tune-{plan.job}", folder, out=folder, work=folder, emit=emit)
    order = Order(
        loop={**stage.loop_config(step, {"data": data}, folder / "checkpoints", context), "finder": settings},
        resources=step.resources,
        logs=folder / "logs",
        storage=folder / "launcher",
        run=context.run,
    )
    with ray_for(plan, folder, needed=step.resources.ray, emit=emit):
        load_launcher(step.policy["launcher"])(order, hear)
    return told[settings["kind"]]  # type: ignore[no-any-return]


@contextlib.contextmanager
def ray_for(plan: Plan, folder: Path, *, needed: bool, emit: Listener) -> Iterator[None]:
    """Ray, where the launcher needs it, for as long as it works."""
    if not needed:
        yield
        return
    session = Session(plan, folder)
    try:
        session.start(note=lambda text: emit("note", text=text))
        yield
    finally:
        session.stop()


def require_train(plan: Plan) -> None:
    """PlanError where a job has nothing to train."""
    if all(step.name != "train" for step in plan.steps):
        raise PlanError("this job trains nothing", where="train", hint="`rayml tune` needs a train section")


def refuse_command(lr_range: bool, batch_range: bool) -> RaymlError:
    """What to say where not exactly one range is asked for."""
    if lr_range and batch_range:
        what = "--lr-range and --batch-range at once"
        return PlanError(what, where="rayml tune", hint="one at a time: the batch first, then the rate for it")
    return PlanError(
        "neither --lr-range nor --batch-range",
        where="rayml tune",
        hint="--lr-range finds a learning rate, --batch-range the rows of a micro-batch; "
        "a sweep over keys of the job is its `tune` section, and `rayml run` runs it",
    )
