"""What a rank does, whoever started it: its output to a file, the loop, and failures in words."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from rayml.errors import RaymlError, StageError
from rayml.ml.usercode import describe_failure
from rayml.redact.streams import guarded
from rayml.stages.api import Emit
from rayml.stages.train.autotune import tuned
from rayml.stages.train.failures import speaks_of_a_lost_peer
from rayml.stages.train.finders import find
from rayml.stages.train.loop import train
from rayml.stages.train.memory import limit_gpu_memory
from rayml.stages.train.state import LoopConfig
from rayml.stages.train.strategies.base import Seat
from rayml.stages.train.strategies.swap_folder import remove_folders


def work(loop: dict[str, Any], seat: Seat, emit: Emit, log: Path | str) -> None:
    """Train as one rank. A failure of the loop or of the user's code becomes a StageError that names the log."""
    try:
        act(LoopConfig(**loop), seat, emit if seat.rank == 0 else ignore)
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, RaymlError) or speaks_of_a_lost_peer(error):
            raise
        raise StageError(
            describe_failure(error, loop["code"]),
            where=f"train, worker {seat.rank}",
            hint=f"the whole traceback is in {log}",
        ) from error


def act(config: LoopConfig, seat: Seat, emit: Emit) -> None:
    """Train, or find what `rayml tune` asks for."""
    limit_gpu_memory(config.gpu_memory_fraction, seat.device)
    try:
        if config.finder is not None:
            find(config, config.finder, seat, emit)
        else:
            train(tuned(config, seat, emit), seat, emit)
    finally:
        remove_folders()


def ignore(kind: str, **fields: Any) -> None:
    """Takes the events of the ranks that do not tell."""


def log_path(folder: Path, rank: int) -> Path:
    """Where a rank's output goes."""
    return folder / f"train-rank-{rank}.log"


def log_to_file(folder: Path, rank: int) -> Path:
    """Send this process's output, native libraries included, to a file of the run that outlives the cluster."""
    folder.mkdir(parents=True, exist_ok=True)
    path = log_path(folder, rank)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(descriptor, f"--- rank {rank}, process {os.getpid()}\n".encode())
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout = guarded(os.fdopen(1, "w", buffering=1, closefd=False))
    sys.stderr = guarded(os.fdopen(2, "w", buffering=1, closefd=False))
    return path
