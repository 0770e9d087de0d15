"""The process above a cluster that stays: it starts the head and its nodes, and ends them when the head ends.

`python -m rayml.run.standing_keeper FOLDER`, as the leader of a process session that outlives the command line.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rayml.process import interrupt_on_signals
from rayml.run.autoscaling import NODE_OBJECT_STORE
from rayml.run.keeper import end_others
from rayml.run.standing_record import MARK, Standing, read
from rayml.stages.serve.haproxy import free_ports

LOOPBACK = "127.0.0.1"
_POLL_S = 0.05
_OF_EVERY_NODE: dict[str, object] = {
    # 0: a free one. The command line's own defaults are the same for every node of a machine.
    "dashboard-agent-listen-port": 0,
    "min-worker-port": 0,
    "max-worker-port": 0,
}


def main(folder: Path) -> int:
    """The exit code of the head, or 0 where the keeper was told to end."""
    interrupt_on_signals()
    standing = read(folder)
    assert standing is not None, "the record is written before its keeper is started"
    try:
        head = subprocess.Popen(head_command(standing), stdin=subprocess.DEVNULL)
        while head.poll() is None and not listens(standing.gcs_port):
            time.sleep(_POLL_S)
        for _ in range(standing.sizes.nodes):
            subprocess.Popen(node_command(standing), stdin=subprocess.DEVNULL)
        return head.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        end_others(os.getpid())


def head_command(standing: Standing) -> list[str]:
    """The command line of the head, which runs until one of its processes ends."""
    options = {
        "port": standing.gcs_port,
        "num-cpus": standing.sizes.cpus,
        "num-gpus": standing.sizes.gpus,
        "object-store-memory": standing.sizes.object_store,
        "temp-dir": standing.temporary / "ray",
        "include-dashboard": "true",
        "dashboard-host": LOOPBACK,
        "dashboard-port": standing.dashboard_port,
    }
    return _ray_start(options, "--head")


def node_command(standing: Standing) -> list[str]:
    """The command line of one node beside the head."""
    options = {
        "address": standing.gcs_address,
        "num-cpus": standing.sizes.node_cpus,
        "num-gpus": 0,
        "object-store-memory": NODE_OBJECT_STORE,
    }
    return _ray_start(options)


def _ray_start(options: dict[str, object], *flags: str) -> list[str]:
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *flags),
        *(f"--{name}={value}" for name, value in {**_OF_EVERY_NODE, **options}.items()),
    ]


def environment(standing: Standing) -> dict[str, str]:
    """The whole environment of a cluster's processes. It names the token's file and does not hold the token."""
    autoscaler_metrics, dashboard_metrics = free_ports(2)
    kept = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    return {
        **kept,
        MARK: standing.id,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(standing.token_path),
        "RAY_TMPDIR": str(standing.temporary),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",  # nobody scrapes it, and each node would serve them without a token
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",  # 5 by default, and so long `rayml submit` would miss CPUs of new nodes
        # 44217 and 44227 for every cluster by default
        "AUTOSCALER_METRIC_PORT": str(autoscaler_metrics),
        "DASHBOARD_METRIC_PORT": str(dashboard_metrics),
        "RAY_START_HOOK": f"{prepare.__module__}.{prepare.__name__}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def prepare(parameters: Any, head: bool) -> None:
    """Ray's hook on its RayParams, for what `ray start` has no option for."""
    parameters.ray_client_server_port = None  # a port for drivers on other machines, which nobody needs
    # Nodes of one machine that start at the same moment would choose the same names.
    parameters.raylet_socket_name = f"{os.environ['RAY_TMPDIR']}/raylet-{os.getpid()}"
    parameters.plasma_store_socket_name = f"{os.environ['RAY_TMPDIR']}/store-{os.getpid()}"


def listens(port: int) -> bool:
    """Whether a process listens at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
