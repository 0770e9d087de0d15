"""What every strategy has to do, given the settings of a train section that names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
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

DONE: dict[tuple[str, ...], Any] = {}
"""Trainings that several tests look at."""


def once(key: tuple[str, ...], train: Callable[[], Any]) -> Any:
    """What a training gave; it is done by the first test that asks."""
    if key not in DONE:
        DONE[key] = train()
    return DONE[key]


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
            work = tmp_path_factory.mktemp("local")
            changes = {"model": self.model, **RECIPES[recipe]}
            key = ("local", str(data), json.dumps(self.model), recipe)
            return once(key, lambda: train_with(data, work, {"kind": "local"}, 1, **changes))

        return reference

    @pytest.fixture
    def whole(self, tmp_path_factory, data) -> Checkpoint:
        """The end of the plain training that nobody stopped."""
        work = tmp_path_factory.mktemp("whole")
        return once(
            ("whole", str(data), type(self).__name__),
            lambda: train_with(data, work, self.strategy, self.world_size, model=self.model),
        )

    @pytest.fixture
    def begun(self, tmp_path, tmp_path_factory, data) -> Path:
        """A folder with what the same training left that was stopped after its first epoch, to go on in."""

        def begin() -> Path:
            work = tmp_path_factory.mktemp("begun")
            train_with(data, work, self.strategy, self.world_size, model=self.model, epochs=1)
            return work

        left = once(("begun", str(data), type(self).__name__), begin)
        return Path(shutil.copytree(left, tmp_path / "work"))

    def test_the_losses_are_those_of_one_process(self, tmp_path, data, references, whole, recipe):
        plain = recipe == "plain"
        changes = {"model": self.model, **RECIPES[recipe]}
        mine = whole if plain else train_with(data, tmp_path, self.strategy, self.world_size, **changes)
        for name, values in history(references(recipe)).items():
            assert history(mine)[name] == pytest.approx(values, rel=self.tolerance, abs=self.tolerance), name

    def test_a_run_that_stops_and_goes_on_ends_where_one_that_did_not_ends(self, data, whole, begun):
        parts = train_with(data, begun, self.strategy, self.world_size, model=self.model)
        for name, values in history(whole).items():
            assert history(parts)[name] == pytest.approx(values, rel=1e-9), name
        assert "continues from epoch 1" in (begun / "events.jsonl").read_text()

    def test_what_it_saved_goes_on_in_one_process_and_back(self, data, references, begun):
        """A state has one meaning: another strategy and another world size continue the same curve."""
        train_with(data, begun, {"kind": "local"}, 1, model=self.model, epochs=2)
        last = train_with(data, begun, self.strategy, self.world_size, model=self.model, epochs=3)
        for name, values in history(references("plain")).items():
            assert history(last)[name] == pytest.approx(values, rel=self.tolerance, abs=self.tolerance), name
        notes = [json.loads(line) for line in (begun / "events.jsonl").read_text().splitlines()]
        assert sum("continues from" in note.get("text", "") for note in notes) == 2

    def test_its_weights_have_the_names_and_shapes_of_the_model(self, references, whole):
        mine, theirs = whole.tensors("model"), references("plain").tensors("model")
        assert {name: value.shape for name, value in mine.items()} == {n: v.shape for n, v in theirs.items()}
        assert all(value.dtype == torch.float32 for value in mine.values())
