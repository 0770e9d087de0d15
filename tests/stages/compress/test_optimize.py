"""The rewritten file answers the same, and says which session settings were fastest."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from stages.compress.test_quantize import agreement, candidate, data, work  # noqa: F401 (fixtures)

from rayml.stages.compress.passes import optimize


@pytest.mark.parametrize(("kind", "attention"), [("cnn", False), ("mlp", False), ("transformer", True)])
@pytest.mark.parametrize("level", ["basic", "extended", "all"])
def test_the_file_answers_the_same(work, kind, attention, level):  # noqa: F811
    config = {"kind": "optimize", "level": level, "transformer": "auto", "session": level == "basic"}
    given = replace(work(kind), config=config)
    facts = optimize.run(given).facts
    assert np.isclose(agreement(given), 1)
    assert facts["transformer"] is attention
    assert facts["bound_to_this_machine"] is (level == "all")
    notes = {each.key: each.value for each in onnx.load(given.out / "model.onnx").metadata_props}
    assert "rayml" in notes
    if level == "basic":
        assert json.loads(notes["rayml.session"]) == facts["session"]
