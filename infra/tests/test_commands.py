"""`python -m infra`, as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from infra import node

ROOT = Path(__file__).parents[2]
needs_node = pytest.mark.skipif(node.installed() is None, reason=f"no node: {node.INSTALL}")


def infra(*argv: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environ,
    )


@needs_node
def test_check():
    done = infra("check")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "infra/account.yaml: ok; rayml in us-east-1 of 111122223333, bucket s3://rayml-111122223333-us-east-1\n"
    )


def test_check_says_where_a_file_is_wrong(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((ROOT / "infra/account.yaml").read_text().replace("us-east-1", "us-east-9"))
    done = infra("check", str(path))
    assert done.returncode == 2
    assert f'{path}:5: region: "us-east-9" is not' in done.stderr
    assert "did you mean `us-east-2`?" in done.stderr


def test_costs():
    done = infra("costs", "--json")
    document = json.loads(done.stdout)
    assert (document["least_per_month"], document["list_prices_of"]) == (513.14, "2026-01-19")
    assert "nodes: gpu-spot" in infra("costs").stdout


def test_prices():
    done = infra("prices", "cluster/gpu-a100.yaml", "cluster/gpu-h100-spot.yaml", "cluster/cpu-sweep.yaml")
    assert [line.partition("price_per_hour: ")[2].split()[0] for line in done.stdout.splitlines()] == [
        "21.96",
        "55.04",
        "0.27",
    ]
    assert infra("prices", "cluster/local.yaml").returncode == 2


def test_quotas_without_credentials(tmp_path):
    nowhere = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }
    done = infra("quotas", environ=nowhere)
    assert done.returncode == 5
    assert "aws sso login" in done.stderr


def test_quotas_with_a_profile_that_is_not_there(tmp_path):
    nowhere = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "AWS_PROFILE": "absent"}
    done = infra("quotas", environ=nowhere)
    assert done.returncode == 5
    assert "The config profile (absent) could not be found\n  aws configure list-profiles" in done.stderr


@needs_node
def test_synth(tmp_path):
    done = infra("synth", "--to", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
