"""`rayml bench submit`: what it costs to hand a job to a cluster, and to have one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rayml.bench.command import run_command
from rayml.bench.harness import Contest, Goal, Lap, Row, Side, compete
from rayml.bench.startup import rayml
from rayml.errors import StageError

RENDER, TRIVIAL, UP = "render and lint", "submit trivial", "cluster up"
ROWS = (RENDER, TRIVIAL, UP)
JOBS = Path(__file__).parents[2] / "jobs"
KUBERAY = Path(__file__).parents[2] / "cluster" / "gpu-a100.yaml"
NODES = "kind: local\ncpus: 1\ngpus: 0\nobject_store: 100MiB\nnodes: {min: 3, max: 3, cpus: 1}\n"
JOB = """\
name: trivial
seed: 1
data: {source: {kind: sklearn, name: iris}}
task: {kind: tabular_classification}
"""
RAYS_OWN = {"RAY_AUTH_MODE": "token"}
"""What the ray command wants besides."""
LAPS = {"quick": 3, "full": 10}


def names(mode: str) -> Sequence[str]:
    """The rows of a mode."""
    return ROWS


def run(mode: str, say: Callable[[str], None], wanted: Collection[str]) -> list[Row]:
    """Measure the rows that are wanted."""
    laps = LAPS[mode]
    rows = []
    with TemporaryDirectory(prefix="rayml-bench-") as name:
        folder = Path(name)
        if RENDER in wanted:
            rows.append(compete(render_contest(folder), laps, say=say))
        if TRIVIAL in wanted:
            with standing(folder, "trivial") as environment:
                rows.append(compete(trivial_contest(folder, environment), laps, say=say))
        if UP in wanted:
            rows.append(compete(up_contest(folder), 1 if mode == "quick" else 3, warm_up=0, say=say))
    return rows


def render_contest(folder: Path) -> Contest:
    """A job and its endpoint as manifests, checked by rayml lint as they are made, and once more from the file."""

    def lap() -> Lap:
        argv = [*rayml(), "submit", str(JOBS / "digits.yaml"), "--cluster", str(KUBERAY), "--home", str(folder)]
        finished = run_command([*argv, "--dry-run"])
        kinds = [line for line in finished.stdout.splitlines() if line.startswith("kind: Ray")]
        if kinds != ["kind: RayJob", "kind: RayService"]:
            raise StageError(f"it rendered {kinds}", where="bench submit, render and lint")
        return Lap(finished.seconds, finished.cpu_s)

    return Contest(name=RENDER, unit="s", better="less", ours=lap, goal=Goal(1.0, "ours"))


def trivial_contest(folder: Path, environment: dict[str, str]) -> Contest:
    """A job whose step is there already, from the command to its end; against the shortest job that Ray knows."""
    job = folder / "trivial.yaml"
    job.write_text(JOB)
    address = environment["RAYML_ADDRESS"]
    argv = [*rayml(), "submit", str(job), "--storage", str(folder / "storage"), "--home", str(folder), "--json"]
    run_command(argv, environment=environment)

    def ours() -> Lap:
        finished = run_command(argv, environment=environment)
        if json.loads(finished.stdout)["status"] != "done":
            raise StageError(f"it ended otherwise: {finished.stdout}", where="bench submit, submit trivial")
        return Lap(finished.seconds, finished.cpu_s)

    return Contest(
        name=TRIVIAL,
        unit="s",
        better="less",
        ours=ours,
        alternative=bare(address, environment),
        alternative_is="ray job submit -- true",
        goal=Goal(1.2, "ours"),
    )


def bare(address: str, environment: dict[str, str]) -> Side:
    """Ray's own command with a job that does nothing."""
    ray = Path(sys.executable).with_name("ray")

    def lap() -> Lap:
        finished = run_command([str(ray), "job", "submit", "--address", address, "--", "true"], environment=environment)
        return Lap(finished.seconds, finished.cpu_s)

    return lap


def up_contest(folder: Path) -> Contest:
    """A head and three nodes, until all are alive and the head takes jobs."""

    def lap() -> Lap:
        began = time.perf_counter()
        up(folder, "lap")
        seconds = time.perf_counter() - began
        down(folder, "lap")
        return Lap(seconds)

    return Contest(name=UP, unit="s", better="less", ours=lap, goal=Goal(20.0, "ours"))


@contextmanager
def standing(folder: Path, name: str) -> Iterator[dict[str, str]]:
    """A cluster for the laps; the environment in which commands find it."""
    about = up(folder, name)
    try:
        yield {**os.environ, "RAYML_ADDRESS": about["address"], "RAY_AUTH_TOKEN_PATH": about["token_path"], **RAYS_OWN}
    finally:
        down(folder, name)


def up(folder: Path, name: str) -> dict[str, Any]:
    """Bring a cluster up. Not by run_command, which sees to it that nothing is left running."""
    argv = [*rayml(), "cluster", "up", str(nodes_file(folder)), *options(folder, name), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"no cluster came up: {done.stderr}", where="bench submit")
    about: dict[str, Any] = json.loads(done.stdout)
    return about


def down(folder: Path, name: str) -> None:
    """End it."""
    subprocess.run([*rayml(), "cluster", "down", *options(folder, name)], capture_output=True, check=False)


def nodes_file(folder: Path) -> Path:
    """The cluster file."""
    path = folder / "nodes.yaml"
    path.write_text(NODES)
    return path


def options(folder: Path, name: str) -> list[str]:
    """Which cluster."""
    return ["--name", name, "--home", str(folder / "home")]
