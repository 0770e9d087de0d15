"""torch in its own process: really started, on this machine."""

from __future__ import annotations

import os
import signal
import time

from fakes import torch_said

from rayml.doctor import torch_build
from rayml.doctor.driver import driver


def test_two_ranks_add_up_a_tensor():
    side = torch_build.look()
    assert torch_build.build(side).status == "ok"
    assert torch_build.all_reduce(side).status == "ok", side
    assert " GB/s" in torch_build.all_reduce(side).found


def test_torch_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "raise ImportError('libcudart.so.13: cannot open shared object file')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = torch_build.build(torch_build.look())
    assert found.status == "wrong" and "libcudart.so.13: cannot open shared object file" in found.found
    assert "requirements.lock" in found.hint


def test_a_torch_that_hangs_is_ended(tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import time\ntime.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(torch_build, "TIMEOUT_S", 1.0)
    assert "no answer within 1 s" in torch_build.build(torch_build.look()).found


def test_a_torch_that_waits_in_the_driver_does_not_hold_the_doctor_up(tmp_path, monkeypatch):
    """Such a process does not die by SIGKILL; here, nobody sends it. What it has said is kept."""
    (tmp_path / "torch").mkdir()
    line = torch_said().splitlines()[0]
    (tmp_path / "torch" / "__init__.py").write_text(f"import time\nprint({line!r}, flush=True)\ntime.sleep(6)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(torch_build, "TIMEOUT_S", 1.5)
    monkeypatch.setattr(torch_build, "DEATH_S", 0.2)
    left: list[int] = []
    monkeypatch.setattr(torch_build.os, "killpg", lambda group, _: left.append(group))
    before = time.monotonic()
    side = torch_build.look()
    assert time.monotonic() - before < 5 and "no answer" in side.fault
    assert torch_build.build(side).status == "ok"
    monkeypatch.undo()
    os.killpg(left[0], signal.SIGKILL)


def test_ranks_that_cannot_meet(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-interface")
    found = torch_build.all_reduce(torch_build.look())
    assert found.status == "wrong" and "two ranks over gloo did not add up a tensor" in found.found


def test_no_driver_is_well():
    assert driver("").status == "ok"
