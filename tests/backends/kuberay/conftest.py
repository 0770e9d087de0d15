"""`pytest tests/backends/kuberay --update-golden` writes tests/golden/kuberay anew; read the diff before it is kept."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files of KubeRay anew")


@pytest.fixture
def updates_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are written instead of compared. Known only where this folder is named to pytest."""
    return bool(request.config.getoption("--update-golden", default=False))
