"""What strategies ask about a network, and that the strategies' own libraries can do with the answers."""

from __future__ import annotations

import pytest
import torch
from stages.train.ranks import PROCESSES
from torch import nn

from rayml.errors import StageError
from rayml.ml.models import Classifier, build_model
from rayml.ml.networks import blocks, head_name, sequential_parts
from rayml.ml.schema import ImageFeature, Normalization, Schema
from rayml.spec.model import Mlp, SmallCnn, TorchvisionModel, Transformer

SCHEMA = Schema(
    feature=ImageFeature(height=16, width=15, channels=3),
    label="Tier",
    classes=("Hund", "Känguru", "Maus", "Kuh"),
    normalization=Normalization(offset=(120.0,) * 3, scale=(60.0,) * 3),
)
TRANSFORMER = Transformer(kind="transformer", width=16, depth=3, heads=4)
SMALL_RESNET = TorchvisionModel(kind="torchvision", small_images=True)


def build(spec) -> Classifier:
    torch.manual_seed(3)
    return build_model(spec.model_dump(mode="json"), SCHEMA, None).eval()


def some_rows(count: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, 16, 15, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("spec", "kinds", "head"),
    [
        (Mlp(kind="mlp"), (), "network.7"),
        (SmallCnn(kind="small_cnn"), (), "network.10"),
        (TRANSFORMER, ("Block",), "network.head"),
        (SMALL_RESNET, ("BasicBlock",), "network.fc"),
        (TorchvisionModel(kind="torchvision", name="resnet50"), ("Bottleneck",), "network.fc"),
        (TorchvisionModel(kind="torchvision", name="vit_b_16", resize=32), ("EncoderBlock",), "network.heads.head"),
        (TorchvisionModel(kind="torchvision", name="swin_t"), ("SwinTransformerBlock", "PatchMerging"), "network.head"),
        (TorchvisionModel(kind="torchvision", name="efficientnet_b0"), ("MBConv",), "network.classifier.1"),
        (TorchvisionModel(kind="torchvision", name="regnet_y_400mf"), ("ResBottleneckBlock",), "network.fc"),
        (TorchvisionModel(kind="torchvision", name="squeezenet1_1", resize=64), ("Fire",), "network.classifier.1"),
    ],
    ids=lambda value: getattr(value, "name", getattr(value, "kind", None)),
)
def test_blocks_and_head(spec, kinds, head):
    model = build(spec)
    assert tuple(kind.__name__ for kind in blocks(model)) == kinds
    assert head_name(model) == head


@pytest.mark.parametrize(
    "spec",
    [
        Mlp(kind="mlp"),
        SmallCnn(kind="small_cnn"),
        TRANSFORMER,
        SMALL_RESNET,
        TorchvisionModel(kind="torchvision", name="resnext50_32x4d", norm="group", resize=40),
    ],
    ids=lambda spec: getattr(spec, "name", spec.kind),
)
def test_the_parts_in_order_are_the_forward_pass(spec):
    model = build(spec)
    parts = sequential_parts(model)
    values = some_rows()
    for _, part in parts:
        values = part(values)
    assert torch.equal(values, model(some_rows()))
    named = {f"{name}.{inner}" for name, part in parts for inner in part.state_dict()}
    assert named == set(model.state_dict())


def test_a_network_with_a_forward_pass_of_its_own_is_not_cut():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values + self.layer(values)

    with pytest.raises(StageError, match="Residual has a forward pass of its own and cannot be cut"):
        sequential_parts(Classifier(SCHEMA, Residual()))


def forward_on_a_rank(how: str, store: str, rank: int, expected: torch.Tensor) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    model = build(TRANSFORMER)
    if how == "fsdp":
        kinds = blocks(model)
        for module in [module for module in model.modules() if isinstance(module, kinds)]:
            fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        cut = {".q": ColwiseParallel, ".k": ColwiseParallel, ".v": ColwiseParallel, ".up": ColwiseParallel}
        cut |= {".o": RowwiseParallel, ".down": RowwiseParallel}
        for name, module in list(model.named_modules()):
            style = next((cut[end] for end in cut if name.endswith(end)), None)
            if style:
                parallelize_module(module, mesh, style())
        assert model.network.blocks[0].attention.q.weight.to_local().shape == (8, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(some_rows()), expected, atol=1e-5, rtol=1e-5)
    dist.destroy_process_group()


@pytest.mark.parametrize("how", ["fsdp", "tensor_parallel"])
def test_two_ranks_answer_as_one(how, tmp_path):
    expected = build(TRANSFORMER)(some_rows()).detach()
    store = str(tmp_path / "störe")
    ranks = [PROCESSES.Process(target=forward_on_a_rank, args=(how, store, rank, expected)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in ranks] == [0, 0]
