"""Hosts of their own on one machine: each a network namespace with its own address, and its own /tmp.

They hang on one bridge. A host's cable can be pulled and put back; a host can lose power. Only Linux, and only root.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

RAY = str(Path(sys.executable).parent / "ray")
START_TIMEOUT_S = 90


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@dataclass
class Host:
    """One namespace; `cable` is the bridge's end of its wire."""

    name: str
    address: str
    cable: str
    processes: list[subprocess.Popen] = field(default_factory=list)

    def run(self, command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen:
        """Start a command on the host, with a /tmp that it shares with later ones of the host alone."""
        entered = ["ip", "netns", "exec", self.name, "unshare", "--mount", "--propagation", "private"]
        script = 'mount -t tmpfs -o size=2g tmpfs /tmp && exec "$@"'
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [*entered, "sh", "-c", script, "host", *command],
                env={**environment, "TMPDIR": "/tmp"},
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        self.processes.append(process)
        return process

    def cut(self) -> None:
        """Pull the cable."""
        ip("link", "set", self.cable, "down")

    def mend(self) -> None:
        """Put the cable back."""
        ip("link", "set", self.cable, "up")

    def lose_power(self) -> None:
        """End everything that runs on the host, at once."""
        deadline = time.monotonic() + 20
        while True:
            found = subprocess.run(["ip", "netns", "pids", self.name], check=True, capture_output=True, text=True)
            pids = [int(pid) for pid in found.stdout.split()]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in self.processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
            if not pids:
                return
            assert time.monotonic() < deadline, f"{self.name} still has {pids}"


@dataclass
class Network:
    """The bridge, with this machine on it."""

    tag: str
    prefix: str
    hosts: list[Host] = field(default_factory=list)

    @property
    def address(self) -> str:
        """This machine's own."""
        return f"{self.prefix}.1"

    def add(self) -> Host:
        """One more host."""
        number = len(self.hosts) + 1
        host = Host(f"{self.tag}n{number}", f"{self.prefix}.{number + 1}", f"{self.tag}c{number}")
        ip("netns", "add", host.name)
        self.hosts.append(host)
        ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        ip("link", "set", host.cable, "master", f"{self.tag}b", "up")
        ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", host.name, "link", "set", device, "up")
        ip("-n", host.name, "route", "add", "default", "via", self.address)
        return host


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A bridge without hosts; all that was added to it is gone at the end. Skips where that cannot be made."""
    if os.getuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("hosts of their own need root, ip (iproute2) and unshare (util-linux)")
    if Path(RAY).is_relative_to("/tmp"):
        pytest.skip("hosts have a /tmp of their own, and this environment lies in /tmp: move the checkout")
    tag = f"r{secrets.token_hex(3)}"
    made = Network(tag, f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(250)}")
    try:
        ip("link", "add", f"{tag}b", "type", "bridge")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no bridge can be made here: {error.stderr.strip()}")
    try:
        ip("addr", "add", f"{made.address}/24", "dev", f"{tag}b")
        ip("link", "set", f"{tag}b", "up")
        yield made
    finally:
        for host in made.hosts:
            with contextlib.suppress(subprocess.CalledProcessError):
                host.lose_power()
            ip("netns", "del", host.name)
        ip("link", "del", f"{tag}b")


@dataclass
class RayOnHosts:
    """A Ray cluster whose nodes are hosts."""

    head: Host
    workers: list[Host]
    token: str
    environment: dict[str, str]
    logs: Path
    wires: Network

    @property
    def address(self) -> str:
        return f"http://{self.head.address}:8265"

    def join(self, host: Host, cpus: int) -> None:
        """Start a worker node."""
        here = [f"--node-ip-address={host.address}", f"--num-cpus={cpus}", "--object-store-memory=80000000"]
        command = [RAY, "start", f"--address={self.head.address}:6379", *here, "--block"]
        host.run(command, self.environment, self.logs / f"{host.name}.log")

    def join_new(self) -> None:
        """One more host joins."""
        self.workers.append(self.wires.add())
        self.join(self.workers[-1], cpus=1)

    def stop(self) -> None:
        """All hosts lose power."""
        for host in (self.head, *self.workers):
            host.lose_power()


@contextlib.contextmanager
def ray_on_hosts(made: Network, workers: int, environment: dict[str, str], logs: Path) -> Iterator[RayOnHosts]:
    """A head without CPUs and so many hosts with one, until the end of the block."""
    token = secrets.token_hex(16)
    inside = {
        **environment,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        # A host that is cut off counts as dead after so long; Ray's own patience is half a minute.
        "RAY_health_check_initial_delay_ms": "3000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "4",
    }
    logs.mkdir(parents=True, exist_ok=True)
    cluster = RayOnHosts(made.add(), [made.add() for _ in range(workers)], token, inside, logs, made)
    here = [f"--node-ip-address={cluster.head.address}", f"--dashboard-host={cluster.head.address}"]
    command = [RAY, "start", "--head", "--port=6379", "--dashboard-port=8265", "--num-cpus=0", *here]
    try:
        head = cluster.head.run(
            [*command, "--object-store-memory=80000000", "--block"], inside, logs / f"{cluster.head.name}.log"
        )
        wait_for_nodes(cluster, 1, head)
        for host in cluster.workers:
            cluster.join(host, cpus=1)
        wait_for_nodes(cluster, workers + 1, head)
        yield cluster
    finally:
        cluster.stop()


def wait_for_nodes(cluster: RayOnHosts, count: int, head: subprocess.Popen) -> None:
    """Until the head knows so many living nodes."""
    import urllib.request

    request = urllib.request.Request(
        f"{cluster.address}/nodes?view=summary", headers={"Authorization": f"Bearer {cluster.token}"}
    )
    deadline, last = time.monotonic() + START_TIMEOUT_S, ""
    while time.monotonic() < deadline and head.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                summary = json.loads(answer.read())["data"]["summary"]
            alive = [node for node in summary if node["raylet"].get("state") == "ALIVE"]
            if len(alive) >= count:
                return
            last = f"{len(alive)} of {count} nodes live"
        except (OSError, ValueError, KeyError) as error:
            last = f"{type(error).__name__}: {error}"
        time.sleep(0.3)
    texts = "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(cluster.logs.glob("*.log")))
    raise AssertionError(f"the hosts made no cluster: {last}\n{texts}")
