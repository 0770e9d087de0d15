"""The train stage, on the driver: hand the loop to Ray Train, tell how it goes, keep the best weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

from rayml.errors import RaymlError, StageError, WorkerLost
from rayml.ml.checkpoint import WEIGHTS_FILE, newest_checkpoint, read_checkpoint
from rayml.ml.usercode import describe_failure
from rayml.observe.relay import Relay
from rayml.plan.plan import Step
from rayml.spec.words import count
from rayml.stages.api import Context, Inputs, Outcome

MODEL_FILE = "model.json"
HISTORY_FILE = "history.json"
LAST_FOLDER = "last"
LOG_LINES = 20

LOST_PEER = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe|peer", re.IGNORECASE)
"""How torch.distributed speaks of a rank that went away; the ranks that stay say this."""


def run(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Train on the canonical shards; leave the best weights, the last checkpoint, the model's description, history."""
    checkpoints = context.work / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    fit(step, inputs["data"].path, checkpoints, context)

    last, _ = newest_checkpoint(checkpoints)
    assert last is not None, "training ended without an error and without a checkpoint"
    best = read_checkpoint(checkpoints / last.state["best_checkpoint"])
    shutil.copyfile(best.path / WEIGHTS_FILE, context.out / WEIGHTS_FILE)
    shutil.copytree(last.path, context.out / LAST_FOLDER)
    history = last.state["history"]
    (context.out / HISTORY_FILE).write_text(json.dumps(history, indent=1))
    (context.out / MODEL_FILE).write_text(json.dumps({"model": step.config["model"], "task": step.config["task"]}))
    return Outcome(*summarize(step, history, best.state["epoch"]))


def fit(step: Step, data: Path, checkpoints: Path, context: Context) -> None:
    """Run the loop on every worker. WorkerLost where a process died; StageError where the loop itself failed."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    resources = step.resources
    context.emit("note", text=f"starting {count(resources.workers, 'worker')}")
    relay = Relay(context.emit)
    trainer = TorchTrainer(
        work,
        train_loop_config={
            "loop": loop_config(step, data, checkpoints, context),
            "relay": relay.sender,
            "logs": str(context.run_folder / "logs"),
        },
        torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=bool(resources.gpus_per_worker),
            resources_per_worker={"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker},
        ),
        run_config=RunConfig(storage_path=str(context.work / "ray"), name=context.run),
    )
    try:
        with relay:
            trainer.fit()
    except TrainingFailedError as error:
        raise explain(error, context) from None


def loop_config(step: Step, data: Path, checkpoints: Path, context: Context) -> dict[str, Any]:
    """The values of rayml.stages.train.state.LoopConfig, by name: workers build it where torch is imported."""
    config, policy = step.config, step.policy
    return {
        "model": config["model"],
        "optimizer": config["optimizer"],
        "epochs": config["epochs"],
        "batch_size": config["batch_size"],
        "seed": config["seed"],
        "best_metric": config["best"]["metric"],
        "best_goal": config["best"]["goal"],
        "every_steps": policy["checkpoint"]["every_steps"],
        "keep": policy["checkpoint"]["keep"],
        "threads": step.resources.cpus_per_worker,
        "data": str(data),
        "checkpoints": str(checkpoints),
        "code": context.plan.code,
    }


def work(settings: dict[str, Any]) -> None:
    """What Ray Train calls on each worker."""
    import torch.distributed as dist
    from ray.train.torch import get_device

    rank = dist.get_rank()
    log = log_to_file(Path(settings["logs"]), rank)
    from rayml.stages.train import loop
    from rayml.stages.train.state import LoopConfig

    emit = settings["relay"] if rank == 0 else ignore
    try:
        loop.train(LoopConfig(**settings["loop"]), get_device(), emit)
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, RaymlError) or LOST_PEER.search(str(error)):
            raise
        raise StageError(
            describe_failure(error, settings["loop"]["code"]),
            where=f"train, worker {rank}",
            hint=f"the whole traceback is in {log}",
        ) from error


def ignore(kind: str, **fields: Any) -> None:
    """Takes the events of the ranks that do not tell."""


def log_to_file(folder: Path, rank: int) -> Path:
    """Send this process's output, native libraries included, to a file of the run that outlives the cluster."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"train-rank-{rank}.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(descriptor, f"--- rank {rank}, process {os.getpid()}\n".encode())
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    return path


def explain(error: Exception, context: Context) -> RaymlError:
    """Ray Train's failure as an error of rayml: which rank, why, and that worker's last lines."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    causes = {rank: root_cause(failure) for rank, failure in failures.items()}
    for cause in causes.values():
        if isinstance(cause, RaymlError):
            return cause
    if not causes:
        return WorkerLost(
            f"Ray Train ended the workers: {error}", where="train", hint="see driver.log in the run folder"
        )
    rank, cause = min(causes.items(), key=lambda item: (is_lost(item[1]) and not is_death(item[1]), item[0]))
    kind = WorkerLost if all(is_lost(cause) for cause in causes.values()) else StageError
    first_line = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    log = context.run_folder / "logs" / f"train-rank-{rank}.log"
    return kind(
        f"worker {rank} of {context.plan.step('train').resources.workers} failed: {type(cause).__name__}: {first_line}",
        where="train",
        hint=f"its last lines ({log}):\n{last_lines(log)}",
    )


def root_cause(failure: Exception) -> Exception:
    """The exception below Ray's wrappers."""
    wrapped = (getattr(failure, name, None) for name in ("_base_exc", "health_check_failure", "cause", "__cause__"))
    inner = next((each for each in wrapped if isinstance(each, Exception) and each is not failure), None)
    return failure if inner is None else root_cause(inner)


def is_death(cause: Exception) -> bool:
    """Whether Ray says that the worker's process is gone."""
    from ray.exceptions import RayError

    return isinstance(cause, RayError)


def is_lost(cause: Exception) -> bool:
    """Whether the worker died, or failed because another one went away."""
    return is_death(cause) or LOST_PEER.search(str(cause)) is not None


def last_lines(log: Path) -> str:
    """The end of a worker's log, indented."""
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.exists() else ["(it wrote nothing)"]
    return "\n".join(f"    {line}" for line in lines)


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
