"""The recipe on parameters that FSDP2 shards, in one and two forked gloo ranks, against the same on whole ones."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
from stages.train.ranks import PROCESSES
from stages.train.recipe import BASE, gradients, network, section

from rayml.spec.optimizer import NEEDS_WHOLE


def on_ranks(world_size: int, check: Any, *arguments: Any) -> list[Any]:
    """What `check(mesh, *arguments)` returned on the first rank; an exception there or elsewhere fails the test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    receiver, sender = PROCESSES.Pipe(duplex=False)
    ranks = [
        PROCESSES.Process(target=run_rank, args=(rank, world_size, port, sender, check, arguments))
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(60)
        assert [process.exitcode for process in ranks] == [0] * world_size
        return receiver.recv()
    finally:
        for process in ranks:
            process.kill()


def run_rank(rank: int, world_size: int, port: int, sender: Any, check: Any, arguments: Any) -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    found = check(init_device_mesh("cpu", (world_size,)), *arguments)
    if rank == 0:
        sender.send(found)
    dist.destroy_process_group()


def sharded(mesh, seed=0, partly=False):
    from torch.distributed.fsdp import fully_shard

    model = network(seed)
    fully_shard(model.network[4], mesh=mesh)
    if not partly:
        fully_shard(model, mesh=mesh)
    return model


def distance(whole, model) -> float:
    pairs = zip(whole.parameters(), model.parameters(), strict=True)
    return max((a - b.full_tensor()).abs().max().item() for a, b in pairs)


def train(model, optimizer, first, last):
    for _ in gradients(model, first, last):
        optimizer.step()


def distances_from_whole(mesh, names):
    """By name: how far the sharded weights are from the whole ones, after 6 steps and when stopped after 3."""
    from torch.distributed.tensor import DTensor

    from rayml.stages.train.optimizers import build_optimizer, load_named_state, named_state

    found = {}
    for name in names:
        config = section(name, no_decay="vectors", layer_decay=0.9)
        whole, model, again = network(), sharded(mesh), sharded(mesh, seed=1)
        train(whole, build_optimizer(config, whole.named_parameters()), 0, 6)
        optimizer = build_optimizer(config, model.named_parameters())
        train(model, optimizer, 0, 3)
        again.load_state_dict(model.state_dict())
        as_shards = {key: tensor.clone() for key, tensor in named_state(optimizer).items()}
        as_whole = {
            key: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for key, tensor in as_shards.items()
        }
        train(model, optimizer, 3, 6)
        from_whole = distance(whole, model)
        resumed = []
        for saved in (as_shards, as_whole):
            model_again = sharded(mesh, seed=1)
            model_again.load_state_dict(again.state_dict())
            rebuilt = build_optimizer(config, model_again.named_parameters())
            load_named_state(rebuilt, saved)
            train(model_again, rebuilt, 3, 6)
            last = [parameter.full_tensor() for parameter in model.parameters()]
            resumed.append(
                max(
                    (a - b.full_tensor()).abs().max().item()
                    for a, b in zip(last, model_again.parameters(), strict=True)
                )
            )
        found[name] = (from_whole, *resumed)
    return found


@pytest.mark.parametrize("world_size", [1, 2])
def test_sharded_parameters_learn_what_whole_ones_do(world_size):
    names = [name for name in BASE if section(name)["kind"] not in NEEDS_WHOLE]
    found = on_ranks(world_size, distances_from_whole, names)
    assert found.keys() == set(names)
    for name, (from_whole, from_shards, from_whole_state) in found.items():
        assert from_whole <= 1e-6, name
        assert (from_shards, from_whole_state) == (0, 0), f"{name}: a resumed run differs"


def distances_where_only_one_layer_is_sharded(mesh, names):
    from rayml.stages.train.optimizers import build_optimizer

    found = {}
    for name in names:
        whole, model = network(), sharded(mesh, partly=True)
        for each in (whole, model):
            train(each, build_optimizer(section(name), each.named_parameters()), 0, 3)
        pairs = zip(whole.parameters(), model.parameters(), strict=True)
        found[name] = max((a - getattr(b, "full_tensor", lambda b=b: b)()).abs().max().item() for a, b in pairs)
    return found


def test_whole_and_sharded_parameters_side_by_side():
    found = on_ranks(1, distances_where_only_one_layer_is_sharded, ["adamw", "sgd", "lamb", "lars", "lion"])
    assert max(found.values()) <= 1e-6, found


def what_is_said(mesh, names):
    from rayml.errors import StageError
    from rayml.stages.train.optimizers import build_optimizer

    said = {}
    for name in names:
        try:
            build_optimizer(section(name), sharded(mesh).named_parameters())
        except StageError as error:
            said[name] = str(error)
    return said


def test_what_needs_whole_parameters_says_so():
    names = [name for name in BASE if section(name)["kind"] in NEEDS_WHOLE]
    said = on_ranks(1, what_is_said, names)
    assert said.keys() == {"adafactor", "muon"}
    assert "muon needs whole parameters, and they are sharded" in said["muon"]


def norms_and_messages(mesh):
    import torch
    from torch.distributed.tensor.debug import CommDebugMode

    from rayml.stages.train.placed import norms

    parameters = [parameter.detach() for parameter in sharded(mesh).parameters()]
    with CommDebugMode() as messages:
        found = norms(parameters)
    expected = torch.stack([parameter.norm() for parameter in network().parameters()])
    return (found - expected).abs().max().item(), messages.get_total_counts()


def test_all_norms_cost_one_message():
    difference, messages = on_ranks(2, norms_and_messages)
    assert difference < 1e-6
    assert messages == 1


def averages_beside_validation(mesh, fields):
    """How far the sharded mean and weights are from the whole ones, where each epoch is validated with the mean."""
    import torch
    from pydantic import TypeAdapter

    from rayml.spec.averaging import Average
    from rayml.stages.train.averaging import build_average, gather_anew
    from rayml.stages.train.optimizers import build_optimizer

    config = TypeAdapter(Average).validate_python(fields).model_dump(mode="json")
    means, predictions, models = [], [], (network(), sharded(mesh))
    for model in models:
        average = build_average(config, 2, 4)
        optimizer = build_optimizer(section("adamw", lr=0.05), model.named_parameters())
        predicted = []
        for step in gradients(model, 0, 8):
            optimizer.step()
            average.update(model, step + 1)
            if step == 4:
                kept = {
                    name: mean.full_tensor() if mesh and hasattr(mean, "full_tensor") else mean.clone()
                    for name, mean in average.tensors().items()
                }
                average_again = build_average(config, 2, 4)
                average_again.load(kept, average.plain())
                average = average_again
            if step % 2:
                images = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(99))
                with torch.no_grad():
                    predicted.append(model(images).clone())
                    with average.applied(model):
                        predicted.append(model(images).clone())
                    predicted.append(model(images).clone())
        predictions.append(torch.stack(predicted))
        means.append(
            {name: getattr(mean, "full_tensor", lambda m=mean: m)() for name, mean in average.tensors().items()}
        )
    between_means = max((means[0][name] - means[1][name]).abs().max().item() for name in means[0])
    gather_anew(models[1])
    own, applied, back = predictions[1][0::3], predictions[1][1::3], predictions[1][2::3]
    return {
        "means": between_means,
        "weights": distance(*models),
        "predictions": (predictions[0] - predictions[1]).abs().max().item(),
        "given back": (own - back).abs().max().item(),
        "mean against own": (own[-1] - applied[-1]).abs().max().item(),
    }


@pytest.mark.parametrize("fields", [{"kind": "ema", "decay": 0.7}, {"kind": "swa", "start": 0.5, "every_steps": 1}])
def test_the_mean_of_sharded_weights(fields):
    found = on_ranks(2, averages_beside_validation, fields)
    assert found["given back"] == 0
    assert found["mean against own"] > 1e-3
    assert max(found["means"], found["weights"]) <= 1e-6
    assert found["predictions"] <= 1e-5
