"""`rayml cluster up|down|status`: what they print. The work is in rayml.run.standing."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from rayml.run import standing
from rayml.run.standing_record import Standing
from rayml.spec.load import load_cluster
from rayml.spec.words import count

STORAGE = "storage"
"""In the home: what `up` suggests for the runs of the cluster. They outlive it."""
EXIT_NOT_UP = 5


def up(cluster_file: Path | None, name: str, home: Path, as_json: bool) -> None:
    """Have a cluster on this machine that stays, and say how to use it. Raises as `standing.up` and `load_cluster`."""
    found, started = standing.up(load_cluster(cluster_file), name, home)
    if as_json:
        _say(json.dumps({**describe(standing.look(found)), "started": started}, indent=2))
        return
    verb = "is up" if started else "is up already"
    _say(f"cluster {name} {verb}: {count(found.wanted, 'node')} at {found.address}\n{how_to_use(found, home)}")


def down(name: str, home: Path) -> None:
    """End a cluster that `up` started. Raises as `standing.down`."""
    standing.down(name, home)
    _say(f"cluster {name} is down; nothing of it is left running")


def status(name: str, home: Path, as_json: bool) -> int:
    """Say what is alive of a cluster. 0 where it is up with all its nodes, else 5. Raises as `standing.status`."""
    state = standing.status(name, home)
    if as_json:
        _say(json.dumps(describe(state), indent=2))
    else:
        _say("\n".join([state.words(), *map(_row, state.nodes), next_step(state, home)]))
    return 0 if state.kind == "up" else EXIT_NOT_UP


def describe(state: standing.State) -> dict[str, Any]:
    """A state as one JSON document."""
    found = state.standing
    return {
        "cluster": found.name,
        "status": state.kind,
        "address": found.address,
        "token_path": str(found.token_path),
        "created": found.created,
        "nodes": [vars(node) for node in state.nodes],
        "wanted": found.wanted,
        "cpus": sum(node.cpus for node in state.nodes),
        "gpus": sum(node.gpus for node in state.nodes),
    }


def next_step(state: standing.State, home: Path) -> str:
    """What to type, as it is."""
    found = state.standing
    if state.kind == "up":
        return how_to_use(found, home)
    again = _command("up FILE", found.name, home)
    first = "" if state.kind == "gone" else f"{_command('down', found.name, home)} && "
    return f"  to start it again: {first}{again}"


def how_to_use(found: Standing, home: Path) -> str:
    """What to type to hand a job to a cluster, to look at it and to end it."""
    return (
        f"  export RAY_AUTH_TOKEN_PATH={shlex.quote(str(found.token_path))}\n"
        f"  rayml submit JOB --address {found.address} --storage {shlex.quote(str(home.absolute() / STORAGE))}\n"
        f"  {_command('status', found.name, home)}\n"
        f"  {_command('down', found.name, home)}"
    )


def _command(verb: str, name: str, home: Path) -> str:
    return f"rayml cluster {verb} --name {name} --home {shlex.quote(str(home))}"


def _row(node: standing.Node) -> str:
    gpus = f", {count(node.gpus, 'GPU')}" if node.gpus else ""
    return f"  {'head' if node.head else 'node'} {node.id[:12]}: {count(node.cpus, 'CPU')}{gpus}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
