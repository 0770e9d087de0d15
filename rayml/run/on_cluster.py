"""A run on a cluster that is there: its place in the storage, its lines in the job's log, its end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from rayml import __version__
from rayml.backends.ray.packing import CODE_FOLDER
from rayml.errors import PlanError
from rayml.observe.events import EventReader
from rayml.observe.meanwhile import meanwhile
from rayml.observe.meters import Meters
from rayml.observe.progress import PlainWatcher
from rayml.observe.runs import RunFolder
from rayml.plan.plan import Plan
from rayml.report.page import write_report
from rayml.run.execution import execute
from rayml.run.storage import create_or_resume, open_storage

POLL_S = 0.2
HOW_TO_AGREE = "submit from a machine with the cluster's version, or give the cluster an image with yours"


def refuse_other_versions(plan: Plan) -> None:
    """PlanError where this cluster's image has another rayml, or a Ray with another minor version, than the plan."""
    if plan.rayml != __version__:
        what = f"the plan was made by rayml {plan.rayml}, and the cluster has {__version__}"
        raise PlanError(what, where="rayml", hint=HOW_TO_AGREE)
    here = version("ray")
    if plan.ray and plan.ray.split(".")[:2] != here.split(".")[:2]:
        what = f"the plan was made beside Ray {plan.ray}, and the cluster runs {here}"
        raise PlanError(what, where="ray", hint=HOW_TO_AGREE)


def run_on_cluster(plan_file: str, storage: str, run: str) -> int:
    """Walk a plan, or go on with it; the exit code.

    Raises:
        PlanError: the plan cannot be read, or another driver works on the run.
    """
    plan = read_plan(Path(plan_file))
    refuse_other_versions(plan)
    kept = open_storage(storage)
    with kept.claim(run) as alone:
        if not alone:
            raise PlanError(
                "another driver works on this run",
                where=f"{storage}/runs/{run}",
                hint=f"follow it with rayml logs {run} --storage {storage} --follow, or end it with rayml stop",
            )
        folder = create_or_resume(kept.home, run, plan)
        bring_code(folder, Path(plan_file).absolute().parent)
        # Ray removes the folder that the job came in once no worker of a node uses it; nodes of one machine share it.
        # Without a working directory torch could not be imported: MKL said that it "cannot load libtorch_cpu.so".
        os.chdir(folder.path)
        log_to_file(folder)
        with kept.kept(folder, plan):
            with told(folder, plan.job):
                code = execute(kept.home, folder, kept.store)
            write_report(folder.path, kept.store)
        return code


def log_to_file(folder: RunFolder) -> None:
    """Send what this process prints as an aside to a file of the run, which outlives the cluster."""
    descriptor = os.open(folder.path / "driver.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def read_plan(path: Path) -> Plan:
    """The plan of a file. PlanError where there is none in it."""
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        what = error.strerror if isinstance(error, OSError) else "it holds no plan of this version of rayml"
        raise PlanError(f"the plan cannot be read: {what}", where=str(path), hint="submit the job again") from None


def bring_code(folder: RunFolder, sent: Path) -> None:
    """Put the user's code beside the plan, where every node that sees the run finds it, and let the plan say so."""
    plan = folder.plan()
    if plan.code is None or Path(plan.code).is_absolute():
        return
    target = folder.path / CODE_FOLDER
    shutil.copytree(sent / plan.code, target, dirs_exist_ok=True)
    folder.plan_path.write_text(plan.model_copy(update={"code": str(target)}).model_dump_json(indent=1))


@contextmanager
def told(folder: RunFolder, job: str) -> Iterator[None]:
    """Print a line for each thing that happens meanwhile, and keep the metrics up."""
    reader = EventReader(folder.events_path)
    for _ in reader.new():
        pass  # of an earlier driver
    listeners = (PlainWatcher(Console(width=200), folder.id), Meters(folder.id, job))

    def show_new() -> None:
        for event in reader.new():
            for listener in listeners:
                listener.show(event)

    try:
        with meanwhile(show_new, POLL_S, "event-lines"):
            yield
    finally:
        show_new()
