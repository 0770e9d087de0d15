"""Connections and memory between the ranks of one machine, for the sum in shared memory."""

from __future__ import annotations

import mmap
import os
import secrets
import shutil
import socket
import struct
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from rayml.errors import StageError
from rayml.stages.train.collective import from_first_rank, sum_over_ranks
from rayml.stages.train.strategies.base import Seat

PATIENCE_S = 1800
"""How long a rank waits for another one: what torch.distributed takes by default."""


def meet(seat: Seat) -> dict[int, socket.socket]:
    """A connection to each of the other ranks, by rank. StageError where they are not on this machine."""
    token = from_first_rank(secrets.randbits(62), seat.device)
    folder = Path(tempfile.gettempdir(), f"rayml-{token:x}")
    if seat.rank == 0:
        folder.mkdir(mode=0o700)
    dist.barrier()
    try:
        elsewhere = sum_over_ranks(torch.tensor(int(not folder.is_dir()), device=seat.device)).item()
        if elsewhere:
            raise StageError(
                f"{elsewhere} of {seat.world_size} workers are not on the first one's machine and share no memory",
                where="train.strategy.transport",
                hint="write transport: network",
            )
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(folder / str(seat.rank)))
            door.listen(seat.world_size)
            dist.barrier()
            peers = {rank: call(folder / str(rank), seat.rank) for rank in range(seat.rank)}
            for _ in range(seat.rank + 1, seat.world_size):
                caller, _ = door.accept()
                peers[struct.unpack("i", caller.recv(4, socket.MSG_WAITALL))[0]] = caller
        dist.barrier()
    finally:
        if seat.rank == 0:
            shutil.rmtree(folder)
    for peer in peers.values():
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", PATIENCE_S, 0))
    return dict(sorted(peers.items()))


def call(path: Path, rank: int) -> socket.socket:
    """A connection to a lower rank, which is told who calls."""
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(path))
    peer.sendall(struct.pack("i", rank))
    return peer


def share_slots(peers: dict[int, socket.socket], seat: Seat, elements: int) -> list[Tensor]:
    """`[elements] float32` of each rank, in memory that all see. It has no name, so it cannot be left behind."""
    own = os.memfd_create("rayml-gradients")
    os.ftruncate(own, 4 * elements)
    descriptors = {seat.rank: own}
    for peer in peers.values():
        socket.send_fds(peer, [b"\0"], [own])
    for rank, peer in peers.items():
        _, [descriptors[rank]], _, _ = socket.recv_fds(peer, 1, 1)
    slots = []
    for rank in range(seat.world_size):
        slots.append(torch.frombuffer(mmap.mmap(descriptors[rank], 4 * elements), dtype=torch.float32))
        os.close(descriptors[rank])
    return slots
