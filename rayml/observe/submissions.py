"""Who submitted a run: the records that lie beside it. What writes them is rayml.run.submitted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

FOLDER = "submitted"
"""Below the folder of a run."""
LOCAL = "local"
"""The kind of cluster that is this machine."""
START_OF_SCHEDULE = re.compile(r"-\d{8}-\d{6}-[a-z0-9]{5}\Z")
"""The end of the name of a run that a schedule started (rayml.run.scheduled)."""


class Submission(BaseModel):
    """One record. Keys that a newer rayml added are tolerated when it is read back."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run: str
    time: str
    """UTC, ISO 8601."""
    user: str
    """The login of the process's user, by its number: no environment variable is believed."""
    host: str
    rayml: str
    rayml_code: str
    """Digest of all of rayml on that machine."""
    cluster: str
    """The kind of the cluster file; `local` for `rayml run`."""
    storage: str
    plan: str
    """Digest of the plan, without what is said anew on the way (`plan_digest`)."""
    code: str | None
    """Digest of the user's files that travel; None where none do. The modules' digest is in the plan."""
    image: str | None
    """By its digest; None where the cluster's own Python runs the job."""
    request: str
    """Digest of the request as it is sent, or of the command that is started."""

    def __str__(self) -> str:
        image = f", image {self.image}" if self.image else ""
        verb = "started" if self.cluster == LOCAL else "submitted"
        return f"{verb} {self.time} by {self.user} at {self.host} with rayml {self.rayml}{image}"


def submissions(run_folder: Path) -> list[Submission]:
    """What is known of a run's submissions, the oldest first; those of its schedule where one started it."""
    schedule = run_folder.with_name(START_OF_SCHEDULE.sub("", run_folder.name))
    return list(read(run_folder)) or list(read(schedule))


def read(run_folder: Path) -> Iterator[Submission]:
    """Every record of a run that can be read."""
    for path in sorted((run_folder / FOLDER).glob("*.json")):
        try:
            yield Submission.model_validate_json(path.read_bytes())
        except ValidationError:
            continue
