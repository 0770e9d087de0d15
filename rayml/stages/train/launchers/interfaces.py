"""Which network interface gloo speaks on: that of the address by which Ray's nodes know each other.

Left alone, gloo takes the one that the host's name resolves to, and the loopback where that is none of this host's:
many a machine resolves its own name to 127.0.1.1, and no other host reaches it there.
"""

from __future__ import annotations

import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"

_TorchBackend: Any = TorchConfig().backend_cls


class TorchOnNodes(TorchConfig):
    """Ray Train's own set-up of torch, after each worker has chosen its interface."""

    @property
    def backend_cls(self) -> Any:
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


def choose_interface() -> None:
    """Set what gloo reads, unless the user has."""
    name = interface_of(str(ray.util.get_node_ip_address()))  # type: ignore[no-untyped-call]
    if name is not None:
        os.environ.setdefault(GLOO_INTERFACE, name)


def interface_of(address: str) -> str | None:
    """The name of this host's interface with an address; None where there is none."""
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in entries):
            return str(name)
    return None
