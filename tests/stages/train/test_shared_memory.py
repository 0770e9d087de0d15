"""Sums in shared memory: the same bits as over gloo on two ranks, any layout, and a dead rank is noticed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from stages.train.ranks import PROCESSES, loop_settings, make_shards, run_ranks
from torch import nn

from rayml.errors import StageError
from rayml.ml.checkpoint import newest_checkpoint
from rayml.stages.train.failures import speaks_of_a_lost_peer
from rayml.stages.train.strategies.shared_memory import gradient_of, parts_of, require_float32

DDP = {"kind": "ddp", "bucket_mb": 25.0, "static_graph": False, "compress": "none", "transport": "network"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.mark.parametrize("changes", [{}, {"accumulation": 2, "channels_last": True}], ids=["plain", "channels last"])
def test_two_ranks_have_the_bits_that_gloo_gives_them(tmp_path, data, changes):
    found = []
    for transport in ("network", "shared_memory"):
        work = tmp_path / transport
        settings = loop_settings(data, work, strategy={**DDP, "transport": transport}, epochs=2, **changes)
        assert run_ranks(settings, 2) == [0, 0]
        checkpoint, _ = newest_checkpoint(work / "checkpoints")
        found.append({**checkpoint.tensors("model"), **checkpoint.tensors("optimizer")})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def add_up(rank, world_size, meeting, out):
    import torch.distributed as dist

    from rayml.stages.train.strategies.base import Seat
    from rayml.stages.train.strategies.shared_memory import SharedSum

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
    layer = nn.Conv2d(3, 5, 3, bias=True).to(memory_format=torch.channels_last)
    shared = SharedSum(list(layer.named_parameters()), Seat(rank, world_size, torch.device("cpu")))
    totals = []
    for call in range(50):
        for place, parameter in enumerate(layer.parameters()):
            parameter.grad = torch.full(parameter.shape, 10.0 * call + rank + place)
        shared.add_up()
        totals.append([[parameter.grad.min().item(), parameter.grad.max().item()] for parameter in layer.parameters()])
        assert layer.weight.grad.stride() == layer.weight.stride()
    Path(out, str(rank)).write_text(json.dumps(totals))
    dist.barrier()


def test_every_one_of_three_ranks_has_every_sum(tmp_path):
    ranks = [
        PROCESSES.Process(target=add_up, args=(rank, 3, str(tmp_path / "meet"), str(tmp_path))) for rank in range(3)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0, 0]
    expected = [[[30.0 * call + 3 + 3 * place] * 2 for place in range(2)] for call in range(50)]
    for rank in range(3):
        assert json.loads((tmp_path / str(rank)).read_text()) == expected


def test_a_rank_that_is_killed_ends_the_others(tmp_path, data):
    settings = loop_settings(data, tmp_path / "work", strategy={**DDP, "transport": "shared_memory"})
    codes = run_ranks({**settings, "die_at": {"rank": 1, "call": 3}}, 2)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, -signal.SIGKILL)
    last = Path(settings["errors"]).read_text().strip().splitlines()[-1]
    assert speaks_of_a_lost_peer(RuntimeError(last)), last


def test_parts_have_the_shapes_and_strides_of_the_parameters():
    layer = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    flat = torch.zeros(sum(parameter.numel() for parameter in layer.parameters()))
    weight, bias = parts_of(flat, list(layer.parameters()))
    assert (weight.shape, weight.stride()) == (layer.weight.shape, layer.weight.stride())
    weight.fill_(1)
    bias.fill_(2)
    assert flat.tolist() == [1.0] * layer.weight.numel() + [2.0] * 3


def test_what_it_cannot_add_up_is_named():
    doubles = nn.Linear(2, 2).double()
    with pytest.raises(StageError, match="weight is float64"):
        require_float32(list(doubles.named_parameters()))
    with pytest.raises(StageError, match=r"network\.3\.weight took no part in a step"):
        gradient_of("network.3.weight", nn.Parameter(torch.zeros(2)))
