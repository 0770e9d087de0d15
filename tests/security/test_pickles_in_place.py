"""S16: a malicious pickle where rayml reads a file is not run, whoever put it there.

Each place is read twice: with what belongs there, which has to succeed, and with each pickle in its stead. So the file
is one that the reader opens, or one that lies where another program would look.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from evil import EVIL, Touch, torch_file, unpickle
from onnx import TensorProto, helper, save_model
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file

from rayml.artifacts.manifest import Manifest
from rayml.artifacts.store import KEY_CHARACTERS, LocalStore
from rayml.errors import RaymlError
from rayml.ml.checkpoint import SHARDS_FOLDER, load_weights, newest_checkpoint, save_checkpoint
from rayml.ml.images import decode_upright
from rayml.ml.onnx_check import check_file
from rayml.ml.schema import Normalization, Schema, VectorFeature
from rayml.ml.shards import ShardSet, load_schema, save_schema, write_shard
from rayml.ml.weight_files import hub_folder, read_safetensors, read_torchvision
from rayml.observe.events import EventLog, read_events
from rayml.plan.sources import list_files
from rayml.spec.data import CsvSource, ParquetSource
from rayml.stages.data.config import DataConfig
from rayml.stages.data.tables import read_csv_source, read_parquet_source
from rayml.stages.serve.endpoint import Endpoint, read_endpoint, write_endpoint
from rayml.stages.serve.parity import load_frozen
from rayml.stages.train.distill import open_logits
from rayml.stages.tune.ledger import Ledger, read_ledger

TENSOR = {"w": torch.arange(3.0)}
ROWS = {"a": [1.0, 2.0, 3.0], "label": ["x", "y", "x"]}


@dataclass(frozen=True)
class Place:
    """Where a pickle is put.

    Args:
        file: relative to a folder of the test.
        fill: writes what belongs into the folder.
        read: what rayml does with it; true where something was found.
        is_opened: whether rayml reads the file itself, so that a pickle cannot succeed.
    """

    file: str
    fill: Callable[[Path], object]
    read: Callable[[Path], object]
    is_opened: bool = True


def checkpoint(folder, parts=False):
    path = folder / "step-000000001-aaaaaaaa"
    if not parts:
        save_checkpoint(path, {"model": TENSOR, "optimizer": {"w.exp_avg": torch.ones(3)}}, {"epoch": 1})
        return
    (path / SHARDS_FOLDER).mkdir(parents=True)
    sharding = json.dumps({"model/w": {"saved_offsets": [0]}})
    told = {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": sharding}
    save_file({"model/w": TENSOR["w"]}, path / SHARDS_FOLDER / "rank-00000.safetensors", told)
    (path / "state.json").write_text('{"epoch": 1}')
    names = ["state.json", f"{SHARDS_FOLDER}/rank-00000.safetensors"]
    seal(path, names)


def seal(path, names):
    """A manifest that is right about the files, as whoever writes the storage can make it."""
    files = [
        {
            "path": name,
            "bytes": (path / name).stat().st_size,
            "sha256": hashlib.sha256((path / name).read_bytes()).hexdigest(),
        }
        for name in names
    ]
    (path / "manifest.json").write_text(json.dumps({"files": files}))


def resume(group):
    """Read a group of the newest checkpoint, whose checksums are right."""

    def read(folder):
        path = folder / "step-000000001-aaaaaaaa"
        manifest = path / "manifest.json"
        if manifest.read_bytes().startswith(b'{"files"'):
            seal(path, [each["path"] for each in json.loads(manifest.read_text())["files"]])
        found, notes = newest_checkpoint(folder)
        if found is None:
            raise ValueError(notes)
        return found.tensors(group)

    return read


def schema(folder):
    feature = VectorFeature(columns=("a",))
    save_schema(folder, Schema(feature=feature, label="y", classes=("x", "y"), normalization=normal()))


def normal():
    return Normalization(offset=(0.0,), scale=(1.0,))


def shard(folder):
    write_shard(folder / "train-00000.arrow", np.arange(3), np.ones((3, 1), np.float32), np.zeros(3, np.int64))


def frozen(folder):
    rows = np.ones((2, 1), np.float32)
    np.savez(folder / "parity.npz", sample_ids=[1, 2], inputs=rows, probabilities=rows, labels=[0, 1])


def source_rows(reader, spec):
    def read(folder):
        config = DataConfig.model_validate(
            {
                **{"source": spec, "label": "label", "image": {}, "columns": "auto", "normalize": "none"},
                **{"missing": "error", "split": {}, "shard_rows": 9, "seed": 1, "task": "tabular_classification"},
                "fingerprint": "x",
            }
        )
        return [block for task in reader(list_files(spec, folder), config).tasks for block in task()]

    return read


def artifact(folder):
    store = LocalStore(folder)
    staging = store.staging("train", "a" * 64)
    (staging / "x").write_text("x")
    store.commit(staging, manifest())


def manifest():
    told = {"config": {}, "inputs": {}, "code": "c", "metrics": {}, "facts": {}, "environment": {}, "run": "r"}
    more = {"kind": "train", "key": "a" * 64, "files": (), "job": "j", "created": "2026-01-01", "seconds": 1.0}
    return Manifest.model_validate({**told, **more})


def ledger(folder):
    books = Ledger(folder)
    books.write("proposed", trial=0, point={}, origin="random", again=0, population=None)
    books.close()


def events(folder):
    log = EventLog(folder / "events.jsonl")
    log.emit("note", text="hello")
    log.close()


def weights_with(name):
    """A folder of published weights with another file beside them."""

    def fill(folder):
        save_file(TENSOR, folder / "model.safetensors")
        (folder / name).write_text("{}")

    return fill


def onnx(folder):
    node = helper.make_node("Relu", ["x"], ["y"], name="node")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
    save_model(helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:])), folder / "m.onnx")


def picture(folder):
    Image.new("L", (4, 4)).save(folder / "a.png")


STEP = "step-000000001-aaaaaaaa"
PARTS = f"{STEP}/{SHARDS_FOLDER}"
PLACES = {
    "weights of a checkpoint": Place(f"{STEP}/model.safetensors", checkpoint, resume("model")),
    "optimizer state": Place(f"{STEP}/optimizer.safetensors", checkpoint, resume("optimizer")),
    "state of a checkpoint": Place(f"{STEP}/state.json", checkpoint, resume("model")),
    "manifest of a checkpoint": Place(f"{STEP}/manifest.json", checkpoint, resume("model")),
    "part of a checkpoint": Place(
        f"{PARTS}/rank-00000.safetensors", lambda folder: checkpoint(folder, parts=True), resume("model")
    ),
    # What torch.distributed.checkpoint itself would write and unpickle.
    "metadata beside the parts": Place(
        f"{PARTS}/.metadata", lambda folder: checkpoint(folder, parts=True), resume("model"), is_opened=False
    ),
    "weights": Place("model.safetensors", lambda folder: save_file(TENSOR, folder / "model.safetensors"), load_weights),
    "published weights": Place(
        "weights.pth",
        lambda folder: torch.save(TENSOR, folder / "weights.pth"),
        lambda folder: read_torchvision(folder / "weights.pth"),
    ),
    "index of weights": Place(
        "model.safetensors.index.json",
        lambda folder: (
            weights_with("x")(folder),
            (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "model.safetensors"}}'),
        ),
        read_safetensors,
    ),
    "tokenizer": Place("tokenizer.json", weights_with("tokenizer.json"), read_safetensors, is_opened=False),
    "pickled tokenizer": Place("tokenizer.pkl", weights_with("tokenizer.pkl"), read_safetensors, is_opened=False),
    "pickled twin of weights": Place(
        "pytorch_model.bin", weights_with("pytorch_model.bin"), read_safetensors, is_opened=False
    ),
    "shard": Place("train-00000.arrow", shard, lambda folder: ShardSet.open(folder, "train")),
    "schema": Place("schema.json", schema, load_schema),
    "rows of Parquet": Place(
        "rows.parquet",
        lambda folder: pq.write_table(pa.table(ROWS), folder / "rows.parquet"),
        source_rows(read_parquet_source, ParquetSource(kind="parquet", path=".")),
    ),
    "rows of CSV": Place(
        "rows.csv",
        lambda folder: (folder / "rows.csv").write_text("a,label\n1,x\n2,y\n"),
        source_rows(read_csv_source, CsvSource(kind="csv", path=".")),
    ),
    "picture": Place("a.png", picture, lambda folder: decode_upright((folder / "a.png").read_bytes()).size),
    "model": Place("m.onnx", onnx, lambda folder: check_file(folder / "m.onnx") or True),
    "frozen rows": Place("parity.npz", frozen, lambda folder: load_frozen(folder, 2)),
    "teacher's answers": Place(
        "logits.npy",
        lambda folder: np.save(folder / "logits.npy", np.ones((1, 2), np.float32)),
        lambda folder: open_logits(str(folder), 1, 2).size,
    ),
    "manifest of an artifact": Place(
        f"train/{'a' * KEY_CHARACTERS}/manifest.json",
        artifact,
        lambda folder: LocalStore(folder).find("train", "a" * 64),
    ),
    "ledger of a sweep": Place("trials.jsonl", ledger, lambda folder: read_ledger(folder / "trials.jsonl").trials),
    "events": Place("events.jsonl", events, lambda folder: [e["kind"] for e in read_events(folder / "events.jsonl")]),
    "endpoint": Place(
        "endpoint.json",
        lambda folder: write_endpoint(folder, Endpoint("http://127.0.0.1:1", "x", "1", None, os.getpid())),
        read_endpoint,
    ),
}
REFUSED = (RaymlError, OSError, ValueError, KeyError, SafetensorError)


def found(place, folder):
    value = place.read(folder)
    return len(value) > 0 if hasattr(value, "__len__") else bool(value)


@pytest.mark.parametrize("form", EVIL)
@pytest.mark.parametrize("name", PLACES)
def test_a_pickle_in_the_place_of_a_file_is_not_run(tmp_path, name, form):
    place, ran = PLACES[name], tmp_path / "ran"
    folder = tmp_path / "here"
    folder.mkdir()
    place.fill(folder)
    assert found(place, folder), "what belongs there is read"
    for how in ("exec", "system", "eval"):
        (folder / place.file).write_bytes(EVIL[form](Touch(ran, how)))
        try:
            is_taken = found(place, folder)
        except REFUSED:
            is_taken = False
        assert form == "json" or is_taken is not place.is_opened, "it is the file that is read"
        assert not ran.exists(), how


@pytest.mark.parametrize("form", EVIL)
@pytest.mark.parametrize("how", ["exec", "system", "eval"])
def test_the_pickles_do_run_where_they_are_unpickled(tmp_path, form, how):
    """The probe is sharp."""
    unpickle(form, EVIL[form](Touch(tmp_path / "ran", how)))
    assert (tmp_path / "ran").exists()


def test_of_the_hub_nothing_is_fetched_that_could_be_a_pickle(tmp_path, monkeypatch):
    """No tokenizer either: rayml reads none."""
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **how: asked.append(how) or str(tmp_path))
    hub_folder("bert", "main")
    hostile = ("tokenizer.pkl", "tokenizer.json", "pytorch_model.bin", "optimizer.pt", "training_args.bin", "model.py")
    assert not [name for name in hostile for pattern in asked[0]["allow_patterns"] if fnmatch(name, pattern)]


def test_a_folder_of_pickles_alone_is_refused_by_name(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(torch_file(Touch(tmp_path / "ran")))
    (tmp_path / "tokenizer.pkl").write_bytes(EVIL["pickle 5"](Touch(tmp_path / "ran")))
    with pytest.raises(RaymlError, match="is a pickle"):
        read_safetensors(tmp_path)
    assert not (tmp_path / "ran").exists()
