"""`rayml doctor` as it is typed: what it prints, its exit codes, its JSON, and that no secret is in any of it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doctor.conftest import TOKEN
from fakes import FakeHead, install_nvidia_smi, serving
from rich.console import Console
from s3 import free_ports

from rayml.doctor import examine
from rayml.doctor.asked import Asked
from rayml.doctor.command import exit_code
from rayml.doctor.finding import ok, warning, wrong
from rayml.doctor.show import print_findings, to_json

ROOT = Path(__file__).parents[2]
SECTIONS = ["machine", "python", "gpu and torch", "ray", "storage"]


def doctor(*arguments: str, code: int | None = 0) -> str:
    command = [sys.executable, "-m", "rayml.cli", "doctor", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert code is None or done.returncode == code, done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout


def test_a_line_for_each_probe():
    said = doctor()
    assert [line for line in said.splitlines() if line in SECTIONS] == SECTIONS
    assert "all-reduce       2 ranks over gloo, 32 MiB: " in said and "ray token        found in RAY_AUTH_TOKEN" in said
    assert re.search(r"^0 wrong, \d warnings?, \d+ ok$", said, re.MULTILINE)


def test_a_token_file_of_mode_0644_ends_with_4_and_fix_with_0():
    file = Path.home() / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text(TOKEN)
    file.chmod(0o644)
    assert "rayml doctor --fix" in doctor(code=4)
    assert "had mode 0644, and has 0600 now" in doctor("--fix")


def test_json_is_one_document(monkeypatch):
    monkeypatch.setenv("RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA", "1")
    document = json.loads(doctor("--json", code=4))
    assert list(document) == ["status", "findings"] and document["status"] == "wrong"
    (fault,) = [each for each in document["findings"] if each["status"] == "wrong"]
    assert fault["section"] == "ray" and fault["name"] == "unsafe switches"
    assert fault["hint"] == "unset RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA"


def test_an_output_that_takes_ascii_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    document = json.loads(doctor("--json", "--home", str(tmp_path / "läufe"), code=None))
    assert any("läufe" in each["found"] for each in document["findings"])
    assert r"l\xe4ufe" in doctor("--home", str(tmp_path / "läufe"), code=None)


def test_a_cluster_that_is_not_there_ends_with_5():
    assert "cannot be reached" in doctor("--address", f"http://127.0.0.1:{free_ports(1)[0]}", code=5)


def test_a_cluster_file_names_address_and_storage(tmp_path):
    with serving(FakeHead(token=TOKEN)) as head:
        file = tmp_path / "c.yaml"
        file.write_text(f"kind: ray\naddress: {head.address}\nstorage: {tmp_path}/runs\ncpus: 1\n")
        said = doctor("--cluster", str(file))
    assert f"{head.address} takes this machine's token" in said and f"{tmp_path}/runs (not there yet)" in said


def test_a_cluster_file_that_is_wrong_ends_with_2(tmp_path):
    (tmp_path / "c.yaml").write_text("kind: rey\n")
    doctor("--cluster", str(tmp_path / "c.yaml"), code=2)


def test_inside_an_image():
    said = doctor("--image", code=None)
    assert "RUN python -m compileall" in said or "are compiled" in said
    assert "rayml and ray can be imported" in said and "all-reduce" not in said


def test_torch_and_ray_are_not_imported_by_the_command():
    program = (
        "import sys, pathlib\nfrom rayml.doctor.command import run\n"
        "run(pathlib.Path('.rayml'), None, None, None, False, False, True)\n"
        "found = {'torch', 'ray', 'numpy', 'boto3'} & set(sys.modules)\nassert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_machine_with_gpus(tmp_path, monkeypatch):
    """The driver is the recording's; torch is the real one, which sees none of its GPUs."""
    install_nvidia_smi(tmp_path / "bin", monkeypatch, "h100x8.xml", "h100x8.topo.txt")
    said = doctor(code=4)
    assert "8 x NVIDIA H100 80GB HBM3" in said and "torch sees 0 of 8 GPUs" in said


def test_exit_codes():
    bad, away = wrong("a", "b", "c"), examine.Finding("a", "wrong", "b", "c", unreachable=True)
    assert exit_code({"s": [ok("a", "b"), warning("a", "b", "c")]}) == 0
    assert exit_code({"s": [bad, away]}) == 4
    assert exit_code({"s": [away]}) == 5
    assert to_json({"s": [warning("a", "b", "c")]})["status"] == "warning"


def test_a_section_that_hangs_is_said(monkeypatch):
    import threading

    monkeypatch.setattr(examine, "sections", lambda _: {"cluster": lambda: threading.Event().wait() or []})
    monkeypatch.setattr(examine, "DEADLINE_S", {"cluster": 0.05})
    ((found,),) = examine.examine(Asked()).values()
    assert found.status == "wrong" and found.unreachable and "no answer within" in found.found
    assert found.hint.startswith("curl --max-time 5 ADDRESS")


def test_a_bug_is_not_hidden(monkeypatch):
    monkeypatch.setattr(examine, "sections", lambda _: {"ray": lambda: [ok("a", "b")].pop(7)})
    with pytest.raises(IndexError):
        examine.examine(Asked())


@pytest.mark.parametrize("width", [30, 60, 120])
def test_narrow_terminals(width):
    console = Console(width=width, force_terminal=True, color_system=None, record=True, file=io.StringIO())
    print_findings(
        console, {"ray": [wrong("token file", "has mode 0644: others can read it", "chmod 600 " + "x" * 90)]}
    )
    said = console.export_text()
    assert max(map(len, said.splitlines())) <= width
    assert "wrong" in said and "token file" in said and "x" * 90 in re.sub(r"\s", "", said)


def test_secrets_in_a_sentence_are_hidden():
    assert TOKEN not in repr(wrong("a", f"it said {TOKEN}", f"show {TOKEN}"))


def test_a_fault_without_a_hint_is_a_bug():
    with pytest.raises(AssertionError):
        wrong("a", "b", "")
