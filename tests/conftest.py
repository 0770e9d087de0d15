"""Makes tests/contract importable, and keeps every test out of the user's own rayml folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from autoscaling import autoscaling_run  # noqa: F401

from rayml.run.session import process_token

sys.path.insert(0, str(Path(__file__).parent))

# Ray reads its token once in a process: every cluster that a test starts here has this one.
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=process_token())


@pytest.fixture(scope="module", autouse=True)
def environment_of_a_module():
    """What Ray and rayml set in this process for a cluster ends with the tests that started it."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RAYML_HOME", str(tmp_path_factory.getbasetemp() / "home"))


def pytest_generate_tests(metafunc):
    """A test for each recipe that a strategy's contract class names."""
    if "recipe" in metafunc.fixturenames and metafunc.cls is not None:
        metafunc.parametrize("recipe", metafunc.cls.recipes)
