"""What a step was made with and no key holds: the image, and the code as it lay where the step ran.

A key holds the code of the machine that planned the step. What is found here is the code that ran, so that an image of
another rayml, or a module that was edited while a run went on, is seen by `rayml verify` (rayml.run.made_with).
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from rayml.backends.kuberay.pods import IMAGE_VARIABLE
from rayml.plan.code import PACKAGE, code_digest
from rayml.stages.table import stage_of

SKIPPED = {"__pycache__", "node_modules", "site-packages"}
"""Folders that hold nobody's own modules. One whose name begins with a dot is skipped too."""


def made_with(stage: str, user_code: str | None) -> dict[str, str]:
    """`image` where it is known, `package_code`, `stage_code`, and `user_code` where the job has some.

    Args:
        user_code: the folder of the user's modules.
    """
    found = {"package_code": package_digest(), "stage_code": stage_digest(stage)}
    if image := os.environ.get(IMAGE_VARIABLE):
        found["image"] = image
    if user_code is not None:
        found["user_code"] = modules_digest(Path(user_code))
    return found


@functools.cache
def package_digest() -> str:
    """Of all of rayml as it is installed here; the same for a wheel and for the checkout that it was built from."""
    return modules_digest(PACKAGE)


@functools.cache
def stage_digest(stage: str) -> str:
    """Of the files of rayml that a step runs, as a plan says it for a job without code of the user's."""
    return code_digest(stage_of(stage), None)


def modules_digest(folder: Path) -> str:
    """Hex sha256 over the names and bytes of the Python files of a folder."""
    return files_digest(folder, sorted(modules_of(folder)))


def files_digest(folder: Path, files: Iterable[Path]) -> str:
    """Hex sha256 over the names, relative to the folder, and the bytes of files in the order that is given."""
    hasher = hashlib.sha256()
    for path in files:
        hasher.update(path.relative_to(folder).as_posix().encode() + b"\0")
        hasher.update(hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()


def modules_of(folder: Path) -> Iterator[Path]:
    """The Python files of a folder; a virtual environment in it is not entered."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED and not name.startswith(".")]
        yield from (Path(root, name) for name in names if name.endswith(".py") and Path(root, name).is_file())
