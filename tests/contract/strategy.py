"""What every strategy has to do, given the settings of a train section that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stages.train.ranks import loop_settings, run_ranks

from rayml.ml.checkpoint import Checkpoint, newest_checkpoint
from rayml.plan.degrees import resolve_degrees

RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"accumulation": 2},
    "clip by norm, accumulation": {"clip": {"norm": 0.5, "value": None}, "accumulation": 4},
    "clip by value, l1": {"clip": {"norm": None, "value": 0.01}, "l1": 0.01},
}
"""What has to mean the same in every synchronous strategy."""

DONE: dict[tuple[str, str, str], Checkpoint] = {}
"""What `local` made of a model and a recipe."""


def train_with(data: Path, work: Path, strategy: dict[str, Any], world_size: int, **changes: Any) -> Checkpoint:
    """Train with a strategy and give back the last checkpoint. The rank's own words where it fails."""
    degrees = resolve_degrees(strategy, world_size)
    settings = loop_settings(data, work, strategy=degrees.strategy, workers=world_size, **changes)
    codes = run_ranks(settings, world_size)
    errors = Path(settings["errors"])
    assert codes == [0] * world_size, errors.read_text()[-3000:] if errors.exists() else codes
    checkpoint, notes = newest_checkpoint(work / "checkpoints")
    assert checkpoint is not None
    assert notes == []
    return checkpoint


def history(checkpoint: Checkpoint) -> dict[str, list[float]]:
    """Each measured value over the epochs."""
    names = ("train/loss", "val/loss", "val/accuracy", "rows_seen")
    return {name: [record[name] for record in checkpoint.state["history"]] for name in names}


class StrategyContract:
    """Subclass it with `strategy` (a resolved section, degrees may be auto) and `model`."""

    strategy: dict[str, Any]
    model: dict[str, Any]
    world_size = 2
    recipes = tuple(RECIPES)
    """Those that are tried; conftest.py makes a test of each."""
    tolerance = 1e-5

    @pytest.fixture
    def references(self, tmp_path_factory, data):
        """By recipe: the same training in one process, done once for each model."""

        def reference(recipe: str) -> Checkpoint:
            key = (str(data), json.dumps(self.model), recipe)
            if key not in DONE:
                work = tmp_path_factory.mktemp("local")
                DONE[key] = train_with(data, work, {"kind": "local"}, 1, model=self.model, **RECIPES[recipe])
            return DONE[key]

        return reference

    def test_the_losses_are_those_of_one_process(self, tmp_path, data, references, recipe):
        mine = history(train_with(data, tmp_path, self.strategy, self.world_size, model=self.model, **RECIPES[recipe]))
        for name, values in history(references(recipe)).items():
            assert mine[name] == pytest.approx(values, rel=self.tolerance, abs=self.tolerance), name

    def test_a_run_that_stops_and_goes_on_ends_where_one_that_did_not_ends(self, tmp_path, data):
        whole = train_with(data, tmp_path / "whole", self.strategy, self.world_size, model=self.model)
        train_with(data, tmp_path / "parts", self.strategy, self.world_size, model=self.model, epochs=1)
        parts = train_with(data, tmp_path / "parts", self.strategy, self.world_size, model=self.model)
        for name, values in history(whole).items():
            assert history(parts)[name] == pytest.approx(values, rel=1e-9), name
        assert len((tmp_path / "parts" / "events.jsonl").read_text().splitlines()) > 0

    def test_what_it_saved_goes_on_in_one_process_and_back(self, tmp_path, data, references):
        """A state has one meaning: another strategy and another world size continue the same curve."""
        work = tmp_path / "work"
        train_with(data, work, self.strategy, self.world_size, model=self.model, epochs=1)
        train_with(data, work, {"kind": "local"}, 1, model=self.model, epochs=2)
        last = train_with(data, work, self.strategy, self.world_size, model=self.model, epochs=3)
        for name, values in history(references("plain")).items():
            assert history(last)[name] == pytest.approx(values, rel=self.tolerance, abs=self.tolerance), name
        notes = [json.loads(line) for line in (work / "events.jsonl").read_text().splitlines()]
        assert sum("continues from" in note.get("text", "") for note in notes) == 2

    def test_its_weights_have_the_names_and_shapes_of_the_model(self, tmp_path, data, references):
        mine = train_with(data, tmp_path, self.strategy, self.world_size, model=self.model, epochs=1).tensors("model")
        theirs = references("plain").tensors("model")
        assert {name: value.shape for name, value in mine.items()} == {n: v.shape for n, v in theirs.items()}
        assert all(value.dtype == torch.float32 for value in mine.values())
