"""What one rank writes of a checkpoint whose tensors are spread over all ranks.

torch.distributed.checkpoint plans it: of what several ranks hold alike one writes it, and each part has a place in the
whole tensor. A file is what torch's HuggingFaceStorageReader reads: safetensors, with the places in its metadata.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from rayml.artifacts.durable import sync_file, sync_folder
from rayml.artifacts.manifest import FileEntry, describe_file

Places = dict[str, list[int]]
"""Name of a tensor to where this rank's part begins in it, by dimension."""

SHA256_BYTES = 32


class Parts:
    """Which parts this rank writes, and what the ranks tell each other of them."""

    def __init__(self) -> None:
        """Every rank makes one at the same time."""
        # Of its own, since what is written is told beside the training, whose messages are on their way meanwhile.
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup), "every rank is in the group of all"
        self._group = group
        self._shapes: list[tuple[str, torch.Size]] | None = None
        self.places: Places = {}

    def of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What this rank writes of the tensors, by name: its own memory. Every rank calls it.

        Planning takes as long as writing 50 MB, and is done where any rank holds something else than before.
        """
        held = {name: tensor.to_local() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}
        shapes = [(name, part.shape) for name, part in held.items()]
        changed = torch.tensor(int(shapes != self._shapes))
        dist.all_reduce(changed, dist.ReduceOp.MAX, group=self._group)
        if changed:
            self.places, self._shapes = plan_places(tensors, self._group), shapes
        return {name: held[name] for name in self.places}

    def exchange(self, entry: FileEntry | None) -> list[FileEntry | None]:
        """The entry of each rank's file; None for a rank that could not write it."""
        told = [0] * (1 + SHA256_BYTES) if entry is None else [entry.bytes, *bytes.fromhex(entry.sha256)]
        found = [torch.zeros(len(told), dtype=torch.int64) for _ in range(dist.get_world_size())]
        dist.all_gather(found, torch.tensor(told), group=self._group)
        entries: list[FileEntry | None] = []
        for rank, (size, *digest) in enumerate(each.tolist() for each in found):
            entry = FileEntry(path=part_name(rank), bytes=size, sha256=bytes(digest).hex()) if size else None
            entries.append(entry)
        return entries


def plan_places(tensors: Mapping[str, Tensor], group: dist.ProcessGroup) -> Places:
    """What this rank writes, and where it belongs."""
    planned = Planned()
    save(dict(tensors), storage_writer=planned, process_group=group)
    places: Places = {}
    for item in planned.items:
        assert item.tensor_data is not None, f"{item.index.fqn} is no tensor"
        assert item.index.fqn not in places, f"this rank holds two parts of {item.index.fqn}"
        places[item.index.fqn] = list(item.tensor_data.chunk.offsets)
    return places


class Planned(StorageWriter):
    """A storage that keeps the plan and writes nothing."""

    items: list[WriteItem]

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """There is nothing to begin anew."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """All ranks do the same."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        self.items = plan.items
        nothing: Future[list[WriteResult]] = Future()
        nothing.set_result([])
        return nothing

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """The manifest is written once the files are there."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


def part_name(rank: int) -> str:
    """Of a rank's file in the folder of parts."""
    return f"rank-{rank:05}.safetensors"


def save_part(folder: Path, parts: Mapping[str, Tensor], places: Places) -> FileEntry:
    """Write this rank's file into the folder of parts and make it durable.

    OSError or SafetensorError where the disk refuses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / part_name(dist.get_rank())
    # The words of torch/distributed/checkpoint/_hf_utils.py.
    sharding = json.dumps({name: {"saved_offsets": places[name]} for name in parts})
    save_file(dict(parts), path, {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": sharding})
    sync_file(path)
    sync_folder(folder)
    return describe_file(folder, path)
