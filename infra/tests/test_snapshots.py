"""The example's templates, as they were last looked through.

After a change that is meant: RAYML_RENEW_SNAPSHOTS=1 python -m pytest infra/tests/test_snapshots.py
Then read `git diff infra/tests/snapshots`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

SNAPSHOTS = Path(__file__).with_name("snapshots")
STACKS = ("network", "storage", "cluster", "watch")
LARGEST_BYTES = 200_000


@pytest.mark.parametrize("stack", STACKS)
def test_the_template_is_as_it_was(stack, templates):
    path = SNAPSHOTS / f"{stack}.json"
    text = json.dumps(templates[stack], indent=1, sort_keys=True) + "\n"
    if os.environ.get("RAYML_RENEW_SNAPSHOTS"):
        path.write_text(text)
    assert json.loads(path.read_text()) == templates[stack], "look through it, then RAYML_RENEW_SNAPSHOTS=1"


def test_there_is_a_snapshot_of_every_stack_and_each_can_be_read(templates):
    assert set(templates) == {path.stem for path in SNAPSHOTS.iterdir()} == set(STACKS)
    for path in SNAPSHOTS.iterdir():
        assert path.stat().st_size < LARGEST_BYTES
        assert not re.search(r"[0-9a-f]{64}", path.read_text()), "the hash of an asset changes with every release"
