"""A running endpoint as a value, and its record in the run folder that `rayml predict` and `rayml serve` read."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from rayml.artifacts.durable import write_atomic
from rayml.errors import BackendError

RECORD = "endpoint.json"


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers."""

    url: str
    model: str
    version: str
    key: str | None
    """The bearer key in clear; None where the endpoint asks for none."""
    pid: int
    """The process that started it and will stop it."""


def write_endpoint(run_folder: Path, endpoint: Endpoint) -> None:
    """Write `endpoint.json`, readable by this user only."""
    write_atomic(run_folder / RECORD, json.dumps(asdict(endpoint), indent=1).encode(), mode=0o600)


def read_endpoint(run_folder: Path) -> Endpoint:
    """The endpoint that a run has running on this machine.

    Raises:
        BackendError: there is none, or the process that served it is gone.
    """
    path = run_folder / RECORD
    hint = f"`rayml serve {run_folder.name}` starts it"
    try:
        endpoint = Endpoint(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise BackendError("this run serves nothing at the moment", where=run_folder.name, hint=hint) from None
    except (ValueError, TypeError):
        raise BackendError("the endpoint's record cannot be read", where=str(path), hint=hint) from None
    try:
        os.kill(endpoint.pid, 0)
    except ProcessLookupError:
        raise BackendError(
            f"the process {endpoint.pid} that served this run has ended", where=run_folder.name, hint=hint
        ) from None
    except PermissionError:
        pass  # alive, and another user's
    return endpoint
