"""The example account, synthesized once for all tests. Nothing here talks to AWS."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra import node
from infra.account import AccountSpec
from infra.load import ACCOUNT_FILE, load_account

Template = dict[str, Any]
Synthesized = dict[str, Template]


@pytest.fixture(scope="session")
def account() -> AccountSpec:
    return load_account(ACCOUNT_FILE)


@pytest.fixture(scope="session")
def synthesize(tmp_path_factory: pytest.TempPathFactory) -> Callable[[AccountSpec], Path]:
    """Account -> the folder with its templates. The real CDK, in this process, with the real cdk-nag."""
    if node.installed() is None:
        pytest.skip(f"node is not on this machine, and the CDK runs in it: {node.INSTALL}")
    node.quiet_jsii()
    from infra.app import build

    def run(spec: AccountSpec) -> Path:
        folder = tmp_path_factory.mktemp("assembly")
        build(spec, folder).synth()
        return folder

    return run


@pytest.fixture(scope="session")
def assembly(synthesize: Callable[[AccountSpec], Path], account: AccountSpec) -> Path:
    return synthesize(account)


def read_templates(folder: Path) -> Synthesized:
    """network, storage, cluster, watch -> template."""
    paths = sorted(folder.glob("*.template.json"))
    return {path.name.partition(".")[0].rpartition("-")[2]: json.loads(path.read_text()) for path in paths}


@pytest.fixture(scope="session")
def templates(assembly: Path) -> Synthesized:
    return read_templates(assembly)


def of_type(template: Template, kind: str) -> dict[str, dict[str, Any]]:
    """Logical name -> properties, of one type."""
    return {name: each.get("Properties", {}) for name, each in template["Resources"].items() if each["Type"] == kind}
