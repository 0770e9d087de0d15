"""Ports of this machine: whether they can be used, and who has those that Ray takes by default."""

from __future__ import annotations

import os
import socket

from rayml.doctor.finding import Finding, ok, warning, wrong
from rayml.spec.words import count

DEFAULTS = {6379: "Ray's GCS (ray start --port)", 8265: "Ray's dashboard (--dashboard-port)", 8000: "Ray Serve"}
"""What a hand-made `ray start --head` takes. rayml itself asks the system for free ones."""


def loopback() -> Finding:
    """A port of 127.0.0.1 can be taken, and connected to."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=2).close()
    except OSError as error:
        hint = "let this process use 127.0.0.1: ip link set lo up, or a sandbox without its own network"
        return wrong("loopback", f"no port of 127.0.0.1 can be used: {error.strerror or error}", hint)
    return ok("loopback", "ports of 127.0.0.1 can be taken and connected to")


def taken(ports: dict[int, str] | None = None) -> Finding:
    """Who listens where Ray would by default."""
    asked = DEFAULTS if ports is None else ports
    owners = listeners()
    busy = {port: owners.get(port, "a process that cannot be seen") for port in asked if not is_free(port)}
    if not busy:
        return ok("ports", f"{', '.join(map(str, asked))} are free")
    who = "; ".join(f"{port}, of {asked[port]}, is taken by {owner}" for port, owner in busy.items())
    hint = "let Ray take others: ray start --head --port=0 --dashboard-port=0 (rayml cluster up chooses free ones)"
    return warning("ports", f"{count(len(busy), 'port')} not free: {who}", hint)


def is_free(port: int) -> bool:
    """Whether a server can be opened there."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def listeners() -> dict[int, str]:
    """Port to who listens there, as far as the system tells: `ray (process 4242)`."""
    import psutil

    found = {}
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return {}
    for each in connections:
        if each.status == psutil.CONN_LISTEN and each.pid is not None:
            found[each.laddr.port] = f"{process_name(each.pid)} (process {each.pid})"
    return found


def process_name(pid: int) -> str:
    """Its program's name, without the arguments: those may hold a secret."""
    import psutil

    try:
        return "this process" if pid == os.getpid() else str(psutil.Process(pid).name())
    except psutil.Error:
        return "a process"
