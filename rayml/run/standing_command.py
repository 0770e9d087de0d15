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
        _say(json.dumps({**describe(standing.status(name, home)), "started": started}, indent=2))
        return
    nodes = count(1 + found.sizes.nodes, "node")
    verb = "is up" if started else "is up already"
    _say(f"cluster {name} {verb}: {nodes}, {found.address}\n\n{how_to_use(found, home)}")


def down(name: str, home: Path) -> None:
    """End a cluster that `up` started. Raises as `standing.down`."""
    standing.down(name, home)
    _say(f"cluster {name} is down; nothing of it is left running")


def status(name: str, home: Path, as_json: bool) -> int:
    """Say what is alive of a cluster. 0 where it is up with all its nodes, else 5. Raises as `standing.status`."""
    state = standing.status(name, home)
    document = describe(state)
    if as_json:
        _say(json.dumps(document, indent=2))
    else:
        _say("\n".join(_lines(document)))
    return 0 if document["status"] == "up" else EXIT_NOT_UP


def describe(state: standing.State) -> dict[str, Any]:
    """A state as one JSON document. `status` is `up`, `partly` where nodes are missing, `silent` or `gone`."""
    found = state.standing
    wanted = 1 + found.sizes.nodes
    return {
        "cluster": found.name,
        "status": "partly" if state.kind == "up" and len(state.nodes) < wanted else state.kind,
        "address": found.address,
        "token_path": str(found.token_path),
        "created": found.created,
        "nodes": [vars(node) for node in state.nodes],
        "wanted": wanted,
        "cpus": sum(node.cpus for node in state.nodes),
        "gpus": sum(node.gpus for node in state.nodes),
    }


def how_to_use(found: Standing, home: Path) -> str:
    """What to type to hand a job to a cluster, to look at it and to end it."""
    storage = shlex.quote(str(home.absolute() / STORAGE))
    return (
        f"  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={shlex.quote(str(found.token_path))}\n"
        f"  rayml submit JOB --address {found.address} --storage {storage}\n"
        f"  rayml cluster status --name {found.name}\n"
        f"  rayml cluster down --name {found.name}"
    )


def _lines(document: dict[str, Any]) -> list[str]:
    name, nodes = document["cluster"], document["nodes"]
    again = f"rayml cluster down --name {name}, and then rayml cluster up --name {name}"
    alive = f"{len(nodes)} of {count(document['wanted'], 'node')} alive at {document['address']}"
    first = {
        "up": f"cluster {name} is up: {alive}",
        "partly": f"cluster {name} has lost nodes: {alive}\n  to have them all: {again}",
        "silent": f"cluster {name} runs and does not answer at {document['address']}\n  to start it anew: {again}",
        "gone": f"cluster {name} is gone: its processes ended\n  to start it again: rayml cluster up --name {name}",
    }[document["status"]]
    return [first, *(f"  {_row(node)}" for node in nodes)]


def _row(node: dict[str, Any]) -> str:
    gpus = f", {count(node['gpus'], 'GPU')}" if node["gpus"] else ""
    return f"{'head' if node['head'] else 'node'} {node['id'][:12]}: {count(node['cpus'], 'CPU')}{gpus}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
