"""Kubeconfigs of the fake API server."""

from __future__ import annotations

from pathlib import Path

import yaml

TOKEN = "a-token-that-nobody-may-see"


def write_kubeconfig(path: Path, address: str) -> None:
    named = {
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "rayml"}}],
    }
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "x", **named}))
