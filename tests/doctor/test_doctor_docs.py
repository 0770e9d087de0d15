"""What the documents show of the doctor is what it prints."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from fakes import RECORDED, torch_said
from rich.console import Console

from rayml.doctor import driver, examine, torch_build
from rayml.doctor.asked import Asked
from rayml.doctor.show import print_findings

ROOT = Path(__file__).parents[2]
ERRORS = {"query": "ecc-errors.xml", "topo": "two-sockets.topo.txt", "gpus": 1, "nccl_loaded": "2.18.3"}
GLOO = {"backend": "gloo", "mib": 32, "gb_per_s": 1.1}


@pytest.mark.parametrize(
    ("visible", "machine"),
    [
        (None, {"query": "h100x8.xml", "topo": "h100x8.topo.txt"}),
        ("0", ERRORS),
        (None, {"query": "driver-too-old.xml", "topo": "two-sockets.topo.txt", "gpus": 0, "reduced": GLOO}),
    ],
)
def test_the_machines_with_gpus(visible, machine, monkeypatch):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    query, topo = (RECORDED / machine.pop(name) for name in ("query", "topo"))
    side = torch_build.read(torch_said(**machine))
    text = io.StringIO()
    findings = examine.judge(driver.parse(query.read_text()), topo.read_text(), side)
    print_findings(Console(file=text), {"gpu and torch": findings})
    assert f"```\n{text.getvalue()}```" in (ROOT / "docs" / "doctor.md").read_text()


def test_the_readme_shows_each_probe():
    (shown,) = re.findall(r"```\n\$ rayml doctor\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    listed = re.findall(r"^  (?:ok|warning|wrong) +(\S+(?: \S+)*)  ", shown, re.MULTILINE)
    found = [each.name for section in examine.examine(Asked()).values() for each in section]
    assert [name for name in found if name not in listed] == [] and len(listed) == len(found)
