"""The benches by name, and what all of them share: machine, command line, document."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from rayml.bench.harness import Row, document
from rayml.bench.machine import describe_machine
from rayml.errors import RaymlError

BENCHES = {
    "startup": "rayml.bench.startup",
    "train": "rayml.bench.train",
    "tune": "rayml.bench.tune",
    "compress": "rayml.bench.compress",
    "submit": "rayml.bench.submit",
}
"""Name to the module, which is a `Bench`."""
MODES = ("quick", "full")


class Bench(Protocol):
    """What the module of a bench has."""

    def names(self, mode: str) -> Sequence[str]:
        """The rows of a mode, in the order in which they are measured."""

    def run(self, mode: str, say: Callable[[str], None], wanted: Collection[str]) -> list[Row]:
        """Measure the rows whose names are wanted, and do of the others only what these need. `say`: one line a lap."""


class NoSuchBench(RaymlError):
    """A bench or a row was named that is not here."""

    exit_code = 2


def run_bench(name: str, mode: str, say: Callable[[str], None], rows: Sequence[str] = ()) -> dict[str, Any]:
    """Measure a bench; the document that `rayml bench NAME --json` prints.

    Args:
        name: of the bench.
        mode: quick or full.
        say: takes one line per lap.
        rows: those to measure; none named, all of them.

    Raises:
        NoSuchBench: there is no bench of this name, or none of its rows in this mode has a name of `rows`.
    """
    assert mode in MODES, f"{mode} is no mode"
    if name not in BENCHES:
        raise NoSuchBench(f"no bench {name!r}", hint=f"what fits: {', '.join(BENCHES)}")
    bench = cast(Bench, import_module(BENCHES[name]))
    refuse_unknown(bench, name, mode, rows)
    command = shlex.join(["rayml", "bench", name, f"--{mode}", *(word for row in rows for word in ("--row", row))])
    measured = bench.run(mode, say, rows or bench.names(mode))
    return document(name, mode, describe_machine(), command, measured)


def refuse_unknown(bench: Bench, name: str, mode: str, rows: Sequence[str]) -> None:
    """NoSuchBench where a row is not one of the bench's in this mode."""
    here = bench.names(mode)
    unknown = next((row for row in rows if row not in here), None)
    if unknown is None:
        return
    elsewhere = next((other for other in MODES if unknown in bench.names(other)), None)
    fitting = f"with --{mode} what fits: {', '.join(here)}"
    raise NoSuchBench(
        f"no row {unknown!r}" if elsewhere is None else f"no row {unknown!r} with --{mode}",
        where=f"bench {name}",
        hint=fitting if elsewhere is None else f"it is measured with --{elsewhere}; {fitting}",
    )
