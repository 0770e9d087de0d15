"""What is sent to a Ray head: the exact JSON of its Jobs API, and the package that it speaks of."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from rayml.artifacts.manifest import digest
from rayml.backends.ray.packing import CODE_FOLDER, PLAN_FILE, Package, pack
from rayml.plan.plan import Plan

RUN_KEY = "rayml_run"
"""The metadata by which a job of ours is found again."""


class Request(BaseModel):
    """The body of `POST /api/jobs/`."""

    model_config = ConfigDict(frozen=True)

    entrypoint: str
    """One command line, quoted once from its arguments: the head hands it to a shell."""
    runtime_env: dict[str, Any]
    metadata: dict[str, str]


def run_name(plan: Plan) -> str:
    """The run that a plan is, whoever submits it: its job and a digest of the keys of its steps."""
    return f"{plan.job}-{digest({'steps': [step.key for step in plan.steps]})[:10]}"


def render(plan: Plan, storage: str, run: str) -> tuple[Request, Package]:
    """What `submit` will send. Reads the code folder, and sends nothing. PlanError where that folder cannot travel."""
    code = None if plan.code is None else Path(plan.code)
    sent = plan if code is None else plan.model_copy(update={"code": CODE_FOLDER})
    package = pack(sent.model_dump_json(indent=1), code)
    argv = ["python", "-m", "rayml.run.cluster_entry", PLAN_FILE, "--storage", storage, "--run", run]
    request = Request(
        entrypoint=shlex.join(argv),
        runtime_env={"working_dir": package.uri, "env_vars": {"PYTHONUNBUFFERED": "1"}},
        metadata={RUN_KEY: run, "rayml_job": plan.job, "rayml_version": plan.rayml},
    )
    return request, package
