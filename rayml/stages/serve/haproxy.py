"""The HAProxy of one run: its own folder and ports, and no process left behind.

Ray Serve starts HAProxy with files in /tmp and ports that are the same for every cluster of the machine, and a Ray that
dies leaves it running with the ports held. So each run names its own, and knows its processes by their config file.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from rayml.artifacts.durable import write_atomic
from rayml.errors import StageError

RECORD = "haproxy.json"
_LONGEST_FOLDER = 26
"""Ray puts 56 hex digits and `/admin.sock` below it, HAProxy a suffix of a process id while it starts; 107 is the limit
of a unix socket's path."""
_TERM_S = 2.0
_FIRST_PORT = 20_000
"""Above the well-known ones and those that Ray's workers take (10002 to 19999)."""
_SERVE_SETTINGS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # A connection that says nothing for a minute is closed, so slow clients cannot hold all of them.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "rayml.stages.serve.guard:middlewares",
}
"""What an endpoint needs wherever it runs."""


def serve_environment(folder: Path) -> dict[str, str]:
    """Environment variables that Ray must be started with for an endpoint to run in it.

    Also ends what a dead attempt of the same run left.

    Args:
        folder: the run's folder.
    """
    reap(folder)
    home = _short_folder()
    _write_record(folder, home)
    metrics, stats, fallback, first = free_ports(4)
    return {
        **_SERVE_SETTINGS,
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(os.cpu_count() or 1, 2)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{home}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{home}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(home),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{home}/state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{home}/metrics.sock",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(min(first + 1000, 65535)),
        # Ray holds each replica for 30 s before its end, for balancers that poll. This HAProxy is told within 0.1 s.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.5",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "10",
    }


def pod_environment() -> dict[str, str]:
    """The same for a pod that holds one Ray node: its ports and its /tmp are its own, so Ray's defaults fit.

    Ray's own drain stays: the Kubernetes service takes seconds to notice that a replica goes.
    """
    return dict(_SERVE_SETTINGS)


def prepare(folder: Path) -> None:
    """Before each start of an endpoint: the folder of the environment exists, and the run records it."""
    config = os.environ.get("RAY_SERVE_HAPROXY_CONFIG_FILE_LOC")
    assert config is not None, "Ray was started without the variables of serve_environment"
    home = Path(config).parent
    if not home.is_dir():
        home.mkdir(mode=0o700)
    _write_record(folder, home)


def reap(folder: Path) -> list[int]:
    """End every HAProxy that this run's folder records, and remove its files. Returns the processes ended."""
    record = folder / RECORD
    try:
        home = Path(json.loads(record.read_text())["home"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
    ended = processes(home)
    for pid in ended:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _TERM_S
    while processes(home) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in processes(home):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)
    record.unlink(missing_ok=True)
    return ended


def processes(home: Path) -> list[int]:
    """Ids of the HAProxy processes whose config file lies below `home`; zombies hold nothing and do not count."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"haproxy" in arguments[0] and any(part.startswith(f"{home}/".encode()) for part in arguments):
            found.append(int(entry.name))
    return found


def free_ports(count: int) -> list[int]:
    """Ports that nothing holds on any interface, all different.

    They lie below those that the system gives to connections by itself: a port chosen now is bound when the endpoint
    starts, which is after the training.
    """
    with ExitStack() as stack:
        found: list[int] = []
        for port in secrets.SystemRandom().sample(range(_FIRST_PORT, _first_ephemeral_port()), k=500):
            probe = stack.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("", port))
                found.append(port)
            if len(found) == count:
                return found
    raise StageError(f"fewer than {count} of 500 ports from {_FIRST_PORT} on are free", where="this machine")


def _first_ephemeral_port() -> int:
    """Linux: the first port of its own choice. A machine whose range begins near ours, or another system, has none."""
    path = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(path.read_text().split()[0]) if path.exists() else 0
    return first if first >= _FIRST_PORT + 1000 else 49152


def _write_record(folder: Path, home: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / RECORD, json.dumps({"home": str(home)}).encode())


def _short_folder() -> Path:
    """A new folder that only this user can enter: HAProxy's control socket in it is open to whoever reaches it."""
    preferred = tempfile.gettempdir()
    parent = preferred if len(preferred) + len("/rayml-12345678") <= _LONGEST_FOLDER else "/tmp"  # noqa: S108
    return Path(tempfile.mkdtemp(prefix="rayml-", dir=parent))
