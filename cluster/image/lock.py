"""The parts of requirements.lock that the image installs: `python cluster/image/lock.py --write` after a change.

requirements.lock is for who develops rayml as well. Its entries that a cluster needs are copied here, unchanged, hashes
and all, into three files that the Dockerfile installs one after the other::

    wheels.lock       what comes as a wheel: nothing of it is run to install it
    sources.lock      what its authors publish as source only: built with the setuptools of wheels.lock, nothing fetched
    torch-cuda.lock   torch as PyPI has it, with the CUDA libraries that it names
    torch-cpu.lock    torch of the CPU index, which has other files: made by you, `--torch-cpu FOLDER` (docs/image.md)

What needs what is read from the packages that are installed in the environment that runs this.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LOCK = ROOT / "requirements.lock"

EXTRAS = ("compress", "deepspeed", "finetune", "s3")
"""Of rayml, in the image. `kubernetes` is for who submits; `mobile` and `infra` are for a desk."""
SOURCES = frozenset({"deepspeed"})
TORCH = frozenset({"torch", "torchvision"})
CUDA = re.compile(r"(nvidia|cuda)-.+|triton")
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"}
ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)(?: *; *(?P<marker>[^\\]+?))? *\\?$")
HASH = re.compile(r"^ +--hash=sha256:[0-9a-f]{64}(?: \\)?$")
AGAIN = (
    "uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header "
    "--no-annotate -o requirements.lock && python cluster/image/lock.py --write"
)
Lock = dict[str, list[str]]
"""Name to the text of each of its entries: one for each set of Pythons, where they differ."""


def read_lock(path: Path = LOCK) -> Lock:
    """The entries of a lock. ValueError where a line is neither an entry nor the sha256 of one."""
    found: Lock = {}
    entry: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        begins = ENTRY.match(line)
        if begins:
            entry = found.setdefault(str(canonicalize_name(begins["name"])), [])
            entry.append(line)
        elif HASH.match(line) and entry:
            entry[-1] += f"\n{line}"
        elif line.strip() and not line.lstrip().startswith("#"):
            raise ValueError(f"{path.name}:{number}: {line.strip()!r} is no `name==version` and no sha256 of one")
    return found


def unmet(lock: Lock, requirements: Iterable[str]) -> list[str]:
    """What a lock does not have of what a project asks for, in words; empty where it fits."""
    faults = []
    for wanted in map(Requirement, requirements):
        entries = lock.get(str(canonicalize_name(wanted.name)), [])
        locked = [found["version"] for entry in entries if (found := ENTRY.match(entry.splitlines()[0]))]
        if not locked:
            faults.append(f"{wanted.name} is not in it")
        faults += [
            f"{wanted.name} is {version} in it, and pyproject.toml asks for {wanted.specifier}"
            for version in locked
            if not wanted.specifier.contains(version, prereleases=True)
        ]
    return faults


def require(lock: Lock, requirements: Iterable[str]) -> None:
    """ValueError where the lock is not one of these requirements, or an entry of it has no hash."""
    faults = unmet(lock, requirements)
    faults += [f"{name} has no sha256" for name, entries in lock.items() if not all("sha256:" in e for e in entries)]
    if faults:
        raise ValueError(f"requirements.lock does not fit: {'; '.join(faults)}. Type: {AGAIN}")


def project() -> tuple[list[str], dict[str, list[str]]]:
    """The dependencies of pyproject.toml, and its extras. `rayml[...]` of an extra is left out: its parts are here."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        name: [each for each in wanted if not each.startswith("rayml[")]
        for name, wanted in found["optional-dependencies"].items()
    }
    return found["dependencies"], extras


def runtime_names() -> set[str]:
    """What rayml with its extras needs on Linux, and what that needs, and so on."""
    dependencies, extras = project()
    first = [*dependencies, *(each for extra in EXTRAS for each in extras[extra]), "setuptools"]
    found: set[str] = set()
    waiting = [Requirement(text) for text in first]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        name = str(canonicalize_name(wanted.name))
        found.add(name)
        for extra in ("", *sorted(wanted.extras)):
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += needed_by(name, extra)
    return found


def needed_by(name: str, extra: str) -> list[Requirement]:
    """The requirements of an installed package; those of one of its extras where one is named."""
    requirements = [Requirement(text) for text in metadata.requires(name) or ()]
    return [each for each in requirements if applies(each.marker, extra) and (not extra or each.marker is not None)]


def applies(marker: Marker | None, extra: str) -> bool:
    """Whether a requirement counts on the image's Linux."""
    return marker is None or marker.evaluate({**LINUX, "extra": extra})


def parts(lock: Lock, names: Iterable[str]) -> dict[str, str]:
    """File name to content. ValueError where the lock misses something."""
    wanted = set(names)
    missing = sorted(wanted - set(lock))
    if missing:
        raise ValueError(f"requirements.lock has no {', '.join(missing)}: type: {AGAIN}")
    torch = {name for name in wanted if name in TORCH or CUDA.fullmatch(name)}
    files = {"wheels.lock": wanted - torch - SOURCES, "sources.lock": wanted & SOURCES, "torch-cuda.lock": torch}
    return {file: text_of(lock, names) for file, names in files.items()}


def text_of(lock: Lock, names: Iterable[str]) -> str:
    return "\n".join(entry for name in sorted(names) for entry in lock[name]) + "\n"


def torch_cpu(folder: Path) -> str:
    """The lock of wheels that were downloaded from the CPU index, by what they are. ValueError where one is missing."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(folder.glob("*.whl")):
        parsed = parse_wheel_filename(path.name)
        found.setdefault((str(parsed[0]), str(parsed[1])), []).append(hashlib.sha256(path.read_bytes()).hexdigest())
    if {name for name, _ in found} != TORCH:
        raise ValueError(f"{folder} has to hold wheels of {' and '.join(sorted(TORCH))}, and nothing else")
    lines = []
    for (name, version), hashes in sorted(found.items()):
        locked = [ENTRY.match(entry.splitlines()[0]) for entry in read_lock()[name]]
        if version.partition("+")[0] not in {each["version"] for each in locked if each}:
            raise ValueError(f"{name} {version} is not the version of requirements.lock")
        lines += [f"{name}=={version} \\", *" \\\n".join(f"    --hash=sha256:{each}" for each in hashes).split("\n")]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python cluster/image/lock.py")
    parser.add_argument("--write", action="store_true", help="write the files; say what differs if left out")
    parser.add_argument("--torch-cpu", type=Path, metavar="FOLDER", help="with the wheels of the CPU index")
    given = parser.parse_args(arguments)
    try:
        lock, (dependencies, extras) = read_lock(), project()
        require(lock, [*dependencies, *(each for wanted in extras.values() for each in wanted)])
        files = parts(lock, runtime_names())
        if given.torch_cpu:
            files["torch-cpu.lock"] = torch_cpu(given.torch_cpu)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if given.write or given.torch_cpu:
        for name, text in files.items():
            (HERE / name).write_text(text)
        return 0
    stale = [name for name, text in files.items() if not (HERE / name).is_file() or (HERE / name).read_text() != text]
    if stale:
        sys.stderr.write(f"error: not what requirements.lock says: {', '.join(stale)}. python {sys.argv[0]} --write\n")
    return 2 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
