"""Fakes of the doctor's tests are importable, and nobody's own token, cluster or storage is looked at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

TOKEN = "a-token-that-no-text-may-hold"


@pytest.fixture(autouse=True)
def own_environment(tmp_path, monkeypatch):
    """A home without a token file, and a token in the environment."""
    for name in ("RAYML_ADDRESS", "RAYML_STORAGE", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
