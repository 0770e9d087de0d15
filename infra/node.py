"""Node.js, which the CDK runs in: whether it is there, and whether anybody still looks after it."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import subprocess

from rayml.errors import PlanError

ENDS = {
    18: datetime.date(2025, 4, 30),
    20: datetime.date(2026, 4, 30),
    22: datetime.date(2027, 4, 30),
    24: datetime.date(2028, 4, 30),
}
"""Major version -> the day after which no hole in it is closed (nodejs/Release, schedule.json)."""
OLDEST, ADVISED = 20, 24
"""What this aws-cdk-lib still runs in, and what to install."""
JSII_SILENCE = "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION"
INSTALL = f"nvm install {ADVISED}, or your system's package of Node.js {ADVISED}"


def installed() -> str | None:
    """What `node --version` says, its complaint where it fails; None where there is no node."""
    program = shutil.which("node")
    if program is None:
        return None
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=30)
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def quiet_jsii() -> None:
    """Before the CDK is imported: keep it from a banner of eleven lines about node 20, which `warning` says in one."""
    os.environ.setdefault(JSII_SILENCE, "20")


def warning(version: str | None, today: datetime.date) -> str | None:
    """What is wrong with a version, and what to type; None where nothing is. PlanError where the CDK cannot run."""
    if version is None:
        raise PlanError("node is not on this machine, and the CDK runs in it", hint=INSTALL)
    found = re.match(r"v(\d+)\.", version)
    if found is None:
        raise PlanError(f"`node --version` says `{version}`", hint=INSTALL)
    major = int(found[1])
    if major < OLDEST:
        raise PlanError(f"node {version} is too old for the CDK; {OLDEST} or later fits", hint=INSTALL)
    end = ENDS.get(major)
    if end is not None and end < today:
        return f"node {version} has been without security fixes since {end}; {INSTALL}"
    return None
