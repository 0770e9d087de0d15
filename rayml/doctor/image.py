"""What a container image has to bring for Kubernetes with `restricted` pods: `rayml doctor --image` inside of it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rayml.backends.kuberay.pods import SHM, TMP
from rayml.doctor.finding import Finding, ok, warning, wrong
from rayml.redact.names import is_secret_name
from rayml.redact.shapes import shape_of

LEAST_UID = 10_000
IMPORT_TIMEOUT_S = 13.0
GIVEN_BY_THE_POD = ("RAY_AUTH_TOKEN", "RAYML_KEY")
"""Secrets that a pod hands in by reference; no image has them when it is run by hand."""
COMPILED = ("rayml.cli", "ray", "torch")


def look() -> list[Finding]:
    """All but what the other probes say of any machine."""
    return [user(os.getuid()), root(), folders(), imports(), secrets_in_environment(), compiled()]


def user(uid: int) -> Finding:
    """A number that no user of the node has."""
    if uid < LEAST_UID:
        found = f"runs as the user with the number {uid}"
        return wrong(
            "user", f"{found}; pods of rayml have {LEAST_UID:,} or above", "USER 10001:10001 in the Dockerfile"
        )
    return ok("user", f"{uid}, not root")


def root(place: Path = Path("/")) -> Finding:
    """The root file system stays as the image has it."""
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return ok("root", "the root file system is read-only")
    hint = f"docker run --read-only --tmpfs {TMP} --tmpfs $HOME; in a pod: readOnlyRootFilesystem: true"
    return warning("root", "the root file system can be written to, so that it does not show what breaks without", hint)


def folders(environ: Mapping[str, str] | None = None) -> Finding:
    """The folders that are written to: /tmp, HOME and /dev/shm."""
    home = (os.environ if environ is None else environ).get("HOME", "")
    named = {TMP: TMP, "HOME": home, SHM: SHM}
    faults = [f"{name} {fault}" for name, path in named.items() if (fault := write_fault(path))]
    if faults:
        hint = "mount an emptyDir there, as rayml submit --dry-run shows it, or docker run --tmpfs FOLDER"
        return wrong("folders", ", ".join(faults), hint)
    return ok("folders", f"{TMP}, HOME ({home}) and {SHM} can be written to")


def write_fault(path: str) -> str:
    """Why nothing can be written to a folder; empty where it can."""
    if not path:
        return "is not set"
    try:
        with tempfile.NamedTemporaryFile(dir=path, prefix=".doctor-") as file:
            file.write(b"1")
    except OSError as error:
        return f"({path}) cannot be written to: {error.strerror}"
    return ""


def imports() -> Finding:
    """rayml's own modules and Ray; torch has a line of its own."""
    command = [sys.executable, "-c", "import rayml.cli, rayml.run.cluster_entry, ray"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return wrong(
            "imports", f"rayml and ray take more than {IMPORT_TIMEOUT_S:.0f} s", "python -X importtime -c 'import ray'"
        )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it was ended"])[-1]
        return wrong(
            "imports", f"rayml or ray cannot be imported: {said}", "pip install --require-hashes -r requirements.lock"
        )
    return ok("imports", "rayml and ray can be imported")


def secrets_in_environment(environ: Mapping[str, str] | None = None) -> Finding:
    """What an image holds, everybody who may pull it can read. Only the names are told."""
    known = os.environ if environ is None else environ
    found = sorted(
        name
        for name, value in known.items()
        if value and name not in GIVEN_BY_THE_POD and (is_secret_name(name) or shape_of(value))
    )
    if found:
        hint = "take them out of the Dockerfile (ENV, ARG) and give them to the pod: `secrets:` in the cluster file"
        return wrong("secrets", f"the environment holds {', '.join(found)}", hint)
    return ok("secrets", "none in the environment")


def compiled(names: tuple[str, ...] = COMPILED) -> Finding:
    """Modules are compiled: on a read-only file system each process would do it anew."""
    missing = [name for name in names if not is_compiled(name)]
    if missing:
        hint = "RUN python -m compileall -q on the site-packages folder, in the Dockerfile"
        return warning("compiled", f"not compiled: {', '.join(missing)}; each process starts slower", hint)
    return ok("compiled", f"{', '.join(names)} are compiled")


def is_compiled(name: str) -> bool:
    """Whether a module's cache is there. What stands above it is imported, and the module is not."""
    spec = importlib.util.find_spec(name)
    return spec is not None and bool(spec.cached) and Path(str(spec.cached)).exists()
