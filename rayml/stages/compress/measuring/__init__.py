"""What a candidate is worth beside the uncompressed model. What is timed or weighed is so in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rayml.errors import StageError

LONGEST_S = 3600


def ask_process(module: str, request: dict[str, Any], where: str) -> Any:
    """What `python -m module` answers: JSON on its standard input, JSON on its standard output.

    Args:
        where: what an error is about, such as the path of the candidate.

    Raises:
        StageError: the process ended with another code than 0, or took more than an hour. Has the last line it wrote.
    """
    home = str(Path(__file__).resolve().parents[4])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_S,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
    except subprocess.TimeoutExpired as error:
        raise StageError(
            f"{module} did not end within {LONGEST_S} s", where=where, hint="the model may be too slow for this machine"
        ) from error
    if done.returncode != 0:
        last = ([line for line in done.stderr.splitlines() if line.strip()] or ["it wrote nothing"])[-1].strip()
        raise StageError(
            f"{module} ended with code {done.returncode}: {last}",
            where=where,
            hint="a code below 0 is a signal; -9 is mostly a lack of memory",
        )
    return json.loads(done.stdout)
