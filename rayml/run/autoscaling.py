"""A Ray cluster on this machine whose nodes come and go, by Ray's own autoscaler and its provider of local nodes.

Each node is a raylet with its agents and workers, started by the autoscaler as it would start a machine in a cloud. The
whole cluster is one process session below a keeper (rayml.run.keeper), so that it can be ended as a whole.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rayml.errors import BackendError
from rayml.plan.plan import ClusterPlan
from rayml.stages.serve.haproxy import free_ports

HEAD_ID = "f" * 51 + "00000"
"""The node id that Ray's provider of local nodes gives to the head."""
HEAD_TYPE, NODE_TYPE = "ray.head.default", "node"
NODE_OBJECT_STORE = 128 * 1024**2
"""Bytes of a node. Rows are read from shards on the disk: what goes through it are results and messages."""
START_TIMEOUT_S = 90.0
_STOP_S = 10.0
_POLL_S = 0.05


class AutoscalingHead:
    """The head of a run's cluster, started beside the driver."""

    def __init__(self, cluster: ClusterPlan, temporary: Path, log: Path) -> None:
        """
        Args:
            cluster: with `nodes`.
            temporary: the run's private folder, for Ray's own and the autoscaler's file.
            log: takes what the head prints.
        """
        self._cluster = cluster
        self._temporary = temporary
        self._log = log
        self._address = ""
        self._keeper: subprocess.Popen[bytes] | None = None

    def launch(self) -> int:
        """Start the head and return at once; the process session that everything is in."""
        from ray.util import get_node_ip_address

        port, metrics = free_ports(2)
        self._address = f"{get_node_ip_address()}:{port}"  # type: ignore[no-untyped-call]
        config = self._temporary / "autoscaling.json"
        config.write_text(json.dumps(autoscaling_config(self._cluster, self._address)))
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "rayml.run.keeper", *head_command(self._cluster, port, config, self._temporary)],
                env={**os.environ, **head_environment(metrics)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._keeper.pid

    def join(self) -> dict[str, Any]:
        """Wait until the head answers; what `ray.init` takes to join it. BackendError where it does not."""
        assert self._keeper is not None, "launch comes first"
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(self._temporary / "ray" / "session_latest" / "sockets" / "raylet"):
            if self._keeper.poll() is not None:
                raise self._failure(f"Ray's head ended with exit code {self._keeper.returncode} before it was up")
            if time.monotonic() > deadline:
                raise self._failure(f"Ray's head was not up after {START_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_S)
        return {"address": self._address}

    def stop(self) -> None:
        """End the head, its nodes and all that they started."""
        if self._keeper is None:
            return
        self._keeper.send_signal(signal.SIGTERM)
        try:
            self._keeper.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()

    def _failure(self, what: str) -> BackendError:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        said = f"; its last words: {lines[-1].strip()}" if lines else ""
        return BackendError(what + said, where="this machine", hint=f"what the head printed is in {self._log}")


def autoscaling_config(cluster: ClusterPlan, address: str) -> dict[str, Any]:
    """What Ray's autoscaler reads. Keys: ray/autoscaler/ray-schema.json.

    Args:
        cluster: with `nodes`.
        address: of the head, which nodes join.
    """
    nodes = cluster.nodes
    assert nodes is not None, "a cluster without nodes has nothing to scale"
    return {
        "cluster_name": "rayml",
        "max_workers": nodes.max,
        "idle_timeout_minutes": nodes.idle_s / 60,
        "provider": {
            "type": "external",  # Ray knows it as fake_multinode too, and reads defaults then that its wheel lacks
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "head_node_id": HEAD_ID,
            "gcs_address": address,
            "launch_multiple": True,
            "disable_node_updaters": True,  # a node is up when its processes run: there is nothing to install on it
        },
        # A provider of our naming has no defaults: what Ray asks for is written out.
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "cluster_synced_files": [],
        "head_node_type": HEAD_TYPE,
        "available_node_types": {
            HEAD_TYPE: {
                "resources": {"CPU": cluster.cpus, "GPU": cluster.gpus},
                "node_config": {},
                "max_workers": 0,
            },
            NODE_TYPE: {
                "resources": {"CPU": nodes.cpus, "GPU": nodes.gpus, "object_store_memory": NODE_OBJECT_STORE},
                "node_config": {},
                "min_workers": nodes.min,
                "max_workers": nodes.max,
            },
        },
    }


def head_command(cluster: ClusterPlan, port: int, config: Path, temporary: Path) -> list[str]:
    """The command line of the head, which runs until it is ended."""
    options = {
        "port": port,
        "num-cpus": cluster.cpus,
        "num-gpus": cluster.gpus,
        "object-store-memory": cluster.object_store,
        "temp-dir": temporary / "ray",
        "autoscaling-config": config,
        "include-dashboard": "false",
        # 0: a free one. The command line's own defaults are the same for every cluster of a machine.
        "dashboard-agent-listen-port": 0,
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *(f"--{name}={value}" for name, value in options.items()),
    ]


def head_environment(metrics_port: int) -> dict[str, str]:
    """What the head and the nodes have beside the driver's environment."""
    return {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",  # the one that KubeRay runs; the first one does not start from this file
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "AUTOSCALER_METRIC_PORT": str(metrics_port),  # 44217 for every cluster by default
        "RAY_START_HOOK": f"{__name__}.{without_client_server.__name__}",
    }


def without_client_server(parameters: Any, head: bool) -> None:
    """Ray's hook on its RayParams: `ray start` would open a port for drivers on other machines, which nobody needs."""
    parameters.ray_client_server_port = None


def answers(path: Path) -> bool:
    """Whether a process listens at a unix socket. The head's raylet does, once the rest of the head is up."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
