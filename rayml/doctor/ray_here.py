"""Ray on this machine: its version, whether it asks for a token, its token file, and switches that must stay off."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from rayml.artifacts import switches
from rayml.backends.ray.token import find_token
from rayml.doctor.finding import Finding, ok, warning, wrong
from rayml.errors import BackendError

OLDEST_WITH_TOKENS = (2, 56)
PRIVATE = 0o600


def ray_version() -> Finding:
    """The installed Ray."""
    found = metadata.version("ray")
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_WITH_TOKENS:
        what = f"Ray {found} has known holes that 2.56 closed (CVE-2026-41486, CVE-2026-57516)"
        return wrong("ray", what, "python -m pip install --require-hashes -r requirements.lock")
    return ok("ray", found)


def authentication(environ: Mapping[str, str] | None = None, home: Path | None = None) -> Finding:
    """RAY_AUTH_MODE, and whether there is a token. The token itself is never shown."""
    known = os.environ if environ is None else environ
    mode = known.get("RAY_AUTH_MODE", "")
    try:
        source = token_source(known, home) if find_token(known, home) else None
    except BackendError as error:
        return wrong("ray token", f"{error.where}: {error.what}", "export RAY_AUTH_TOKEN_PATH=FILE that can be read")
    if mode == "disabled":
        what = "RAY_AUTH_MODE=disabled: whoever reaches a cluster that is started here can run code on it"
        return wrong("ray token", what, "unset RAY_AUTH_MODE (rayml sets it to token)")
    if mode not in ("", "token", "k8s"):
        return wrong("ray token", f"RAY_AUTH_MODE={mode} is not token or disabled", "export RAY_AUTH_MODE=token")
    if source is None and mode == "token":
        what = "RAY_AUTH_MODE=token, and there is no token here"
        return wrong("ray token", what, "ray get-auth-token --generate, or put the cluster's into ~/.ray/auth_token")
    if source is None:
        return ok("ray token", "none here yet; rayml makes one for each cluster that it starts")
    return ok("ray token", f"found in {source}, mode {mode or 'not set: token where rayml starts Ray'}")


def token_source(known: Mapping[str, str], home: Path | None) -> str:
    """Where `find_token` finds one."""
    return "RAY_AUTH_TOKEN" if known.get("RAY_AUTH_TOKEN", "").strip() else str(token_path(known, home))


def token_path(environ: Mapping[str, str] | None = None, home: Path | None = None) -> Path:
    """The file that Ray reads a token from."""
    known = os.environ if environ is None else environ
    named = known.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else (home or Path.home()) / ".ray" / "auth_token"


def token_file(fix: bool, path: Path | None = None) -> Finding:
    """The token file belongs to its owner alone. Ray writes it with mode 0644; `fix` makes that 0600."""
    file = path or token_path()
    try:
        found = file.stat()
    except FileNotFoundError:
        return ok("token file", f"{file} is not there")
    except OSError as error:
        return wrong("token file", f"{file}: {error.strerror}", f"ls -l {file}")
    if not stat.S_ISREG(found.st_mode):
        return wrong("token file", f"{file} is no file", "export RAY_AUTH_TOKEN_PATH=FILE that holds the token")
    return private(fix, file, found)


def private(fix: bool, file: Path, found: os.stat_result) -> Finding:
    """Owner and mode of a token file that is there."""
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.getuid():
        what = f"{file} belongs to the user with the number {found.st_uid}, and this process is {os.getuid()}"
        return warning("token file", what, f"chown {os.getuid()} {file}")
    if not mode & 0o077:
        return ok("token file", f"{file} has mode {mode:04o}")
    if not fix:
        what = f"{file} has mode {mode:04o}: others on this machine can read the token"
        return wrong("token file", what, f"chmod 600 {file}, or rayml doctor --fix")
    return make_private(file, mode)


def make_private(file: Path, mode: int) -> Finding:
    """Give a token file that others can read mode 0600."""
    try:
        file.chmod(PRIVATE)
    except OSError as error:
        what = f"{file} has mode {mode:04o}, and it cannot be changed: {error.strerror}"
        return wrong("token file", what, "mount it with mode 0400 (a secret's defaultMode: 256), or RAY_AUTH_TOKEN")
    return ok("token file", f"{file} had mode {mode:04o}, and has {PRIVATE:04o} now; who has read it keeps the token")


def unsafe_switches(environ: Mapping[str, str] | None = None) -> Finding:
    """Environment variables of Ray that let data run code."""
    found = switches.unsafe_switches(os.environ if environ is None else environ)
    if found:
        what = "; ".join(f"{name} is on: {switches.UNSAFE[name]}" for name in found)
        return wrong("unsafe switches", what, f"unset {' '.join(found)}")
    return ok("unsafe switches", "none is on")


def readable_token() -> str | None:
    """This machine's token; None where it cannot be read, which `authentication` tells."""
    try:
        return find_token()
    except BackendError:
        return None
