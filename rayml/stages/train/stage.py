"""The train stage, on the driver: let a launcher start the ranks, then keep the best weights."""

from __future__ import annotations

import json
import secrets
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from rayml.artifacts.bring import bring_weights
from rayml.artifacts.bucket import in_bucket
from rayml.artifacts.hosts import CHECKPOINTS
from rayml.artifacts.manifest import Artifact
from rayml.errors import StageError
from rayml.plan.facts import weights_in_bucket
from rayml.plan.plan import Step
from rayml.spec.words import count
from rayml.stages.api import Context, Inputs, Outcome
from rayml.stages.train.launchers.base import Order
from rayml.stages.train.launchers.table import load_launcher

MODEL_FILE = "model.json"
HISTORY_FILE = "history.json"
LAST_FOLDER = "last"
START_FOLDER = "start"


def run(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Train on the canonical shards; leave the best weights, the last checkpoint, the model's description, history."""
    checkpoints = context.work / CHECKPOINTS
    checkpoints.mkdir(exist_ok=True)
    told = fit(step, inputs, checkpoints, context)
    history, best_epoch = collect(step, inputs["data"].path, checkpoints, context.out, context.plan.code)
    keep_estimate(step, inputs["data"], context)
    metrics, facts = summarize(step, history, best_epoch)
    return Outcome(metrics, facts | told)


def fit(step: Step, inputs: Inputs, checkpoints: Path, context: Context) -> dict[str, Any]:
    """Run the loop on every worker; the facts that the first one told.

    Args:
        inputs: `data`, the canonical shards; `teacher`, the answers to learn, where there are any.
        checkpoints: whoever writes them, all that were written lie here afterwards.

    Raises:
        WorkerLost: a process died.
        StageError: the loop itself failed.
    """
    told: dict[str, Any] = {}

    def hear(kind: str, **fields: Any) -> None:
        if kind == "fact":
            told[fields["name"]] = fields["value"]
        else:
            context.emit(kind, **fields)

    context.emit("note", text=f"starting {count(step.resources.workers, 'worker')}")
    loop = loop_config(step, inputs, checkpoints, context)
    order = Order(
        loop=loop,
        resources=step.resources,
        logs=context.run_folder / "logs",
        storage=context.work / "launcher",
        run=context.run,
        hosts=context.hosts,
        inputs=tuple(inputs.values()),
        folders=(*([Path(context.plan.code)] if context.plan.code else []), context.work / START_FOLDER),
    )
    context.hosts.fetch(checkpoints)
    for folder in (checkpoints, *order.folders):
        context.hosts.send(folder)
    load_launcher(step.policy["launcher"])(order, hear)
    context.hosts.fetch(checkpoints)
    return told


def loop_config(step: Step, inputs: Inputs, checkpoints: Path, context: Context) -> dict[str, Any]:
    """The values of rayml.stages.train.state.LoopConfig, by name."""
    policy = step.policy
    start = policy["start"] or fetch_start(step, context)
    return {
        "train": step.config,
        "every_steps": policy["checkpoint"]["every_steps"],
        "keep": policy["checkpoint"]["keep"],
        "threads": policy["threads"],
        "data": str(inputs["data"].path),
        "teacher": str(inputs["teacher"].path) if "teacher" in inputs else None,
        "checkpoints": str(checkpoints),
        "code": context.plan.code,
        "profile": profile_config(policy["profile"], context),
        "gpu_memory_fraction": policy["gpu_memory_fraction"],
        "start": None if start is None else place_start(start, step, context),
        "hosts": context.hosts,
    }


def place_start(start: str, step: Step, context: Context) -> str:
    """Where every rank finds the weights to start from; what lies in a bucket is brought to the step's own folder.

    Raises:
        StageError: the job file names a bucket, and other weights are brought than when the plan was made.
    """
    if in_bucket(start):
        return str(bring_weights(start, context.work / START_FOLDER, partial(refuse_others, start, step)))
    return start if context.hosts.share_folders else keep_beside(Path(start), context.work)


def refuse_others(start: str, step: Step) -> None:
    """StageError where the job file names a bucket which holds other weights than those that the step's key is for."""
    named = step.config["start"].get("path", "")
    if in_bucket(named) and weights_in_bucket(start).digest != step.config["start"]["digest"]:
        raise StageError("the weights changed since the plan was made", where=named, hint="run or submit the job again")


def keep_beside(start: Path, work: Path) -> str:
    """A copy of the weights in the step's own folder, which other hosts can get."""
    target = work / START_FOLDER / start.name
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        copy = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        (shutil.copytree if start.is_dir() else shutil.copyfile)(start, copy)
        copy.rename(target)
    return str(target)


def profile_config(profile: dict[str, Any] | None, context: Context) -> dict[str, Any] | None:
    """What is watched, and where torch's trace goes."""
    return None if profile is None else {**profile, "trace": str(context.run_folder / "logs" / "trace.json.gz")}


def fetch_start(step: Step, context: Context) -> str | None:
    """Where the weights are that others publish, downloaded once for all ranks; None where the job starts anew."""
    if step.config["start"] is None:
        return None
    from rayml.ml.weight_files import locate_start

    return str(locate_start(step.config["start"], step.config["model"], Path(context.plan.base)))


def collect(step: Step, data: Path, checkpoints: Path, out: Path, code: str | None) -> tuple[list[dict[str, Any]], int]:
    """Leave the artifact's files; the history, and which epoch was the best."""
    from rayml.ml.checkpoint import MODEL, newest_checkpoint, read_checkpoint, save_weights
    from rayml.stages.train.merging import without_adapter, without_helpers

    last, _ = newest_checkpoint(checkpoints)
    assert last is not None, "training ended without an error and without a checkpoint"
    best = read_checkpoint(checkpoints / last.state["best_checkpoint"])
    weights = without_helpers({**best.tensors(MODEL), **best.tensors("average")})
    if step.config["adapter"] is not None:
        weights = without_adapter(step.config, weights, data, code)
    save_weights(out, weights)
    shutil.copytree(last.path, out / LAST_FOLDER)
    history: list[dict[str, Any]] = last.state["history"]
    (out / HISTORY_FILE).write_text(json.dumps(history, indent=1))
    (out / MODEL_FILE).write_text(json.dumps({"model": step.config["model"], "task": step.config["task"]}))
    return history, best.state["epoch"]


def keep_estimate(step: Step, data: Artifact, context: Context) -> None:
    """Let later plans show the memory of a worker. A model that cannot be rehearsed without values has no estimate."""
    from rayml.stages.train.estimate import estimate_step

    try:
        estimate_step(step, data, context.plan.code, context.home)
    except StageError as error:
        context.emit("note", text=f"no estimate of the memory for later plans: {error}")


def summarize(step: Step, history: list[dict[str, Any]], best_epoch: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics of the best epoch and of the whole training, and what the report says of it."""
    best = history[best_epoch - 1]
    seconds = sum(record["seconds"] for record in history)
    metrics = {
        "val/accuracy": best["val/accuracy"],
        "val/loss": best["val/loss"],
        "train/loss": best["train/loss"],
        "best_epoch": float(best_epoch),
        "epochs": float(len(history)),
        "rows_seen": float(sum(record["rows_seen"] for record in history)),
        "samples_per_s": sum(record["rows_seen"] for record in history) / seconds,
    }
    return metrics, {"best": step.config["best"], "world_size": step.resources.workers}
