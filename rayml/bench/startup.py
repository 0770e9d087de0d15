"""`rayml bench startup`: how long a user waits, from a command to its answer, for a whole job and for small things."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayml.bench.command import run_command
from rayml.bench.harness import Contest, Goal, Lap, Row, Side, compete
from rayml.errors import PlanError, StageError
from rayml.observe.runs import Home

JOB = Path(__file__).parents[2] / "jobs" / "digits.yaml"
ACCURACY = 0.95
"""What both sides of `main job` have to reach on their test rows; they do not split the rows alike."""
TOLERANCE = 1e-4
"""Between the trained model's probabilities and the endpoint's."""


@dataclass(frozen=True)
class Laps:
    """How often the rows of a mode are measured."""

    main_pairs: int
    main_alternative: bool
    """The written-out alternative takes a minute and more, which --quick does not have."""
    second: int
    small: int


LAPS = {"quick": Laps(1, False, 5, 7), "full": Laps(5, True, 10, 20)}
NAMES = ("main job", "second run", "help", "validate", "plan")
AFTER_THE_JOB = ("second run", "plan")
"""Rows that need a home in which the main job has run."""


def names(mode: str) -> Sequence[str]:
    """The rows, which are the same in both modes."""
    return NAMES


def run(mode: str, say: Callable[[str], None], wanted: Collection[str]) -> list[Row]:
    """Measure the rows that are wanted. PlanError where the shipped job is not there."""
    if not JOB.is_file():
        raise PlanError(
            f"{JOB} is not there",
            where="bench startup",
            hint="it runs in a clone of rayml, installed with `make install`",
        )
    laps = LAPS[mode]
    with tempfile.TemporaryDirectory(prefix="rayml-bench-") as name:
        main_job = MainJob(Path(name))
        rows = []
        if "main job" in wanted:
            rows.append(compete(main_contest(main_job, laps.main_alternative), laps.main_pairs, warm_up=0, say=say))
        elif any(row in wanted for row in AFTER_THE_JOB):
            main_job.lap()
        if "second run" in wanted:
            refuse_imports(main_job.home)
            rows.append(compete(second_contest(main_job.home), laps.second, say=say))
        small_rows = [contest for contest in small_contests(main_job.home) if contest.name in wanted]
        rows += [compete(contest, laps.small, say=say) for contest in small_rows]
    return rows


class MainJob:
    """`rayml run` of the shipped job, each time in a home of its own; the last one is kept."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0

    @property
    def home(self) -> Path:
        return self._folder / f"home-{self._number}"

    def lap(self) -> Lap:
        """From the command to the verified prediction."""
        shutil.rmtree(self.home, ignore_errors=True)
        self._number += 1
        finished = run_command([*rayml(), "run", str(JOB), "--home", str(self.home), "--json"])
        return Lap(finished.seconds, finished.cpu_s, proof_of_run(json.loads(finished.stdout)))


def rayml() -> list[str]:
    """The command as it is typed: the entry point of this environment."""
    script = Path(sys.executable).with_name("rayml")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "rayml.cli"]


def proof_of_run(result: dict[str, Any]) -> dict[str, Any]:
    """What a run of rayml did, in the words of the alternative."""
    metrics = result["metrics"]
    return {
        "rows": [int(metrics["data"][f"rows_{split}"]) for split in ("train", "val", "test")],
        "rows_seen": int(metrics["train"]["rows_seen"]),
        "epochs": int(metrics["train"]["epochs"]),
        "accuracy": metrics["evaluate"]["accuracy"],
        "export_difference": metrics["export"]["parity_max_abs_diff"],
        "endpoint_difference": metrics["serve"]["parity_max_abs_diff"],
        "endpoint_mismatches": int(metrics["serve"]["parity_label_mismatches"]),
    }


