"""Checkpoints: whole or not there, and a damaged one costs steps and never the run."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from rayml.ml.checkpoint import (
    MANIFEST_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    CheckpointWriter,
    checkpoint_name,
    newest_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    save_checkpoint,
)

FILES = (WEIGHTS_FILE, "optimizer.safetensors", STATE_FILE, MANIFEST_FILE)


def trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()


def groups(model, optimizer):
    slots = {
        f"{place}.{name}": value
        for place, held in optimizer.state_dict()["state"].items()
        for name, value in held.items()
    }
    return {"model": model.state_dict(), "optimizer": slots}


def save(root, step_number, model, optimizer, **state):
    folder = root / checkpoint_name(step_number)
    save_checkpoint(folder, groups(model, optimizer), {"step": step_number, **state})
    return folder


def test_what_is_read_is_what_was_written(tmp_path):
    model, optimizer = trained()
    save(tmp_path, 1, model, optimizer, history=[{"val/loss": 0.5}])
    checkpoint, warnings = newest_checkpoint(tmp_path)
    assert (warnings, checkpoint.state) == ([], {"step": 1, "history": [{"val/loss": 0.5}]})
    for group, tensors in groups(model, optimizer).items():
        read = checkpoint.tensors(group)
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert checkpoint.tensors("average") == {}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "empty"])
def test_a_damaged_newest_one_falls_back_with_a_named_warning(tmp_path, file, damage):
    model, optimizer = trained()
    older = save(tmp_path, 5, model, optimizer)
    newest = save(tmp_path, 10, model, optimizer)
    path = newest / file
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    elif damage == "flip":
        content[len(content) // 2] ^= 0x40
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "truncate" else b"")

    found, warnings = newest_checkpoint(tmp_path)
    assert found.path == older
    assert len(warnings) == 1
    assert newest.name in warnings[0]


def test_the_writer_keeps_what_was_there_when_it_was_asked(tmp_path):
    model, optimizer = trained()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    writer = CheckpointWriter(tmp_path, keep=2)
    for number in (1, 2, 3):
        writer.write(checkpoint_name(number), groups(model, optimizer), {"step": number})
        step(model, optimizer)
        if number == 1:
            after_one = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    writer.finish()
    found, warnings = newest_checkpoint(tmp_path)
    assert (found.state["step"], warnings) == (3, [])
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 2, "older ones are pruned"
    second = read_checkpoint(folders[0]).tensors("model")
    assert all(torch.equal(second[name], after_one[name]) for name in after_one)
    assert not torch.equal(before["0.weight"], after_one["0.weight"])


def test_a_write_that_the_disk_refuses_is_told_at_the_next_one(tmp_path):
    model, optimizer = trained()
    root = tmp_path / "checkpoints"
    root.write_text("a file where the folder should be")
    writer = CheckpointWriter(root, keep=2)
    writer.write(checkpoint_name(1), groups(model, optimizer), {})
    with pytest.raises(OSError, match="checkpoints"):
        writer.finish()
    writer.finish()


def test_one_without_a_manifest_was_never_whole(tmp_path):
    model, optimizer = trained()
    folder = save(tmp_path, 5, model, optimizer)
    (folder / MANIFEST_FILE).unlink()
    assert newest_checkpoint(tmp_path)[0] is None


def test_nothing_there_is_not_an_error(tmp_path):
    assert newest_checkpoint(tmp_path) == (None, [])


def test_pruning_keeps_the_newest_the_best_and_no_leftovers(tmp_path):
    model, optimizer = trained()
    folders = [save(tmp_path, number, model, optimizer) for number in (1, 2, 3, 4)]
    leftover = tmp_path / checkpoint_name(9)
    shutil.copytree(folders[0], leftover)
    (leftover / MANIFEST_FILE).unlink()
    prune_checkpoints(tmp_path, keep=2, best=folders[0].name)
    assert {path.name for path in tmp_path.iterdir()} == {folders[index].name for index in (0, 2, 3)}


def test_tied_weights_are_written_and_read(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight

    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save(tmp_path, 1, model, optimizer)
    loaded = newest_checkpoint(tmp_path)[0].tensors("model")
    assert torch.equal(loaded["first.weight"], loaded["second.weight"])
    Tied().load_state_dict(loaded)
