"""Small ONNX files as the export stage leaves them, and an endpoint on a real uvicorn."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import uvicorn
from onnx import TensorProto, helper, numpy_helper

from rayml.ml.schema import ImageFeature, Normalization, Schema, VectorFeature
from rayml.stages.serve.app import create_app
from rayml.stages.serve.keys import hash_key
from rayml.stages.serve.model import load_model

KEY = "a key of the tests"
CLASSES = ("null", "eins", "zwei", "drei", "vier", "fünf")
COLUMNS = ("länge", "breite", "preis")
VERSION = "3f2a9c01d4e7"


def image_schema(height: int = 5, width: int = 7, channels: int = 1) -> Schema:
    feature = ImageFeature(height=height, width=width, channels=channels)
    return Schema(
        feature=feature, label="ziffer", classes=CLASSES, normalization=Normalization(offset=(0,), scale=(1,))
    )


def table_schema(missing: tuple[float, ...] | None = None) -> Schema:
    normalization = Normalization(offset=(0, 0, 0), scale=(1, 1, 1), missing=missing)
    return Schema(feature=VectorFeature(columns=COLUMNS), label="art", classes=CLASSES[:3], normalization=normalization)


def write_model(folder: Path, schema: Schema, metadata: dict[str, object] | None = None) -> Path:
    """softmax(flatten(x / 255) @ W) with weights of a fixed seed; NaN counts as 0, as a fitted imputation would."""
    feature, classes = schema.feature, len(schema.classes)
    width = int(np.prod(feature.shape))
    weights = np.random.default_rng(7).normal(size=(width, classes)).astype(np.float32)
    dtype = TensorProto.UINT8 if feature.dtype == "uint8" else TensorProto.FLOAT
    labels = helper.make_tensor("labels", TensorProto.STRING, [classes], [c.encode() for c in schema.classes])
    constants = {"flat": np.array([-1, width]), "w": weights, "scale": np.float32(255), "zero": np.float32(0)}
    nodes = [
        helper.make_node("Cast", [feature.name], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("IsNaN", ["cast"], ["nan"]),
        helper.make_node("Where", ["nan", "zero", "cast"], ["filled"]),
        helper.make_node("Div", ["filled", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["best"], axis=1, keepdims=0),
        helper.make_node("Gather", ["labels", "best"], ["label"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(feature.name, dtype, ["rows", *feature.shape])],
        [
            helper.make_tensor_value_info("label", TensorProto.STRING, ["rows"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", classes]),
        ],
        [*(numpy_helper.from_array(value, key) for key, value in constants.items()), labels],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    document = {"schema": schema.model_dump(), "run": "r1", "model": "ziffern", "version": VERSION, "opset": 20}
    helper.set_model_props(model, {"rayml": json.dumps({**document, **(metadata or {})})})
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return folder


@contextmanager
def serving(app: object) -> Iterator[int]:
    """A uvicorn in a thread, as a replica runs it; gives its port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < deadline, "uvicorn did not start"
            time.sleep(0.005)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(5)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def write_model_file() -> Callable[..., Path]:
    return write_model


@pytest.fixture(scope="session")
def serving_app() -> Callable[..., object]:
    return serving


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """An endpoint for images of 5 x 7, with a key; bodies up to 64 KiB, 100 rows."""
    model = load_model(write_model(tmp_path_factory.mktemp("images"), image_schema()), threads=1)
    with serving(create_app(model, key_hash=hash_key(KEY), max_body=2**16, max_rows=100)) as port:
        yield SimpleNamespace(port=port, model=model, path="/v2/models/ziffern/infer", key=KEY)


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """An endpoint for rows of three columns, without a key, that refuses missing values."""
    model = load_model(write_model(tmp_path_factory.mktemp("tables"), table_schema()), threads=1)
    with serving(create_app(model, key_hash=None, max_body=2**16, max_rows=100)) as port:
        yield SimpleNamespace(port=port, model=model, path="/v2/models/ziffern/infer", key=None)
