"""Limits of the machine, really set: in a process of its own, or as files of a cgroup."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from rayml.doctor import machine, packages, ports
from rayml.doctor.finding import Finding


def test_this_machine_is_well():
    for probe in (machine.memory, machine.shared_memory, ports.loopback, packages.python, packages.packages):
        assert probe().status == "ok", probe()


@pytest.mark.parametrize(
    ("soft", "hard", "status", "types"),
    [
        (256, 256, "wrong", "/etc/security/limits.conf"),
        (256, 8192, "wrong", "ulimit -n 8192"),
        (2048, 2048, "warning", "docker run --ulimit nofile=65536"),
        (2048, 8192, "ok", ""),
    ],
)
def test_open_files(soft, hard, status, types):
    program = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from rayml.doctor.machine import open_files\nprint(repr(open_files()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    found = eval(done.stdout, {"Finding": Finding})
    assert found.status == status and f"{soft:,} at a time" in found.found and types in found.hint


def test_a_cgroup_with_little_memory(tmp_path):
    (tmp_path / "memory.max").write_text("1073741824\n")
    found = machine.memory(tmp_path)
    assert found.status == "wrong" and "1.0 GiB of" in found.found and "docker run --memory=8g" in found.hint


def test_a_cgroup_without_a_limit(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.memory(tmp_path).status == "ok" and machine.cpus(tmp_path).status == "ok"


def test_a_cgroup_with_half_a_cpu(tmp_path):
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    found = machine.cpus(tmp_path)
    assert found.status == "warning" and "the time of 0.5" in found.found and "`cpus: 1`" in found.hint


def test_cgroup_v1(tmp_path):
    for name, text in (("memory/memory.limit_in_bytes", "1073741824"), ("cpu/cpu.cfs_quota_us", "50000")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    assert machine.memory(tmp_path).status == "wrong" and machine.cpus(tmp_path).status == "warning"


@pytest.mark.parametrize(("mib", "status"), [(64, "wrong"), (1024, "warning"), (16_000, "ok")])
def test_shared_memory(monkeypatch, mib, status):
    """Docker gives 64 MiB where nothing is said."""
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: machine.shutil._ntuple_diskusage(mib * 2**20, 0, 0))
    monkeypatch.setattr(machine, "allowed_memory", lambda _: 32 * 2**30)
    found = machine.shared_memory()
    assert found.status == status
    assert status == "ok" or "docker run --shm-size=9g" in found.hint


def test_no_shared_memory(tmp_path):
    assert "docker run --shm-size" in machine.shared_memory(tmp_path / "absent").hint


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = ports.taken({port: "Ray's dashboard"})
    assert found.status == "warning" and "ray start --head --port=0" in found.hint
    assert f"{port}, of Ray's dashboard, is taken by this process (process " in found.found
    assert ports.taken({port: "Ray's dashboard"}).status == "ok"


def test_no_loopback(monkeypatch):
    def refuse(*_, **__):
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(ports.socket, "create_server", refuse)
    found = ports.loopback()
    assert found.status == "wrong" and "Cannot assign requested address" in found.found and "ip link" in found.hint


def test_a_python_that_does_not_fit():
    found = packages.python_fits("3.10.4", ">=3.11,<3.15")
    assert found.status == "wrong" and found.found == "Python 3.10.4 is outside of >=3.11,<3.15"
    assert "make install" in found.hint


def test_packages_that_do_not_fit():
    asked = ["ray[data]>=99", "no-such-package>=1", "boto3<1; extra == 's3'", "no-extra>=1; extra == 's3'", "torch>=2"]
    found = packages.packages_fit([*asked, "pydantic>=99; python_version < '3'"])
    assert found.status == "wrong" and "requirements.lock" in found.hint
    for part in ("ray 2.", "(>=99)", "no-such-package is missing (>=1)", "boto3 1."):
        assert part in found.found
    assert not any(name in found.found for name in ("torch", "no-extra", "pydantic"))
