"""A Ray cluster of several nodes on this machine, as others would run it: with a dashboard and a token.

python tests/ray_cluster.py NODES CPUS_OF_EACH    prints its addresses as JSON, and ends it with itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rayml.backends.local import end_session


@dataclass
class RayCluster:
    """A cluster that runs."""

    address: str
    token: str
    process: subprocess.Popen

    def kill(self) -> None:
        """End all of it at once, as when its machines lose power."""
        end_session(self.process.pid)
        self.process.wait()


@contextlib.contextmanager
def ray_cluster(nodes: int = 3, cpus: int = 1) -> Iterator[RayCluster]:
    """A head without CPUs and so many nodes, until the end of the block."""
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="rc-") as folder:
        (Path(folder) / "ray").mkdir()
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_TMPDIR": folder,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_enable_metrics_collection": "0",
        }
        with (Path(folder) / "cluster.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, __file__, str(nodes), str(cpus), folder],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (Path(folder) / "cluster.log").read_text()
        cluster = RayCluster(json.loads(line)["address"], token, process)
        try:
            yield cluster
        finally:
            cluster.kill()


def main(nodes: int, cpus: int, folder: str) -> None:
    """Hold a cluster until SIGTERM."""
    from ray.cluster_utils import Cluster

    from rayml.process import die_with_parent

    die_with_parent()
    head = {
        "num_cpus": 0,
        "include_dashboard": True,
        "dashboard_port": 0,
        "temp_dir": f"{folder}/ray",
        "object_store_memory": 80 * 2**20,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        cluster.add_node(num_cpus=cpus, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    print(json.dumps({"address": f"http://{cluster.head_node.webui_url}"}), flush=True)
    signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
