"""The only reader and writer of training checkpoints.

A checkpoint is a folder of its own, never reused: its tensors, `state.json`, and last a `manifest.json` with the sha256
of each file. The tensors lie in groups (model, optimizer, average), one safetensors file for each; or, where every rank
holds a part, in `shards/`, a file for each rank (rayml.ml.parts). A reader goes from the newest to the oldest and takes
the first that is whole, so that a torn or damaged one costs some steps and never the run. Nothing is unpickled.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rayml.artifacts.durable import sync_folder, sync_tree, write_atomic
from rayml.artifacts.hosts import ONE_FOLDER, Hosts
from rayml.artifacts.manifest import FileEntry, describe_file, file_sha256
from rayml.artifacts.work import every
from rayml.errors import BackendError

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    from rayml.ml.parts import Parts, Places

MODEL = "model"
"""The group that holds the weights, by their names in the model."""
WEIGHTS_FILE = f"{MODEL}.safetensors"
SHARDS_FOLDER = "shards"
STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"

NOT_WHOLE = (OSError, ValueError, KeyError, TypeError, SafetensorError)
"""What reading one that is torn or damaged raises."""

PATIENCE_S, PAUSE_S = 900.0, 5.0
"""How long a part of a checkpoint waits for a storage that is away, beside the training. Ranks wait half an hour for
each other (torch's own default)."""

Groups = Mapping[str, Mapping[str, Tensor]]
"""Group to name to tensor."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    path: Path
    state: dict[str, Any]
    """What the loop needs to go on: epoch, batch, history, best, ledger."""

    def tensors(self, group: str, held: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The tensors of a group by name, whole and on the CPU. Empty where there is no such group.

        Args:
            held: parameters as this rank holds them. Of a checkpoint in parts, what belongs to one that is in parts
                (DTensor) is read for this rank alone and laid out as the parameter is.
        """
        shards = self.path / SHARDS_FOLDER
        if shards.exists():
            return _read_shards(shards, f"{group}/", held or {})
        path = self.path / f"{group}.safetensors"
        return load_file(path) if path.exists() else {}


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder that holds `model.safetensors`, on the CPU."""
    return load_file(folder / WEIGHTS_FILE)


def checkpoint_name(step: int, token: str | None = None) -> str:
    """A folder name that sorts by step and, with a fresh token, was never used before."""
    return f"step-{step:09d}-{token or secrets.token_hex(4)}"


class CheckpointWriter:
    """Writes checkpoints beside the training: it waits for a copy in memory, and not for the disk.

    One is written at a time; a second waits for the first. The copies go to buffers that are kept, since fresh memory
    costs more than the copy.
    """

    def __init__(self, root: Path, keep: int, hosts: Hosts = ONE_FOLDER) -> None:
        """
        Args:
            root: the folder of all checkpoints.
            keep: how many of the newest are kept, besides the best.
            hosts: by which other hosts get them.
        """
        self._root, self._keep, self._hosts = root, keep, hosts
        self._whole = list(reversed(whole_checkpoints(root)))
        """Oldest first, for ranks that seal none themselves."""
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._buffers: dict[str, Tensor] = {}
        self._parts: Parts | None = None

    def write(self, name: str, groups: Groups, state: dict[str, Any]) -> None:
        """Copy whole tensors and start to write them. Raises what the last write ended with."""
        self.finish()
        copies = {group: self._copy(group, tensors) for group, tensors in groups.items()}
        self._pending = self._pool.submit(self._save, name, copies, state)

    def write_shards(self, name: str, groups: Groups, state: dict[str, Any]) -> None:
        """Copy this rank's parts and start to write them. Every rank calls it with the same name.

        Each makes its file durable; the first one writes the manifest once it knows that all have. Raises what the
        last write ended with.
        """
        # It takes half a second to import, and most trainings have no parts.
        from rayml.ml.parts import Parts

        self.finish()
        if self._parts is None:
            self._parts = Parts()
        flat = {f"{group}/{key}": value for group, held in groups.items() for key, value in held.items()}
        copies = self._copy(SHARDS_FOLDER, self._parts.of(flat))
        self._pending = self._pool.submit(
            self._save_shards, self._parts, self._root / name, copies, self._parts.places, state
        )

    def _save_shards(
        self, parts: Parts, folder: Path, held: Mapping[str, Tensor], places: Places, state: dict[str, Any]
    ) -> None:
        from rayml.ml.parts import save_part

        own: FileEntry | None = None
        try:
            part = save_part(folder / SHARDS_FOLDER, held, places)
            self._send_at_last(folder / SHARDS_FOLDER, part.path)
            own = part
        finally:
            # The others wait for this rank's word, also where it is that there is no file.
            entries = parts.exchange(own)
        written = [entry for entry in entries if entry is not None]
        if len(written) < len(entries):
            raise OSError(f"worker {entries.index(None)} could not write its part of {folder}")
        if dist.get_rank() == 0:
            _seal(folder, state, written)
            self._send_at_last(folder)
            prune_checkpoints(self._root, self._keep, state.get("best_checkpoint"), self._hosts)
        elif not self._hosts.share_folders:
            self._prune_parts(folder.name, state.get("best_checkpoint"))

    def _prune_parts(self, name: str, best: str | None) -> None:
        """Remove this host's parts of what the first rank has removed. Those before this one are whole by now."""
        kept = {name, best, *self._whole[-self._keep :]}
        for folder in self._root.glob("step-*"):
            if folder.name not in kept:
                _remove(folder, self._hosts)
        self._whole.append(name)

    def _send_at_last(self, folder: Path, name: str | None = None) -> None:
        """Let other hosts have a folder, or one file of it; wait for a storage that is away, but not for ever.

        What lies in parts is whole only with the parts of all hosts, and older ones are removed once it is.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._hosts.send(folder, every if name is None else lambda each: each == name)
            except BackendError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(PAUSE_S)

    def _send(self) -> bool:
        """Let other hosts have all that is there. False where the storage is away: training goes on all the same."""
        try:
            self._hosts.send(self._root)
        except BackendError as error:
            sys.stderr.write(f"a checkpoint was not sent to the storage: {error}\n")
            return False
        return True

    def finish(self) -> None:
        """Wait for the last write. OSError where the disk refused it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def deliver(self) -> None:
        """Wait for the last write, and see to it that other hosts can have it. BackendError where they cannot."""
        self.finish()
        self._hosts.send(self._root, again=True)

    def _copy(self, group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        copies = {}
        for name, tensor in tensors.items():
            buffer = self._buffers.get(f"{group}/{name}")
            if buffer is None or buffer.shape != tensor.shape:
                buffer = self._buffers[f"{group}/{name}"] = torch.empty(tensor.shape, dtype=tensor.dtype)
            copies[name] = buffer.copy_(tensor.detach())
        return copies

    def _save(self, name: str, groups: Groups, state: dict[str, Any]) -> None:
        save_checkpoint(self._root / name, groups, state)
        # While the newest is not in the storage, what is older stays there.
        hosts = self._hosts if self._send() else ONE_FOLDER
        prune_checkpoints(self._root, self._keep, state.get("best_checkpoint"), hosts)


def save_checkpoint(folder: Path, groups: Groups, state: dict[str, Any]) -> None:
    """Write a checkpoint of whole tensors, all or nothing. The folder's name comes from `checkpoint_name`."""
    folder.mkdir(parents=True)
    for group, tensors in groups.items():
        save_tensors(folder / f"{group}.safetensors", tensors)
    _seal(folder, state)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. Tied tensors are written under each of their names."""
    seen: set[int] = set()
    values = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        values[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    save_file(values, path)


def save_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write `model.safetensors` into a folder."""
    save_tensors(folder / WEIGHTS_FILE, weights)


def _seal(folder: Path, state: dict[str, Any], shards: Sequence[FileEntry] = ()) -> None:
    """Make the files durable, then write the manifest that says that all are there.

    `shards`: the files below SHARDS_FOLDER, by those who wrote them.
    """
    (folder / STATE_FILE).write_text(json.dumps(state))
    sync_tree(folder)
    whole = [describe_file(folder, path) for path in sorted(folder.iterdir()) if path.is_file()]
    parts = [entry.model_copy(update={"path": f"{SHARDS_FOLDER}/{entry.path}"}) for entry in shards]
    files = [entry.model_dump() for entry in (*whole, *parts)]
    write_atomic(folder / MANIFEST_FILE, json.dumps({"files": files}).encode())
    sync_folder(folder.parent)


def _read_shards(folder: Path, prefix: str, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it, put together from every rank's file."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    tensors = {
        name: _room_for(meta, owner_of(name.removeprefix(prefix), held))
        for name, meta in reader.read_metadata().state_dict_metadata.items()
        if name.startswith(prefix) and isinstance(meta, TensorStorageMetadata)
    }
    if tensors:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it reads in one process, which is what was asked for
            load(tensors, storage_reader=reader, no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def owner_of(name: str, held: Mapping[str, Tensor]) -> Tensor | None:
    """The parameter of this name, or the one whose slot `<parameter>.<slot>` is called so."""
    return held.get(name, held.get(name.rpartition(".")[0]))


def _room_for(meta: TensorStorageMetadata, owner: Tensor | None) -> Tensor:
    """Where a tensor is read to: in parts where its owner is and has the same shape."""
    from torch.distributed.tensor import DTensor

    if isinstance(owner, DTensor) and owner.shape == meta.size:
        return torch.empty_like(owner, dtype=meta.properties.dtype, requires_grad=False)
    return torch.empty(meta.size, dtype=meta.properties.dtype)


def newest_checkpoint(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint below `root`, and a sentence for each newer one that is not."""
    notes: list[str] = []
    for folder in sorted(root.glob("step-*"), key=_age, reverse=True):
        try:
            return read_checkpoint(folder), notes
        except NOT_WHOLE as error:
            notes.append(f"checkpoint {folder.name} was passed over: {error}")
    return None, notes


def whole_checkpoints(root: Path) -> list[str]:
    """The names of those that say that they are whole, newest first."""
    return [
        folder.name
        for folder in sorted(root.glob("step-*"), key=_age, reverse=True)
        if (folder / MANIFEST_FILE).exists()
    ]


def read_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint after its checksums were compared. ValueError or OSError where it is not whole."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    for document in manifest["files"]:
        entry = FileEntry.model_validate(document)
        if file_sha256(folder / entry.path) != entry.sha256:
            raise ValueError(f"{entry.path} is not what was written (sha256 differs)")
    return Checkpoint(folder, json.loads((folder / STATE_FILE).read_text()))


def prune_checkpoints(root: Path, keep: int, best: str | None, hosts: Hosts = ONE_FOLDER) -> None:
    """Remove all but the newest `keep` whole checkpoints and the best one, and what a crash left half-written."""
    whole = [folder for folder in sorted(root.glob("step-*"), key=_age) if (folder / MANIFEST_FILE).exists()]
    kept = {folder.name for folder in whole[-keep:]} | {best}
    for folder in root.glob("step-*"):
        if folder.name not in kept:
            _remove(folder, hosts)


def _remove(folder: Path, hosts: Hosts) -> None:
    """Here at any rate; elsewhere, where the storage answers: what stays there is older than what is found."""
    try:
        hosts.remove(folder)
    except (BackendError, FileNotFoundError):
        shutil.rmtree(folder, ignore_errors=True)


def _age(folder: Path) -> tuple[str, float]:
    """Newest last: by step, then by time, since a resumed run may write a step again."""
    return folder.name.split("-")[1], folder.stat().st_mtime
