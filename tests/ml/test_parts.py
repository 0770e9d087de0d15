"""Checkpoints that every rank writes a part of: put together again, durable before they count, planned once."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from stages.train.ranks import PROCESSES

from rayml.ml.checkpoint import MANIFEST_FILE, checkpoint_name, newest_checkpoint


def on_two_ranks(act: Any, folder: Path) -> list[Any]:
    """What `act(mesh, folder)` gave on each of two forked gloo ranks; an exception there as its words."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipes = [PROCESSES.Pipe(duplex=False) for _ in range(2)]
    ranks = [
        PROCESSES.Process(target=run_rank, args=(rank, port, act, folder, sender))
        for rank, (_, sender) in enumerate(pipes)
    ]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(60)
        assert [process.exitcode for process in ranks] == [0, 0]
        return [receiver.recv() for receiver, _ in pipes]
    finally:
        for process in ranks:
            process.kill()


def run_rank(rank: int, port: int, act: Any, folder: Path, sender: Any) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        sender.send(act(init_device_mesh("cpu", (2,)), folder))
    except OSError as error:
        sender.send(str(error))
    dist.destroy_process_group()


def whole_tensors(factor: float = 1.0) -> dict[str, torch.Tensor]:
    """What the ranks hold together."""
    return {
        "uneven": factor * torch.arange(15.0).reshape(5, 3),
        "one row": factor * torch.ones(1, 3),
        "pixels first": (factor * torch.arange(96.0).reshape(4, 2, 3, 4)).to(memory_format=torch.channels_last),
        "counts": (factor * torch.arange(6)).to(torch.int64),
        "alike": factor * torch.ones(7),
    }


def spread(mesh, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All but "alike" in parts."""
    from torch.distributed.tensor import Shard, distribute_tensor

    return {
        name: tensor if name == "alike" else distribute_tensor(tensor, mesh, [Shard(0)])
        for name, tensor in tensors.items()
    }


def write_and_go_on(mesh, folder):
    from rayml.ml.checkpoint import CheckpointWriter

    writer, held = CheckpointWriter(folder, keep=2), spread(mesh, whole_tensors())
    for step in (1, 2, 3):
        writer.write_shards(checkpoint_name(step, "same"), {"model": held}, {"step": step})
        for tensor in held.values():
            tensor.mul_(2)
    writer.finish()


def test_what_the_ranks_hold_when_asked_is_put_together_again(tmp_path):
    on_two_ranks(write_and_go_on, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint_name(step, "same") for step in (2, 3)]
    found, notes = newest_checkpoint(tmp_path)
    assert (found.state, notes) == ({"step": 3}, [])
    read = found.tensors("model")
    assert read.keys() == whole_tensors().keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in whole_tensors(4.0).items())


def test_each_rank_writes_its_own_and_one_of_them_what_is_alike(tmp_path):
    on_two_ranks(write_and_go_on, tmp_path)
    shapes = []
    for path in sorted(tmp_path.glob(f"{checkpoint_name(3, 'same')}/shards/*")):
        with safe_open(path, "pt") as file:
            shapes.append({name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118
    assert [shape["model/uneven"] for shape in shapes] == [[3, 3], [2, 3]]
    assert sum("model/alike" in shape for shape in shapes) == 1
    manifest = json.loads((tmp_path / checkpoint_name(3, "same") / MANIFEST_FILE).read_text())
    assert [entry["path"] for entry in manifest["files"]] == [
        "state.json",
        "shards/rank-00000.safetensors",
        "shards/rank-00001.safetensors",
    ]


def write_where_the_second_cannot(mesh, folder):
    import torch.distributed as dist

    from rayml.ml import parts
    from rayml.ml.checkpoint import CheckpointWriter

    def refuse(*_):
        raise OSError("No space left on device")

    if dist.get_rank() == 1:
        parts.save_part = refuse
    writer = CheckpointWriter(folder, keep=2)
    writer.write_shards(checkpoint_name(1, "same"), {"model": spread(mesh, whole_tensors())}, {"step": 1})
    writer.finish()


def test_without_a_part_there_is_no_manifest_and_every_rank_is_told(tmp_path):
    first, second = on_two_ranks(write_where_the_second_cannot, tmp_path)
    assert "worker 1 could not write" in first
    assert second == "No space left on device"
    assert list(tmp_path.rglob("rank-00000.safetensors")), "the first rank did what it could"
    found, (note,) = newest_checkpoint(tmp_path)
    assert found is None
    assert MANIFEST_FILE in note


def write_more_later(mesh, folder):
    """Layers on ranks of their own, as a pipeline has them; the second rank has more from the third write on."""
    import torch.distributed as dist

    from rayml.ml import parts
    from rayml.ml.checkpoint import CheckpointWriter

    plan, planned = parts.plan_places, []
    parts.plan_places = lambda *arguments: planned.append(1) or plan(*arguments)
    rank, writer = dist.get_rank(), CheckpointWriter(folder, keep=1)
    held = {f"layer {rank}": torch.full((3,), float(rank))}
    for step in range(1, 5):
        if step == 3 and rank == 1:
            held["late"] = torch.ones(2)
        writer.write_shards(checkpoint_name(step, "same"), {"model": held}, {"step": step})
    writer.finish()
    return len(planned)


def test_it_is_planned_anew_where_one_rank_holds_something_else(tmp_path):
    assert on_two_ranks(write_more_later, tmp_path) == [2, 2], "at the first write and at the third"
    found, _ = newest_checkpoint(tmp_path)
    assert {name: tensor.tolist() for name, tensor in found.tensors("model").items()} == {
        "layer 0": [0.0] * 3,
        "layer 1": [1.0] * 3,
        "late": [1.0] * 2,
    }


def read_own_parts(mesh, folder):
    """What is read, in numbers, and whether it is what the rank holds: by rows as written, and by columns."""
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.tensor import Shard, distribute_tensor

    from rayml.ml.checkpoint import CheckpointWriter

    wanted = spread(mesh, whole_tensors())
    slots = {f"{name}.mean": tensor * 3 for name, tensor in wanted.items()}
    writer = CheckpointWriter(folder, keep=2)
    writer.write_shards(checkpoint_name(1, "same"), {"model": wanted, "optimizer": slots}, {})
    writer.finish()
    torch.distributed.barrier()

    numbers, resolve = [], DefaultLoadPlanner.resolve_tensor
    DefaultLoadPlanner.resolve_tensor = lambda self, item: numbers.append(item.lengths.numel()) or resolve(self, item)
    held = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    held["pixels first"] = distribute_tensor(torch.zeros(4, 2, 3, 4), mesh, [Shard(1)])
    wanted["pixels first"] = distribute_tensor(whole_tensors()["pixels first"], mesh, [Shard(1)])
    found, _ = newest_checkpoint(folder)
    read, means = found.tensors("model", held), found.tensors("optimizer", held)
    equal = [torch.equal(own(read[name]), own(tensor)) for name, tensor in wanted.items()]
    equal += [torch.equal(own(means[f"{name}.mean"]), 3 * own(tensor)) for name, tensor in wanted.items()]
    return sum(numbers), all(equal)


def own(tensor):
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def test_a_rank_reads_no_more_than_it_holds(tmp_path):
    in_parts = {"first": 9 + 3 + 48 + 3, "second": 6 + 0 + 48 + 3}
    alike = 7
    assert on_two_ranks(read_own_parts, tmp_path) == [
        (2 * (in_parts["first"] + alike), True),
        (2 * (in_parts["second"] + alike), True),
    ]
