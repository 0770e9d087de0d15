"""rayml as a user runs it: commands in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def rayml(home: Path, *arguments: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAYML_HOME": str(home), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "rayml.cli", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in the background; for `run`, once its run folder is there."""
    before = len(run_folders(home))
    process = subprocess.Popen(
        [sys.executable, "-m", "rayml.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "RAYML_HOME": str(home), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if arguments[0] == "run":
        wait_for(lambda: len(run_folders(home)) > before, "the run's folder", 30)
    return process


def run_folders(home: Path) -> list[Path]:
    plans = sorted((home / "runs").glob("*/plan.json"), key=lambda path: path.stat().st_mtime)
    return [path.parent for path in plans]


def wait_for(condition, what: str, timeout: float = 120):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {timeout} s")


def driver_pid(process: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])
