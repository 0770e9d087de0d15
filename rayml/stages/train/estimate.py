"""The memory that one worker will need, found by a rehearsal: the strategy's own steps on tensors without values.

torch's FakeTensorMode knows shape, type and device of every tensor of a step and computes nothing, so a model of any
size takes a second and no memory; a process group that sends nothing stands for the other workers. What a kernel takes
for itself while it runs is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rayml.artifacts.manifest import Artifact
from rayml.artifacts.store import Store
from rayml.errors import PlanError, StageError
from rayml.ml.ledger import Ledger
from rayml.ml.schema import Schema
from rayml.ml.shards import load_schema
from rayml.plan.estimate import MemoryEstimate, estimate_key, keep_estimate, kept_estimate, schema_of
from rayml.plan.plan import Plan, Step
from rayml.stages.train.placed import own_part
from rayml.stages.train.rehearsal import rehearsed_strategy
from rayml.stages.train.setup import build_recipe, make_model
from rayml.stages.train.state import LoopConfig
from rayml.stages.train.strategies.base import MicroBatch, Seat

STEPS = 2
"""The optimizer's state is there from the first step on."""

WITHOUT = {"compile": False, "channels_last": False}
"""What cannot be rehearsed. The order of channels changes no size."""


def estimate_plan(plan: Plan, store: Store, home: Path) -> None:
    """Make the estimate of a plan's train step and keep it.

    Raises:
        PlanError: nothing is trained, or the data step has not run yet, so that nobody knows what a row is.
        StageError: the rehearsal cannot be done.
    """
    steps = {step.name: step for step in plan.steps}
    if "train" not in steps:
        raise PlanError("the job trains nothing", where="--estimate")
    data = store.find("data", steps["data"].key)
    if data is None:
        raise PlanError(
            "the memory follows from the shape of a row, and the data step has not run yet",
            where="--estimate",
            hint=f"type rayml run {plan.job_file} --to data",
        )
    estimate_step(steps["train"], data, plan.code, home)


def estimate_step(step: Step, data: Artifact, code: str | None, home: Path) -> MemoryEstimate:
    """The estimate of a train step: the one that is kept, or a new one, which is kept from now on."""
    key = estimate_key(step, schema_of(data))
    kept = kept_estimate(home, key)
    if kept is not None:
        return kept
    device = "cuda" if step.resources.gpus_per_worker else "cpu"
    made = estimate(step.config, load_schema(data.path), code, device)
    keep_estimate(home, key, made)
    return made


def estimate(train: dict[str, Any], schema: Schema, code: str | None, device: str = "cpu") -> MemoryEstimate:
    """What the worker with the most holds when it holds most, without the interpreter and its libraries.

    Args:
        train: the train step's configuration.
        code: folder of the user's modules.
        device: cpu or cuda; there need not be one.

    Raises:
        StageError: the rehearsal cannot be done, for example since the user's network reads values.
    """
    try:
        with company(train["workers"]):
            seats = [Seat(rank, train["workers"], torch.device(device)) for rank in different_ranks(train["strategy"])]
            return max(
                (rehearse({**train, **WITHOUT}, schema, code, seat) for seat in seats), key=lambda each: each.total
            )
    except StageError:
        raise
    except Exception as error:
        raise StageError(
            f"the memory cannot be estimated: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
            where="train",
            hint="a network that reads values of tensors cannot be rehearsed without them",
        ) from error


@contextmanager
def company(workers: int) -> Iterator[None]:
    """Other workers that answer nothing, for the collectives of a strategy."""
    if workers == 1:
        yield
        return
    assert not dist.is_initialized(), "an estimate is made before the workers start, in another process"
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=workers)
    try:
        yield
    finally:
        dist.destroy_process_group()


def different_ranks(strategy: dict[str, Any]) -> range:
    """The ranks that hold different things; all others are like one of them."""
    return range(strategy["stages"] if strategy["kind"] == "pipeline" else 1)


def rehearse(train: dict[str, Any], schema: Schema, code: str | None, seat: Seat) -> MemoryEstimate:
    """Some steps, and what was live when most was."""
    recipe = build_recipe(train, schema, [1] * len(schema.classes), code)
    strategy = rehearsed_strategy(train["strategy"], seat)
    ledger, device = Ledger(seat.device), seat.device
    with FakeTensorMode(allow_non_fake_inputs=True), ledger:
        ledger.purpose = "weights"
        with device:
            model = make_model(loop_config(train, code), schema, ignore)
        model.to = lambda *_: model  # type: ignore[method-assign]  # it is there, and torch cannot move it
        strategy.prepare(model, recipe)
        for slot in getattr(strategy, "slots", ()):
            ledger.rename(slot, "communication")
        ledger.purpose = "average"
        average = [] if train["average"] is None else [torch.empty_like(each) for each in model.parameters()]
        ledger.purpose = "activations"
        assert strategy.optimizer is not None, "prepare made it"
        follow(ledger, model, strategy.optimizer)
        for _ in range(STEPS):
            strategy.step(make_batches(train, schema, strategy.data_size, device))
        kept = strategy.state()
        copied = [own_part(each) for each in (*kept.weights.values(), *kept.optimizer.values(), *average)]
        return MemoryEstimate(
            parts={name: size for name, size in ledger.peak.items() if size}, checkpoint=bytes_of(copied)
        )


def loop_config(train: dict[str, Any], code: str | None) -> LoopConfig:
    """What `make_model` reads of it; weights to start from change no size."""
    return LoopConfig(train=train, every_steps=0, keep=1, threads=1, data="", checkpoints="", code=code)


def ignore(kind: str, **fields: Any) -> None:
    """Nobody listens to a rehearsal."""


def follow(ledger: Ledger, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let the ledger know gradients and the optimizer's state from other tensors."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def name_gradient(parameter: Tensor) -> None:
        if parameter.grad is not None:
            ledger.rename(parameter.grad, "gradients")

    def before_step(*_: Any) -> None:
        ledger.purpose = "optimizer"
        for parameter in trained:
            name_gradient(parameter)

    def after_step(*_: Any) -> None:
        ledger.purpose = "activations"

    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(name_gradient)  # type: ignore[no-untyped-call]
    optimizer.register_step_pre_hook(before_step)
    optimizer.register_step_post_hook(after_step)


def make_batches(train: dict[str, Any], schema: Schema, shares: int, device: torch.device) -> list[MicroBatch]:
    """The micro-batches of one step of a worker."""
    rows = -(-train["batch_size"] // (shares * train["accumulation"]))
    dtype = getattr(torch, schema.feature.dtype)
    return [
        MicroBatch(
            features=torch.empty((rows, *schema.feature.shape), dtype=dtype, device=device),
            labels=torch.empty(rows, dtype=torch.int64, device=device),
            weight=1 / train["batch_size"],
        )
        for _ in range(train["accumulation"])
    ]


def bytes_of(tensors: list[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
