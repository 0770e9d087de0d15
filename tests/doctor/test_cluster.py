"""A cluster: its head, its token, its clock, and its versions against this machine's."""

from __future__ import annotations

import pytest
from doctor.conftest import TOKEN
from fakes import FakeHead, serving, versions_here
from ray_cluster import ray_cluster
from s3 import free_ports

from rayml.doctor import head

OTHER = "another-token-of-another-cluster"


def look(fake: FakeHead) -> dict:
    with serving(fake):
        return {each.name: each for each in head.look(fake.address)}


def test_a_cluster_that_is_as_this_machine():
    fake = FakeHead(token=TOKEN)
    found = look(fake)
    assert {each.status for each in found.values()} == {"ok"}, found
    assert found["cluster"].found.endswith("takes this machine's token: 1 node, 2 CPUs, 1 GPU")
    assert found["cluster versions"].found.endswith(", as here")
    (submitted,) = fake.submitted
    assert submitted["entrypoint"].startswith("python -c ") and TOKEN not in str(submitted)


def test_a_wrong_token():
    found = look(FakeHead(token=OTHER))["cluster"]
    assert found.status == "wrong" and found.unreachable and "refuses the token" in found.found
    assert "put the cluster's token into RAY_AUTH_TOKEN" in found.hint
    assert TOKEN not in repr(found) and OTHER not in repr(found)


def test_no_token(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    found = look(FakeHead(token=OTHER))["cluster"]
    assert "asks for a token, and there is none here" in found.found and "~/.ray/auth_token" in found.hint


def test_nobody_there():
    (found,) = head.look(f"http://127.0.0.1:{free_ports(1)[0]}")
    assert found.unreachable and "cannot be reached" in found.found and "kubectl port-forward" in found.hint


@pytest.mark.parametrize(("ahead", "status", "says"), [(20, "warning", "behind the head"), (-900, "wrong", "ahead of")])
def test_a_clock_that_is_off(ahead, status, says):
    found = look(FakeHead(ahead_s=ahead))["cluster clock"]
    assert found.status == status and says in found.found and "timedatectl set-ntp true" in found.hint


def test_another_minor_version_of_ray():
    found = look(FakeHead(ray="2.40.0"))["cluster"]
    assert found.status == "wrong" and "the cluster runs Ray 2.40.0, and this machine has" in found.found
    assert "submit from a machine with Ray 2.40.0" in found.hint


@pytest.mark.parametrize(
    ("changed", "status", "types"),
    [
        ({"python": "3.10.14"}, "wrong", "rm -r .venv; PYTHON=python3.10 make install"),
        ({"rayml": "0.0.9"}, "wrong", "make install in a checkout of rayml 0.0.9"),
        ({"rayml": None}, "wrong", "give the cluster an image"),
        ({"ray": "2.99.1"}, "wrong", "pip install ray==2.99.1"),
        ({"torch": f"{versions_here()['torch'].rpartition('.')[0]}.99"}, "warning", "pip install torch=="),
    ],
)
def test_other_versions(changed, status, types):
    found = look(FakeHead(versions=versions_here() | changed))["cluster versions"]
    ((name, version),) = changed.items()
    assert found.status == status and f"{name} {version or 'is missing'} there and" in found.found
    assert types in found.hint


@pytest.mark.ray
def test_a_real_cluster(monkeypatch):
    with ray_cluster(1, 1) as cluster:
        monkeypatch.setenv("RAY_AUTH_TOKEN", OTHER)
        (refused,) = head.look(cluster.address)
        monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
        found = {each.name: each for each in head.look(cluster.address)}
    assert "refuses the token" in refused.found
    assert {each.status for each in found.values()} == {"ok"}, found
    assert list(found) == ["cluster", "cluster clock", "cluster versions"]
    assert cluster.token not in repr(found)
