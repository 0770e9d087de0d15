"""The fake API server, and a client that found it by a kubeconfig."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("kubernetes", reason="pip install 'rayml[kubernetes]'")
sys.path.append(str(Path(__file__).parents[1] / "kuberay"))

from fake_kube import FakeKube
from kubeconfigs import write_kubeconfig

from rayml.backends.kuberay import sending
from rayml.backends.kuberay.api import connect


@pytest.fixture
def kube(monkeypatch):
    monkeypatch.setattr(sending, "GONE_PAUSE_S", 0.01)
    with FakeKube() as server:
        yield server


@pytest.fixture
def kubeconfig(tmp_path, kube, monkeypatch):
    path = tmp_path / "config"
    write_kubeconfig(path, kube.address)
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


@pytest.fixture
def api(kubeconfig):
    return connect()
