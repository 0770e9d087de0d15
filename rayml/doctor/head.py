"""A Ray cluster by its head: reached with the token of this machine, and of the same versions as this machine.

The head's HTTP answers say which Ray it runs. Python's and rayml's versions are known only to a process there, so a
job that prints them and nothing else is handed to it.
"""

from __future__ import annotations

import json
import platform
import shlex
import time
from importlib import metadata
from typing import Any

from rayml.backends.ray.client import OVER, JobsClient
from rayml.backends.ray.request import Request
from rayml.backends.ray.token import find_token
from rayml.doctor import clock
from rayml.doctor.finding import Finding, ok, refused, warning, wrong
from rayml.errors import BackendError, RaymlError
from rayml.spec.words import count

JOB_TIMEOUT_S = 30.0
POLL_S = 0.2
MARK = "rayml-doctor "
PACKAGES = ("rayml", "ray", "torch")
SCRIPT = (
    "import json, platform\n"
    "from importlib import metadata\n"
    "def of(name):\n"
    "    try: return metadata.version(name)\n"
    "    except metadata.PackageNotFoundError: return None\n"
    f"print({MARK!r} + json.dumps(dict(python=platform.python_version(), **{{n: of(n) for n in {PACKAGES!r}}})))"
)
"""Needs nothing on the cluster but Python."""


def look(address: str) -> list[Finding]:
    """All that can be asked of a cluster."""
    try:
        client = JobsClient(address, find_token())
        client.check_version()
        nodes = client.alive_nodes()
        cpus, gpus = client.cpus_and_gpus()
    except RaymlError as error:
        return [refused("cluster", error)]
    holds = f"{count(len(nodes), 'node')}, {count(cpus, 'CPU')}, {count(gpus, 'GPU')}"
    reached = ok("cluster", f"{address} takes this machine's token: {holds}")
    return [reached, clock.skew("cluster clock", "the head", clock.head_date(address)), versions(client)]


def versions(client: JobsClient) -> Finding:
    """Python, rayml, Ray and torch of the cluster against this machine's."""
    try:
        there = ask_versions(client)
    except RaymlError as error:
        return refused("cluster versions", error)
    return compare(there, {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}})


def ask_versions(client: JobsClient) -> dict[str, Any]:
    """What a job on the cluster prints. BackendError where it does not come to that."""
    entrypoint = shlex.join(["python", "-c", SCRIPT])
    job = client.submit(Request(entrypoint=entrypoint, runtime_env={}, metadata={"rayml_doctor": "versions"}))
    deadline = time.monotonic() + JOB_TIMEOUT_S
    while client.job(job)["status"] not in OVER:
        if time.monotonic() > deadline:
            client.stop(job)
            hint = f"see what it waits for: ray job logs {job} --address {client.address}"
            raise BackendError(f"a job of one line did not end in {JOB_TIMEOUT_S:.0f} s", where=job, hint=hint)
        time.sleep(POLL_S)
    for line in client.logs(job).splitlines():
        if line.startswith(f"{MARK}{{"):  # Ray logs the command as well
            said: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return said
    hint = f"ray job logs {job} --address {client.address}"
    raise BackendError("a job of one line did not print its line", where=job, hint=hint)


def compare(there: dict[str, Any], here: dict[str, str]) -> Finding:
    """What differs, and whether it may. What Ray pickles needs the same Python and Ray; a plan needs the same rayml."""
    differing = [name for name, version in here.items() if there.get(name) != version]
    if not differing:
        return ok("cluster versions", ", ".join(f"{name} {version}" for name, version in here.items()) + ", as here")
    text = ", ".join(f"{name} {there.get(name) or 'is missing'} there and {here[name]} here" for name in differing)
    hint = "give the cluster an image of this machine's lock (cluster/image), or install here what it has: " + pins(
        {name: there[name] for name in differing if there.get(name)}
    )
    fatal = [name for name in differing if is_fatal(name, there.get(name), here[name])]
    return wrong("cluster versions", text, hint) if fatal else warning("cluster versions", text, hint)


def is_fatal(name: str, there: str | None, here: str) -> bool:
    """rayml and Ray have to be the same; of Python and torch, major and minor version."""
    if there is None or name in ("rayml", "ray"):
        return True
    return there.split(".")[:2] != here.split(".")[:2]


def pins(wanted: dict[str, str]) -> str:
    """What to type to have these versions here."""
    packages = [f"{name}=={version}" for name, version in wanted.items() if name not in ("python", "rayml")]
    minor = ".".join(wanted.get("python", "").split(".")[:2])
    commands = [f"rm -r .venv; PYTHON=python{minor} make install"] if minor else []
    commands += [f"make install in a checkout of rayml {wanted['rayml']}"] if "rayml" in wanted else []
    commands += [f"pip install {' '.join(packages)}"] if packages else []
    return "; ".join(commands) or "make install"