def main_contest(main_job: MainJob, with_alternative: bool) -> Contest:
    """The whole way once."""
    return Contest(
        name="main job",
        unit="s",
        better="less",
        ours=main_job.lap,
        alternative=plain_lap if with_alternative else None,
        alternative_is="a script of plain Ray Data, Ray Train, torch.onnx and serve.run (rayml/bench/plain_job.py)",
        check=same_job,
        goal=Goal(90.0, "ours"),
    )


def plain_lap() -> Lap:
    """The same job written by hand."""
    finished = run_command([sys.executable, "-m", "rayml.bench.plain_job"])
    return Lap(finished.seconds, finished.cpu_s, json.loads(finished.stdout.splitlines()[-1]))


def same_job(ours: dict[str, Any], alternative: dict[str, Any]) -> str | None:
    """The same rows, as often, to a model that is good enough, and an endpoint that answers as the model does."""
    for key in ("rows", "rows_seen", "epochs"):
        if ours[key] != alternative[key]:
            return f"{key} is {ours[key]}, and {alternative[key]} by the alternative"
    for name, proof in (("rayml", ours), ("the alternative", alternative)):
        if proof["accuracy"] < ACCURACY:
            return f"the accuracy by {name} is {proof['accuracy']:.4f}, below {ACCURACY}"
        if proof["endpoint_mismatches"] or max(proof["export_difference"], proof["endpoint_difference"]) > TOLERANCE:
            return f"by {name} the endpoint does not answer as the model does: {proof}"
    return None


def second_contest(home: Path) -> Contest:
    """The same command again, when everything is there."""

    def lap() -> Lap:
        finished = run_command([*rayml(), "run", str(JOB), "--home", str(home), "--json"])
        refuse_work(home, json.loads(finished.stdout))
        return Lap(finished.seconds, finished.cpu_s)

    return Contest(name="second run", unit="s", better="less", ours=lap, goal=Goal(3.0, "ours"))


def refuse_work(home: Path, result: dict[str, Any]) -> None:
    """StageError where a second run executed a step or started Ray, by its events."""
    kinds = [event["kind"] for event in Home(home).find_run(result["run"]).events()]
    statuses = {step["status"] for step in result["steps"]}
    if statuses != {"cached"} or "step_started" in kinds or "note" in kinds:
        raise StageError(f"it was to find everything, and did this: {kinds}", where="bench startup, second run")


def refuse_imports(home: Path) -> None:
    """StageError where a second run imports ray or torch: it would be a lot of its time."""
    program = (
        "import sys\nfrom rayml.cli import main\n"
        f"sys.argv = ['rayml', 'run', {str(JOB)!r}, '--home', {str(home)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "found = [name for name in ('ray', 'torch') if name in sys.modules]\nassert not found, found\n"
    )
    run_command([sys.executable, "-c", program])


def small_contests(home: Path) -> list[Contest]:
    """The commands that should answer at once."""
    ray = Path(sys.executable).with_name("ray")
    return [
        Contest(
            name="help",
            unit="s",
            better="less",
            ours=command([*rayml(), "--help"], "validate"),
            alternative=command([str(ray), "--help"], "submit") if ray.is_file() else None,
            alternative_is="ray --help, another program's help",
            goal=Goal(0.5, "ours"),
        ),
        small("validate", ["validate", str(JOB)], "a valid job", 1.0),
        small("plan", ["plan", str(JOB), "--home", str(home)], "cached", 1.5),
    ]


def small(name: str, arguments: Sequence[str], expected: str, seconds: float) -> Contest:
    """A command that no other program has."""
    ours = command([*rayml(), *arguments], expected)
    return Contest(name=name, unit="s", better="less", ours=ours, goal=Goal(seconds, "ours"))


def command(argv: Sequence[str], expected: str) -> Side:
    """A lap that is one command, which has to print what is expected of it."""

    def lap() -> Lap:
        finished = run_command(argv)
        if expected not in finished.stdout:
            raise StageError(f"did not print {expected!r}", where=" ".join(argv))
        return Lap(finished.seconds, finished.cpu_s)

    return lap
