"""What travels with a job: its plan and the user's code folder, as one zip that is the same for the same files.

Left out: what .rayignore and .gitignore name, version control, caches, and whatever is named like a secret. A link is
refused: what it points to may be anything, and lies outside of what the user chose to send. So is a text in which a
secret is written out: everybody who may ask the cluster can read what is sent.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathspec import PathSpec

from rayml.errors import PlanError, Problem, SpecError
from rayml.redact.sources import secrets_in_source

PLAN_FILE, CODE_FOLDER = "plan.json", "code"
LARGEST = 100 * 2**20
"""Bytes: Ray's dashboard takes no larger package."""
IGNORE_FILES = (".rayignore", ".gitignore")
NEVER = (
    ".git/", ".hg/", ".svn/", ".venv/", "venv/", "__pycache__/", "*.pyc", ".mypy_cache/", ".pytest_cache/",
    ".ruff_cache/", ".rayml/", ".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "id_rsa*",
    "id_ed25519*", "id_ecdsa*",
    ".aws/", ".ssh/", ".gnupg/", ".kube/", ".docker/", ".netrc", ".pypirc", ".npmrc", "credentials",
    "credentials.json", "auth_token", "service-account*.json",
)  # fmt: skip
"""As in a .gitignore."""
SEARCHED = 2**20
"""Bytes: a larger file is data, and is not searched for secrets."""
INSTEAD = (
    'read it from the environment where the code runs, such as `os.environ["NAME"]`, '
    "or name the file in a .rayignore in that folder"
)
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The time of every entry: zip knows none before."""


@dataclass(frozen=True)
class Package:
    """A zip, and the name under which Ray keeps it."""

    content: bytes

    @property
    def name(self) -> str:
        """`_ray_pkg_<digest>.zip`: equal contents have equal names, and travel once."""
        return f"_ray_pkg_{hashlib.sha256(self.content).hexdigest()[:32]}.zip"

    @property
    def uri(self) -> str:
        """What a runtime_env calls it."""
        return f"gcs://{self.name}"

    def files(self) -> list[str]:
        """The names of what is in it."""
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            return archive.namelist()


def pack(plan: str, code: Path | None) -> Package:
    """The plan and the code folder as a zip.

    Raises:
        PlanError: a link is in the folder, or it is too large.
        SpecError: secrets are written out in its files.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        add(archive, PLAN_FILE, plan.encode())
        if code is not None:
            add_code(archive, code)
    return Package(buffer.getvalue())


def add_code(archive: zipfile.ZipFile, code: Path) -> None:
    """Write the files of the code folder.

    Raises:
        PlanError: they are too large together.
        SpecError: secrets are written out in them.
    """
    total = 0
    problems: list[Problem] = []
    for path in files_of(code):
        total += path.stat().st_size
        if total > LARGEST:
            raise too_large(code, total)
        content = path.read_bytes()
        problems += literal_secrets(path, content)
        add(archive, f"{CODE_FOLDER}/{path.relative_to(code).as_posix()}", content)
    if problems:
        raise SpecError(problems)


def literal_secrets(path: Path, content: bytes) -> list[Problem]:
    """One problem for each secret that is written out in a file of text; none for other files."""
    if len(content) > SEARCHED:
        return []
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return []
    found = dict.fromkeys(secrets_in_source(text))
    return [Problem(str(path), line, "code", f"{what} is written out; {INSTEAD}") for line, what in found]


def too_large(code: Path, size: int) -> PlanError:
    """The error of a folder that does not fit."""
    return PlanError(
        f"the code folder has {size / 2**20:,.0f} MiB and more, and Ray takes {LARGEST / 2**20:.0f} MiB",
        where=f"code: {code}",
        hint="keep data and weights elsewhere, or name them in a .rayignore in that folder",
    )


def add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Write an entry without a time, readable by everybody."""
    entry = zipfile.ZipInfo(name, LONG_AGO)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)


def files_of(folder: Path) -> Iterator[Path]:
    """Every file of a folder that may travel, in the order of their names."""
    ignored = PathSpec.from_lines("gitignore", [*ignore_lines(folder), *NEVER])
    yield from walk(folder, folder, ignored)


def walk(folder: Path, root: Path, ignored: PathSpec[Any]) -> Iterator[Path]:
    """The files below a folder; what is ignored is not entered."""
    for path in sorted(folder.iterdir()):
        name = path.relative_to(root).as_posix()
        if ignored.match_file(f"{name}/" if path.is_dir() and not path.is_symlink() else name):
            continue
        if path.is_symlink():
            raise PlanError(
                f"{name} is a link, and what it points to is not sent",
                where=f"code: {root}",
                hint="put the file itself there, or name the link in a .rayignore in that folder",
            )
        if path.is_dir():
            yield from walk(path, root, ignored)
        elif path.is_file():
            yield path


def ignore_lines(folder: Path) -> list[str]:
    """What the folder's own files say is to be left out."""
    return [
        line for name in IGNORE_FILES if (folder / name).is_file() for line in (folder / name).read_text().splitlines()
    ]
