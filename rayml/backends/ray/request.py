"""What is sent to a Ray head: the exact JSON of its Jobs API, and the package that it speaks of."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from rayml.artifacts.manifest import digest
from rayml.backends.ray.packing import CODE_FOLDER, PLAN_FILE, Package, pack
from rayml.errors import PlanError
from rayml.plan.plan import Plan
from rayml.redact.text import secret_in

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
    """What `submit` will send. Reads the code folder, and sends nothing.

    Raises:
        PlanError: that folder cannot travel, or a secret is in the plan or a name.
        SpecError: secrets are written out in the files of that folder.
    """
    code = None if plan.code is None else Path(plan.code)
    sent = plan if code is None else plan.model_copy(update={"code": CODE_FOLDER})
    document = sent.model_dump_json(indent=1)
    for where, text in (("--storage", storage), ("--run", run), ("plan", document)):
        refuse_secret(where, text)
    package = pack(document, code)
    argv = ["python", "-m", "rayml.run.cluster_entry", PLAN_FILE, "--storage", storage, "--run", run]
    request = Request(
        entrypoint=shlex.join(argv),
        runtime_env={"working_dir": package.uri, "env_vars": {"PYTHONUNBUFFERED": "1"}},
        metadata={RUN_KEY: run, "rayml_job": plan.job, "rayml_version": plan.rayml},
    )
    return request, package


def refuse_secret(where: str, text: str) -> None:
    """What is sent is shown by the head to everybody who may ask it. PlanError where a secret is in it."""
    found = secret_in(text)
    if found is not None:
        raise PlanError(
            f"{found} is written out, and whatever is sent can be read by all who use the cluster",
            where=where,
            hint="credentials come from the environment of the nodes, or from the instance they run on",
        )
