"""Who submitted what: a record of each time that a run was started, kept beside the run in its storage.

Each record is a file of its own that is created once and never written again, on a disk as in a bucket::

    <storage>/runs/digits-1/submitted/20260131T090000Z-9b1c22aa.json

It is written before anything is sent to a cluster, so that no run goes on of which nobody knows who asked for it; that
of `rayml run`, while the process of the run starts. It says what the submitter's machine said of itself: a person who
may write to the storage can write a false one (docs/supply-chain.md).
"""

from __future__ import annotations

import json
import os
import platform
import pwd
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from rayml import __version__
from rayml.artifacts.bucket import Bucket
from rayml.artifacts.durable import create_exclusive
from rayml.artifacts.manifest import digest
from rayml.artifacts.opening import open_artifacts, runs_beside
from rayml.backends.ray.packing import files_of
from rayml.errors import RaymlError
from rayml.observe.submissions import FOLDER, LOCAL, Submission
from rayml.plan.plan import Plan
from rayml.redact.text import cleaned
from rayml.run.provenance import files_digest, package_digest

PATIENCE_S = 5.0
"""For the bucket: a storage that only the cluster can reach must not hold up who submits."""


def submission(plan: Plan, run: str, cluster: str, storage: str, image: str | None, request: object) -> Submission:
    """The record of what is about to be sent. Reads the code folder, unless the code is used where it lies.

    Args:
        request: the documents that are sent, as JSON knows them.
    """
    return Submission(
        run=run,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        user=login(),
        host=platform.node(),
        rayml=__version__,
        rayml_code=package_digest(),
        cluster=cluster,
        storage=storage,
        plan=plan_digest(plan),
        code=None if plan.code is None or cluster == LOCAL else folder_digest(Path(plan.code)),
        image=image,
        request=digest(request),
    )


def login() -> str:
    """The name of this process's user, or the number where it has none, as in a container."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def plan_digest(plan: Plan) -> str:
    """Of what is done, without where it was typed and where its code lies: the same for the plan that a run keeps.

    The steps of a job with a sweep are left out: what follows the sweep, the run itself fills in. They follow from the
    job, the cluster file and the facts, which are in it.
    """
    left_out = {"job_file", "base", "code", "decision"}
    if any(step.name == "tune" for step in plan.steps):
        left_out.add("steps")
    return digest(json.loads(plan.model_dump_json(exclude=left_out)))


def folder_digest(folder: Path) -> str:
    """Of the files that travel; the same for the copy that a run keeps of them."""
    return files_digest(folder, sorted(files_of(folder), key=lambda path: path.relative_to(folder).as_posix()))


def record(submitted: Submission, console: Console) -> None:
    """Write the record to the storage. Where this machine cannot, that is said, and the run is sent all the same."""
    document = Submission.model_validate(cleaned(submitted.model_dump()))
    stamp = datetime.fromisoformat(submitted.time).strftime("%Y%m%dT%H%M%SZ")
    name = f"{submitted.run}/{FOLDER}/{stamp}-{secrets.token_hex(4)}.json"
    try:
        write(submitted.storage, name, document.model_dump_json(indent=1).encode())
    except (RaymlError, OSError) as error:
        what = error.what if isinstance(error, RaymlError) else error.strerror
        console.print(
            f"no record of who submits is kept: this machine cannot write to {submitted.storage} ({what})",
            highlight=False,
            markup=False,
        )


def write(storage: str, name: str, content: bytes) -> None:
    """Create a file below the runs of a storage."""
    place = runs_of(storage)
    if isinstance(place, Bucket):
        place.create(name, content)
        return
    root = place.parent
    if not root.is_dir() and (not root.parent.is_dir() or root.parent == Path("/")):
        # A mount of the cluster's nodes, most likely; made here, it would be another folder of the same name.
        raise FileNotFoundError(2, "there is no such folder here", str(root))
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    create_exclusive(place / name, content)


def runs_of(storage: str) -> Bucket | Path:
    """Where a storage keeps its runs."""
    runs = runs_beside(open_artifacts(storage, "read"))
    return runs if isinstance(runs, Path) else Bucket(runs.name, runs.prefix, PATIENCE_S)


def as_json(found: list[Submission]) -> list[dict[str, Any]]:
    """For `--json`."""
    return [each.model_dump() for each in found]
