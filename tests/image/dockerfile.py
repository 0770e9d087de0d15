"""A Dockerfile as a list of stages, and its COPY and RUN steps done in a folder instead of a container.

No container engine runs here: users, mounts, labels and the base image are left out.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster" / "image" / "Dockerfile"


@dataclass
class Stage:
    name: str
    parent: str
    """The name of another stage, or an image."""
    steps: list[tuple[str, str]] = field(default_factory=list)
    """Instruction and the rest of its line."""

    def all(self, word: str) -> list[str]:
        return [rest for instruction, rest in self.steps if instruction == word]


def instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(word.upper(), " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in joined)]


def stages(text: str) -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    current = None
    for word, rest in instructions(text):
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            current = found[name] = Stage(name, parent)
        elif current is not None:
            current.steps.append((word, rest))
    return found


def lineage(found: dict[str, Stage], name: str) -> list[Stage]:
    """A stage and those that it is built on, the first one first."""
    stage = found[name]
    return [*(lineage(found, stage.parent) if stage.parent in found else []), stage]


def copies(stage: Stage) -> list[tuple[str | None, list[str], str]]:
    """The COPY lines of a stage: the stage that it takes from, or None for the checkout; sources; target."""
    found = []
    for rest in stage.all("COPY"):
        words = rest.split()
        origin = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
        found.append((origin, words[:-1], words[-1]))
    return found


def files_behind(found: dict[str, Stage], name: str) -> set[str]:
    """Every path of the checkout that decides on a stage: what it, its parents and the stages it copies from copy."""
    behind: set[str] = set()
    for stage in lineage(found, name):
        for origin, sources, _ in copies(stage):
            behind |= set(sources) if origin is None else files_behind(found, origin)
    return behind


def do(found: dict[str, Stage], name: str, place: Path) -> None:
    """COPY and RUN of a stage and its parents. `/build` and `/opt/rayml` become folders of `place`."""
    (place / "build").mkdir(parents=True, exist_ok=True)
    settings: dict[str, str] = {}
    for stage in lineage(found, name):
        for word, rest in stage.steps:
            if word == "ENV" or (word == "ARG" and "=" in rest):
                settings.update(each.partition("=")[::2] for each in shlex.split(rest))
            elif word == "COPY" and not rest.startswith("--from"):
                *sources, target = rest.split()
                copy(sources, inside(target, place), whole=target)
            elif word == "RUN":
                run(rest, place, settings)


def lay(found: dict[str, Stage], target: str, place: Path) -> None:
    """The layers of an image, one over the other: its `COPY --from`, after `do` of the stages that it names."""
    for stage in lineage(found, target):
        for origin, (source,), goal in copies(stage):
            assert origin is not None, "an image takes from stages alone"
            if source != goal:
                shutil.copytree(inside(source, place), inside(goal, place), symlinks=True, dirs_exist_ok=True)


def copy(sources: list[str], target: str, whole: str) -> None:
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            file = Path(target, Path(source).name) if whole.endswith("/") else Path(target)
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / source, file)


def run(command: str, place: Path, settings: dict[str, str]) -> None:
    """A RUN line by sh, from the index that pip knows on this machine."""
    environment = {**os.environ, **settings}
    environment.pop("PYTHONPATH", None)
    for index in ('--index-url "${PYPI_INDEX}"', '--index-url "${TORCH_INDEX}"'):
        command = command.replace(index, "")
    done = subprocess.run(
        ["sh", "-euc", inside(command, place)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def inside(text: str, place: Path) -> str:
    return text.replace("/opt/rayml", f"{place}/opt/rayml").replace("/build", f"{place}/build")
