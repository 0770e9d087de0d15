"""What the documents say is there: the README's job file, its commands, every link between documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rayml.cli import app
from rayml.spec.load import load_job

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
README = (ROOT / "README.md").read_text()


def test_the_job_file_in_the_readme_is_the_shipped_one():
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert block == (ROOT / "jobs" / "digits.yaml").read_text()


def test_every_command_is_in_the_readme_and_the_reverse():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    table = set(re.findall(r"^\| `rayml (\w+)", README, re.MULTILINE))
    assert table == commands


def test_the_readmes_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_whole_job_files_in_the_documents_are_valid(path, tmp_path):
    for block in re.findall(r"```yaml\n(.*?)```", path.read_text(), re.DOTALL):
        document = yaml.safe_load(block)
        if isinstance(document, dict) and {"name", "data", "task"} <= set(document):
            job = tmp_path / "job.yaml"
            job.write_text(block)
            load_job(job)
