"""Node's versions, by the day."""

from __future__ import annotations

import datetime

import pytest

from infra.node import installed, warning
from rayml.errors import PlanError

BEFORE, AFTER = datetime.date(2026, 4, 1), datetime.date(2026, 5, 1)


def test_node_20_after_its_end_is_named_with_what_to_type():
    text = warning("v20.20.2", AFTER)
    assert text is not None
    assert text.startswith("node v20.20.2 has been without security fixes since 2026-04-30; nvm install 24")


@pytest.mark.parametrize(
    ("version", "day"), [("v20.20.2", BEFORE), ("v22.1.0", AFTER), ("v24.0.0", AFTER), ("v26.0.0", AFTER)]
)
def test_a_version_that_is_looked_after_is_no_matter(version, day):
    assert warning(version, day) is None


@pytest.mark.parametrize(
    ("version", "what"), [(None, "not on this machine"), ("v16.1.0", "too old"), ("nonsense", "says")]
)
def test_a_node_that_cannot_run_the_cdk_is_refused(version, what):
    with pytest.raises(PlanError, match=what) as error:
        warning(version, AFTER)
    assert "nvm install 24" in error.value.hint


def test_a_node_that_fails_is_refused_with_what_it_says(tmp_path, monkeypatch):
    program = tmp_path / "node"
    program.write_text("#!/bin/sh\necho 'node: libatomic.so.1: cannot open shared object file' >&2\nexit 127\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PlanError, match="cannot open shared object"):
        warning(installed(), AFTER)
