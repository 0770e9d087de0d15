"""The only reader and writer of training checkpoints.

A checkpoint is a folder of its own, never reused: `model.safetensors`, `optimizer.safetensors`, `state.json`, and last
a `manifest.json` with the sha256 of each. A reader goes from the newest to the oldest and takes the first that is
whole, so that a torn or damaged one costs some steps and never the run. Nothing is unpickled.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from rayml.artifacts.durable import sync_folder, sync_tree, write_atomic
from rayml.artifacts.manifest import FileEntry, describe_files, file_sha256

WEIGHTS_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    path: Path
    state: dict[str, Any]
    """What the loop needs to go on: epoch, batch, history, best, ledger."""

    def weights(self) -> dict[str, Tensor]:
        """Name of each parameter and buffer to its tensor, on the CPU."""
        return load_weights(self.path)

    def load_optimizer(self, optimizer: Optimizer) -> None:
        """Put the saved state into an optimizer that was built the same way."""
        tensors = load_file(self.path / OPTIMIZER_FILE)
        optimizer.load_state_dict(_unflatten(tensors, self.state["optimizer"]))


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder that holds `model.safetensors`, on the CPU."""
    return load_file(folder / WEIGHTS_FILE)


def checkpoint_name(step: int) -> str:
    """A folder name that sorts by step and was never used before."""
    return f"step-{step:09d}-{secrets.token_hex(4)}"


class CheckpointWriter:
    """Writes checkpoints beside the training: it waits for a copy in memory, and not for the disk.

    One is written at a time; a second waits for the first. The copies go to buffers that are kept, since fresh memory
    costs more than the copy.
    """

    def __init__(self, root: Path, keep: int) -> None:
        self._root, self._keep = root, keep
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._buffers: dict[str, Tensor] = {}

    def write(self, name: str, weights: Mapping[str, Tensor], optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Copy the training's state and start to write it. Raises what the last write ended with."""
        self.finish()
        tensors, rest = _flatten(optimizer.state_dict())
        self._pending = self._pool.submit(
            self._save,
            name,
            self._copy("weights", weights),
            self._copy("optimizer", tensors),
            {**state, "optimizer": rest},
        )

    def finish(self) -> None:
        """Wait for the last write. OSError where the disk refused it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _copy(self, part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        copies = {}
        for name, tensor in tensors.items():
            buffer = self._buffers.setdefault(f"{part}/{name}", torch.empty(tensor.shape, dtype=tensor.dtype))
            copies[name] = buffer.copy_(tensor.detach())
        return copies

    def _save(self, name: str, weights: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]) -> None:
        _write(self._root / name, weights, optimizer, state)
        prune_checkpoints(self._root, self._keep, state.get("best_checkpoint"))


def save_checkpoint(folder: Path, weights: Mapping[str, Tensor], optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. The folder's name comes from `checkpoint_name`."""
    tensors, rest = _flatten(optimizer.state_dict())
    _write(folder, weights, tensors, {**state, "optimizer": rest})


def _write(folder: Path, weights: Mapping[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    save_weights(folder, weights)
    save_file(optimizer, folder / OPTIMIZER_FILE)
    (folder / STATE_FILE).write_text(json.dumps(state))
    sync_tree(folder)
    files = [entry.model_dump() for entry in describe_files(folder)]
    write_atomic(folder / MANIFEST_FILE, json.dumps({"files": files}).encode())
    sync_folder(folder.parent)


def save_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write `model.safetensors` into a folder. Tied weights are written under each of their names."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in weights.items():
        value = tensor.detach().cpu().contiguous()
        tensors[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    save_file(tensors, folder / WEIGHTS_FILE)


def newest_checkpoint(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint below `root`, and a sentence for each newer one that is not."""
    warnings: list[str] = []
    for folder in sorted(root.glob("step-*"), key=_age, reverse=True):
        try:
            return read_checkpoint(folder), warnings
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            warnings.append(f"checkpoint {folder.name} was passed over: {error}")
    return None, warnings


def read_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint after its checksums were compared. ValueError or OSError where it is not whole."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    for document in manifest["files"]:
        entry = FileEntry.model_validate(document)
        if file_sha256(folder / entry.path) != entry.sha256:
            raise ValueError(f"{entry.path} is not what was written (sha256 differs)")
    return Checkpoint(folder, json.loads((folder / STATE_FILE).read_text()))


def prune_checkpoints(root: Path, keep: int, best: str | None) -> None:
    """Remove all but the newest `keep` whole checkpoints and the best one, and what a crash left half-written."""
    whole = [folder for folder in sorted(root.glob("step-*"), key=_age) if (folder / MANIFEST_FILE).exists()]
    kept = {folder.name for folder in whole[-keep:]} | {best}
    for folder in root.glob("step-*"):
        if folder.name not in kept:
            shutil.rmtree(folder)


def _age(folder: Path) -> tuple[str, float]:
    """Newest last: by step, then by time, since a resumed run may write a step again."""
    return folder.name.split("-")[1], folder.stat().st_mtime


def _flatten(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and the plain values that remain."""
    tensors = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous()
            else:
                plain.setdefault(str(index), {})[name] = value
    return tensors, {"plain": plain, "groups": state["param_groups"]}


def _unflatten(tensors: dict[str, Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in rest["plain"].items()}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    groups = [{**group, "betas": tuple(group["betas"])} if "betas" in group else group for group in rest["groups"]]
    return {"state": state, "param_groups": groups}
