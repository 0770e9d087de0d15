"""Machines with GPUs, as recorded outputs tell of them; the code that parses and judges is the one that runs there."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest
from fakes import RECORDED, install_nvidia_smi, torch_said

from rayml.doctor import driver, topology, torch_build
from rayml.doctor.examine import judge
from rayml.doctor.torch_side import nccl_words


def findings(query: str, topo: str = "h100x8.topo.txt", **changed) -> dict:
    """The findings of a recorded machine, by their names."""
    drawn = (RECORDED / topo).read_text()
    found = driver.parse((RECORDED / query).read_text())
    return {each.name: each for each in judge(found, drawn, torch_build.read(torch_said(**changed)))}


def test_eight_h100_are_well():
    found = findings("h100x8.xml")
    assert {each.status for each in found.values()} == {"ok"}
    assert found["driver"].found == "580.95.05, for CUDA up to 13.0"
    assert found["gpus"].found == "8 x NVIDIA H100 80GB HBM3, 81,559 MiB each at least"
    assert found["topology"].found == "all 28 pairs joined by NVLink (18 links or more)"
    assert found["all-reduce"].found == "2 ranks over nccl, 256 MiB: 321.0 GB/s"


def test_the_real_command_is_run_and_parsed(tmp_path, monkeypatch):
    install_nvidia_smi(tmp_path / "bin", monkeypatch, "h100x8.xml", "h100x8.topo.txt")
    found = driver.look()
    assert isinstance(found, driver.Driver) and len(found.gpus) == 8
    assert set(topology.parse(driver.run("topo", "-m")).values()) == {"NV18"}


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("version-mismatch.txt", "Failed to initialize NVML: Driver/library version mismatch"),
        ("no-driver-loaded.txt", "couldn't communicate with the NVIDIA driver"),
    ],
)
def test_a_driver_that_fails(tmp_path, monkeypatch, file, says):
    install_nvidia_smi(tmp_path / "bin", monkeypatch, file)
    found = driver.driver(driver.look())
    assert found.status == "wrong" and says in found.found and "docker run --gpus all" in found.hint


@pytest.mark.parametrize(
    ("script", "says", "types"),
    [
        (r"printf '\377\033[2J no text'", "?[2J no text", "docker run --gpus all"),
        ("exit 9", "nothing, and ends with 9", "docker run --gpus all"),
        ("exec sleep 30", "no answer within 10 s", "sudo dmesg"),
        ("sleep 30 & wait", "no answer within 10 s", "sudo dmesg"),
        (f"sed s,13.0,N/A, {RECORDED}/h100x8.xml", "CUDA N/A", "-e NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
        ("echo '<nvidia_smi_log></nvidia_smi_log>'", "CUDA unknown", "ldconfig -p | grep libcuda.so.1"),
    ],
)
def test_an_nvidia_smi_that_prints_something_else(tmp_path, monkeypatch, script, says, types):
    monkeypatch.setattr(driver, "TIMEOUT_S", 1.0)
    install_nvidia_smi(tmp_path / "bin", monkeypatch, "h100x8.xml")
    (tmp_path / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    seen = driver.look()
    found = judge(seen, "", torch_build.read(torch_said()))
    assert found[0].status == "wrong" and says in found[0].found and types in found[0].hint
    assert "cuda" not in {each.name for each in found}


def test_an_nvidia_smi_that_waits_in_the_driver_does_not_hold_the_doctor_up(tmp_path, monkeypatch):
    """Such a process does not die by SIGKILL; here, nobody sends it."""
    install_nvidia_smi(tmp_path / "bin", monkeypatch, "h100x8.xml")
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 6\n")
    monkeypatch.setattr(driver, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(driver, "DEATH_S", 0.1)
    started: list[subprocess.Popen[str]] = []

    class Stuck(subprocess.Popen):
        def kill(self) -> None:
            started.append(self)

    monkeypatch.setattr(driver.subprocess, "Popen", Stuck)
    before = time.monotonic()
    assert driver.run("-q", "-x") == driver.NO_ANSWER
    assert time.monotonic() - before < 3
    (process,) = started
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_what_nvidia_smi_says_beside_its_document():
    said = "WARNING: infoROM is corrupted at gpu 0000:1B:00.0"
    text = f"{(RECORDED / 'h100x8.xml').read_text()}\n{said}\n"
    found = {each.name: each for each in judge(driver.parse(text), "", torch_build.read(torch_said()))}
    assert found["driver"].status == "ok"
    assert found["gpu health"].status == "warning" and found["gpu health"].found == f"nvidia-smi says: {said}"


def test_a_driver_too_old_for_torch():
    found = findings("driver-too-old.xml", gpus=0)
    assert found["cuda"].found == "torch was built for CUDA 13.0, and driver 535.54.03 runs CUDA up to 12.2"
    assert found["cuda"].hint == "update the driver to one for CUDA 13, or install a torch for 12.2"
    assert found["visible gpus"].status == "wrong" and "torch sees 0 of 2 GPUs" in found["visible gpus"].found


def test_a_driver_of_an_older_minor_version_is_a_warning():
    found = findings("h100x8.xml", cuda="13.2")["cuda"]
    assert found.status == "warning" and "update the driver to one for CUDA 13.2" in found.hint


def test_torch_built_for_cpus_beside_gpus():
    found = findings("h100x8.xml", cuda=None, nccl=None, gpus=0)["cuda"]
    assert found.status == "wrong" and "torch was built for CPUs" in found.found and "--force-reinstall" in found.hint


def test_a_gpu_that_is_hidden(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6")
    found = findings("h100x8.xml", gpus=7)["visible gpus"]
    assert found.status == "warning"
    assert found.found == "torch sees 7 of 8 GPUs: CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6"
    assert found.hint.startswith("unset CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize("value", ["", "9", "-1"])
def test_gpus_that_are_all_hidden(monkeypatch, value):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert findings("h100x8.xml", gpus=0)["visible gpus"].status == "wrong"


def test_memory_errors():
    found = findings("ecc-errors.xml", gpus=2)["gpu health"]
    assert found.status == "wrong"
    assert "GPU 1 has 2 memory errors that could not be corrected (ECC)" in found.found
    assert "GPU 1 has memory rows whose replacement is failed" in found.found
    assert (
        "kubectl drain NODE --ignore-daemonsets --delete-emptydir-data)" in found.hint
        and "nvidia-smi --gpu-reset" in found.hint
    )


def test_memory_in_use_and_slices():
    found = findings("busy-and-mig.xml", gpus=2)
    assert "GPU 0 has 70,211 MiB in use" in found["gpus"].found and "--query-compute-apps" in found["gpus"].hint
    assert "MIG is on for GPU 1" in found["gpu health"].found and found["gpu health"].status == "warning"


def test_gpus_on_two_sockets():
    found = findings("h100x8.xml", topo="two-sockets.topo.txt")["topology"]
    assert found.status == "warning" and "the link between CPU sockets (SYS)" in found.found
    assert "CUDA_VISIBLE_DEVICES" in found.hint


def test_a_topology_that_is_not_drawn():
    assert topology.topology(topology.parse("Failed to initialize NVML")).status == "warning"


@pytest.mark.parametrize(("loaded", "status"), [("2.18.3", "wrong"), ("2.31.1", "warning")])
def test_another_nccl_is_loaded(loaded, status):
    found = findings("h100x8.xml", nccl_loaded=loaded)["nccl"]
    assert found.status == status and found.found == f"torch was built with NCCL 2.30.7, and {loaded} is loaded"
    assert "unset LD_PRELOAD" in found.hint


def test_an_all_reduce_that_fails_or_crawls():
    failed = findings("h100x8.xml", reduced={"backend": "nccl", "error": "DistBackendError: unhandled system error"})
    assert "two ranks over nccl did not add up a tensor: DistBackendError" in failed["all-reduce"].found
    assert failed["all-reduce"].hint == "NCCL_DEBUG=INFO rayml doctor"
    slow = findings("h100x8.xml", reduced={"backend": "nccl", "mib": 256, "gb_per_s": 0.8})["all-reduce"]
    assert slow.status == "warning" and "nvidia-smi topo -p2p r" in slow.hint


def test_nccl_numbers():
    assert [nccl_words(number) for number in (23007, 21805)] == ["2.30.7", "2.18.5"]
