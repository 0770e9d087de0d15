"""A Ray cluster on this machine that stays: one command starts it, `rayml submit` uses it, another command ends it.

Its processes are one session below a keeper (rayml.run.standing_keeper), and what is known of it is in a record
(rayml.run.standing_record). Nothing here imports Ray.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from rayml.artifacts.durable import write_atomic
from rayml.backends.ray.client import JobsClient
from rayml.errors import BackendError, PlanError
from rayml.plan.build import resolve_cluster
from rayml.plan.facts import Facts, count_gpus
from rayml.run.session import boot_id
from rayml.run.standing_keeper import environment
from rayml.run.standing_record import Sizes, Standing, find, folder_of, read
from rayml.spec.cluster import Cluster, LocalCluster
from rayml.spec.words import count
from rayml.stages.serve.haproxy import free_ports

START_TIMEOUT_S = 60.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Node:
    """A node that is alive."""

    id: str
    head: bool
    cpus: int
    gpus: int


@dataclass(frozen=True)
class State:
    """What can be seen of a cluster."""

    standing: Standing
    kind: Literal["up", "partly", "silent", "gone"]
    """`partly`: nodes are missing. `silent`: its processes run, and it does not answer. `gone`: there are none."""
    nodes: tuple[Node, ...] = ()

    def words(self) -> str:
        """The state as a sentence."""
        name, wanted = self.standing.name, count(self.standing.wanted, "node")
        return {
            "up": f"cluster {name} is up: {len(self.nodes)} of {wanted} alive",
            "partly": f"cluster {name} has lost nodes: {len(self.nodes)} of {wanted} alive",
            "silent": f"cluster {name} runs and does not answer",
            "gone": f"cluster {name} is gone: its processes ended",
        }[self.kind]


class Head(JobsClient):
    """The Jobs API of a head, and its nodes as `rayml cluster` tells of them."""

    def nodes(self) -> tuple[Node, ...]:
        """Those that are alive, the head first."""
        alive = [_node(each) for each in self.alive_nodes()]
        return tuple(sorted(alive, key=lambda node: (not node.head, node.id)))


def _node(document: dict[str, Any]) -> Node:
    total = document.get("resources_total") or {}
    return Node(
        id=document["node_id"],
        head=bool(document["is_head_node"]),
        cpus=int(total.get("CPU", 0)),
        gpus=int(total.get("GPU", 0)),
    )


def up(cluster: Cluster, name: str, home: Path) -> tuple[Standing, bool]:
    """Have a cluster of this name; whether it was started now, and did not stand already.

    Args:
        cluster: of this machine.
        name: of the cluster, and of its folder in `<home>/clusters`.
        home: where rayml keeps what it leaves.
    Raises:
        PlanError: a name or a cluster that does not fit.
        BackendError: it did not come up, and nothing of it is left but its log; or it stands with other sizes.
    """
    sizes = sizes_of(cluster)
    folder = folder_of(home, name)
    with _alone(folder.parent):
        found = read(folder)
        if found is not None and found.processes():
            return _same(found, sizes), False
        if found is not None:
            found.end()
        return _start(_prepare(folder, sizes)), True


def sizes_of(cluster: Cluster) -> Sizes:
    """What a cluster file asks for, every "auto" as a number. PlanError for one that cannot stay here."""
    if not isinstance(cluster, LocalCluster):
        raise PlanError(
            f"a cluster of kind {cluster.kind} is not started on this machine",
            where="kind",
            hint="name a file of kind: local, such as cluster/local-2-nodes.yaml",
        )
    nodes = cluster.nodes
    if nodes is not None and nodes.min != nodes.max:
        raise PlanError(
            f"a cluster that stays does not grow from {nodes.min} to {nodes.max} nodes",
            where="nodes",
            hint="give min and max the same number; `rayml run` has nodes that come and go",
        )
    plan = resolve_cluster(cluster, _facts(cluster))
    own = Sizes(cpus=plan.cpus, gpus=plan.gpus, object_store=plan.object_store)
    return own if nodes is None else own.model_copy(update={"nodes": nodes.max, "node_cpus": nodes.cpus})


def _facts(cluster: LocalCluster) -> Facts:
    """What this machine has, as far as a cluster without a job needs it."""
    return Facts(
        cpus=len(os.sched_getaffinity(0)) if cluster.cpus == "auto" else cluster.cpus,
        gpus=count_gpus() if cluster.gpus == "auto" else cluster.gpus,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        source="",
        code={},
    )


@contextlib.contextmanager
def _alone(clusters: Path) -> Iterator[None]:
    """One command at a time starts or ends the clusters of a home; the next one waits."""
    clusters.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(clusters, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _same(found: Standing, sizes: Sizes) -> Standing:
    """The cluster that stands. BackendError where it is not whole, or something else was asked for."""
    anew = f"to have it anew: rayml cluster down --name {found.name}, and then the same command again"
    if found.sizes != sizes:
        what = f"cluster {found.name!r} is up with other sizes than the file's"
        raise BackendError(what, where=found.address, hint=f"{anew}; or give another --name")
    state = look(found)
    if state.kind != "up":
        raise BackendError(state.words(), where=found.address, hint=anew)
    return found


def _prepare(folder: Path, sizes: Sizes) -> Standing:
    """The folder of a cluster with its token and its record, before anything is started."""
    shutil.rmtree(folder, ignore_errors=True)  # the log of a start that failed
    folder.mkdir(mode=0o700)
    gcs_port, dashboard_port = free_ports(2)
    standing = Standing(
        name=folder.name,
        id=secrets.token_hex(8),
        folder=folder,
        # Ray opens its folder to everybody, so it stands inside one that only this user can enter.
        temporary=Path(tempfile.mkdtemp(prefix="rayml-")),
        sizes=sizes,
        gcs_port=gcs_port,
        dashboard_port=dashboard_port,
        boot=boot_id(),
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
    )
    write_atomic(standing.token_path, secrets.token_hex(32).encode(), mode=0o600)
    standing.write()
    return standing


def _start(standing: Standing) -> Standing:
    """Start a prepared cluster and wait until it can be used; end all of it where it cannot, or at Ctrl-C."""
    try:
        with standing.log.open("ab") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "rayml.run.standing_keeper", str(standing.folder)],
                env=environment(standing),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started = standing.model_copy(update={"session": keeper.pid})
        started.write()
        _wait(started, keeper)
    except BackendError as error:
        said = standing.last_words()
        standing.end(keep_log=True)
        raise BackendError(f"{error.what}; its last words: {said}", where=error.where, hint=error.hint) from None
    except BaseException:
        standing.end()
        raise
    return started


def _wait(standing: Standing, keeper: subprocess.Popen[bytes]) -> None:
    """Until all nodes are alive and the Jobs API answers. BackendError where that does not happen."""
    head = Head(standing.address, standing.token())
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _is_whole(head, standing):
        if keeper.poll() is not None:
            raise _failure(standing, "Ray's head ended before it was up")
        if time.monotonic() > deadline:
            raise _failure(
                standing, f"not all of {count(standing.wanted, 'node')} are up after {START_TIMEOUT_S:.0f} s"
            )
        time.sleep(_POLL_S)


def _is_whole(head: Head, standing: Standing) -> bool:
    """Whether a job can be submitted now."""
    try:
        return len(head.nodes()) == standing.wanted and not head.jobs()
    except BackendError:
        return False


def _failure(standing: Standing, what: str) -> BackendError:
    return BackendError(what, where="this machine", hint=f"what Ray printed is in {standing.log}")


def status(name: str, home: Path) -> State:
    """What can be seen of a cluster. PlanError where none of this name was started."""
    return look(find(home, name))


def look(standing: Standing) -> State:
    """What can be seen of a cluster whose record is known."""
    try:
        nodes = Head(standing.address, standing.token()).nodes()
    except (BackendError, FileNotFoundError):
        return State(standing, "silent" if standing.processes() else "gone")
    return State(standing, "up" if len(nodes) >= standing.wanted else "partly", nodes)


def down(name: str, home: Path) -> Standing:
    """End a cluster with all its processes, whatever state it is in, and remove its folders.

    Raises:
        PlanError: none of this name was started.
    """
    find(home, name)
    with _alone(folder_of(home, name).parent):
        standing = find(home, name)
        standing.end()
    return standing
