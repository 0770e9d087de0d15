"""The row `first step` of `rayml bench train`: from the command to the first optimizer step, against torchrun's.

Ours is `rayml run` of the shipped job with its data step done: spec, plan, store, run folder, and ranks that could be
killed and go on. The alternative is the loop written by hand, started by torchrun on the same rows.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rayml.bench.command import run_command
from rayml.bench.harness import Contest, Goal, Lap, Row, compete
from rayml.bench.startup import JOB, rayml
from rayml.bench.train_settings import TrainSettings
from rayml.errors import StageError

NAME = "first step"
POLL_S = 0.002
LIMIT_S = 120.0


def measure(folder: Path, pairs: int, say: Callable[[str], None]) -> Row:
    """The row, after the data step was done once."""
    folder.mkdir()
    home = folder / "home"
    finished = run_command([*rayml(), "run", str(JOB), "--to", "data", "--home", str(home), "--json"])
    data = Path(json.loads(finished.stdout)["artifacts"]["data"])
    contest = Contest(
        name=NAME,
        unit="s",
        better="less",
        ours=OursFirst(home).lap,
        alternative=TorchrunFirst(folder, data).lap,
        alternative_is="torchrun, ddp written by hand",
        goal=Goal(1.0, "ratio"),
    )
    return compete(contest, pairs, warm_up=1, say=say)


class OursFirst:
    """`rayml run` up to the event of its first step, then Ctrl-C."""

    def __init__(self, home: Path) -> None:
        self._home, self._laps = home, 0

    def lap(self) -> Lap:
        """Each lap trains with another learning rate, so that none finds the work of another."""
        self._laps += 1
        change = f"train.optimizer.lr={1e-3 + self._laps * 1e-6}"
        command = [*rayml(), "run", str(JOB), "--to", "train", "--home", str(self._home), "--set", change]
        before = set(self._home.glob("runs/*"))

        def stepped() -> bool:
            fresh = [run for run in self._home.glob("runs/*/events.jsonl") if run.parent not in before]
            return any('"first_step"' in events.read_text() for events in fresh)

        return time_until(command, stepped, {})


class TorchrunFirst:
    """torchrun up to the file that its first step leaves."""

    def __init__(self, folder: Path, data: Path) -> None:
        self._folder, self._data, self._laps = folder, data, 0

    def lap(self) -> Lap:
        self._laps += 1
        place = self._folder / f"torchrun-{self._laps}"
        settings = TrainSettings(
            data=self._data,
            folder=place,
            laps=1,
            epochs_per_lap=1000,
            rows=0,
            batch_size=64,
            model={"kind": "small_cnn", "width": 48, "dropout": 0.0},
            first_step=place / "stepped",
        )
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(settings.ranks), "-m"]
        command = [sys.executable, *launcher, "rayml.bench.torchrun_ddp", str(settings.save())]
        return time_until(command, (place / "stepped").exists, {"OMP_NUM_THREADS": "1"})


def time_until(command: list[str], happened: Callable[[], bool], environment: dict[str, str]) -> Lap:
    """Seconds from a command to what it leads to; it is interrupted then. StageError where it ends before."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not happened():
            time.sleep(POLL_S)
            if process.poll() is not None or time.perf_counter() - started > LIMIT_S:
                raise StageError("it made no step", where=" ".join(command))
        return Lap(time.perf_counter() - started)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(LIMIT_S)
        finally:
            process.kill()
