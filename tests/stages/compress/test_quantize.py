"""Schemes of quantization on networks that were trained on digits, as ONNX Runtime runs them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from pydantic import TypeAdapter
from sklearn.datasets import load_digits

from rayml.errors import GateError, StageError
from rayml.ml.checkpoint import save_weights
from rayml.ml.divergence import first_divergence
from rayml.ml.models import build_model
from rayml.ml.onnx_export import session_outputs, write_onnx
from rayml.ml.schema import ImageFeature, Normalization, Schema
from rayml.ml.shards import ShardSet, write_shard
from rayml.ml.trained import MODEL_FILE, frozen_sample
from rayml.spec.compress import CompressSpec, Quantize
from rayml.stages.compress.api import Candidate, Work
from rayml.stages.compress.ladder import choose
from rayml.stages.compress.measuring.row import measure_row
from rayml.stages.compress.passes import quantize
from rayml.stages.compress.quantization import static
from rayml.stages.compress.quantization.graphs import as_run, load_named
from rayml.stages.compress.quantization.processor import processor
from rayml.stages.compress.quantization.sensitivity import Judge
from rayml.stages.compress.rung import DIVERGED

MODELS = {
    "cnn": {"kind": "small_cnn", "width": 32, "dropout": 0.0},
    "mlp": {"kind": "mlp", "hidden": [128, 128], "dropout": 0.0},
    "transformer": {"kind": "transformer", "width": 32, "depth": 2, "heads": 4, "patch": 4, "dropout": 0.0},
}
SCHEMA = Schema(
    feature=ImageFeature(height=8, width=8, channels=1),
    label="digit",
    classes=tuple(str(digit) for digit in range(10)),
    normalization=Normalization(offset=(78.0,), scale=(96.0,)),
)


def quantized(**settings):
    section = TypeAdapter(Quantize).validate_python({"kind": "quantize", **settings})
    return section.model_dump(mode="json")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)[..., None]
    (folder / "schema.json").write_text(SCHEMA.model_dump_json())
    for split, rows in (("train", slice(0, 1400)), ("val", slice(1400, 1600)), ("test", slice(1600, None))):
        ids = np.arange(len(images))[rows]
        write_shard(folder / f"{split}-00000.arrow", ids, images[rows], digits.target[rows].astype(np.int64))
    return folder


@pytest.fixture(scope="module")
def candidate(data, tmp_path_factory):
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = train(MODELS[kind], data, tmp_path_factory.mktemp(kind))
        return made[kind]

    return make


def train(config, data, folder):
    torch.manual_seed(1)
    model = build_model(config, SCHEMA, None)
    rows = ShardSet.open(data, "train")
    records, labels = (torch.from_numpy(each) for each in rows.gather(np.arange(len(rows))))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(6):
        for batch in torch.randperm(len(records)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(records[batch]), labels[batch]).backward()
            optimizer.step()
    save_weights(folder, model.state_dict())
    (folder / MODEL_FILE).write_text(json.dumps({"model": config, "task": "image_classification"}))
    write_onnx(model.eval(), records[:2].numpy(), SCHEMA, 20, {"rayml": "0", "run": "r"}, folder / "model.onnx")
    return Candidate(folder)


@pytest.fixture
def work(data, candidate, tmp_path):
    def make(kind, **settings):
        parent = candidate(kind)
        return Work(
            config=quantized(**settings), seed=1, schema=SCHEMA, data=data, code=None, original=parent, parent=parent,
            out=tmp_path, threads=1, train=lambda model, start, settings: dict(start), note=lambda text: None,
        )  # fmt: skip

    return make


def agreement(work):
    records = ShardSet.open(work.data, "test").gather(np.arange(190))[0]
    before, after = (session_outputs(path, "image", records)[0] for path in (work.parent.onnx, work.out / "model.onnx"))
    return np.mean(np.array(before) == np.array(after))


@pytest.mark.parametrize(
    ("kind", "scheme", "smaller"),
    [
        ("cnn", "int8_static", 2.5), ("mlp", "int8_static", 2.5), ("transformer", "int8_static", 1.2),
        ("mlp", "int8_dynamic", 2.5), ("transformer", "int8_dynamic", 1.2), ("mlp", "int8_weights", 2.5),
        ("mlp", "int4_weights", 3.5), ("cnn", "fp16", 1.6), ("mlp", "fp16", 1.6), ("cnn", "bf16", 1.6),
        ("cnn", "int8_qat", 2.5),
    ],
)  # fmt: skip
def test_the_file_is_smaller_and_answers_the_same(work, kind, scheme, smaller):
    given = work(kind, scheme=scheme)
    made = quantize.run(given)
    before, after = onnx.load(given.parent.onnx), onnx.load(given.out / "model.onnx")
    assert list(after.graph.input) == list(before.graph.input)
    assert [(o.name, o.type.tensor_type.elem_type) for o in after.graph.output] == [("label", 8), ("probabilities", 1)]
    assert list(after.metadata_props) == list(before.metadata_props)
    assert agreement(given) >= 0.97
    assert given.parent.onnx.stat().st_size >= smaller * (given.out / "model.onnx").stat().st_size
    assert made.facts["scheme"] == scheme
    assert (made.weights is not None) == (scheme == "int8_qat")
    json.dumps(made.facts)


def test_convolutions_run_in_int8(work):
    given = work("cnn")
    facts = quantize.run(given).facts
    ops = [node.op_type for node in as_run(given.out / "model.onnx").graph.node]
    assert ops.count("QLinearConv") == sum(n.op_type == "Conv" for n in onnx.load(given.parent.onnx).graph.node) > 0
    assert facts["float_nodes"] == []


def test_what_is_kept_stays_float(work):
    given = work("cnn")
    name = next(node.name for node in onnx.load(given.parent.onnx).graph.node if node.op_type == "Conv")
    facts = quantize.run(replace(given, config=quantized(keep=[name]))).facts
    assert list(facts["kept"]) == [name]
    assert len(facts["float_nodes"]) == 1
    with pytest.raises(StageError, match="`nonsense` matches no node"):
        quantize.run(replace(given, config=quantized(keep=["nonsense"])))


@pytest.mark.parametrize(("scheme", "small"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_half_the_bits_spare_what_is_kept(work, scheme, small):
    given = work("mlp", scheme=scheme)
    first = next(node for node in onnx.load(given.parent.onnx).graph.node if node.op_type == "Gemm")
    types = {}
    for keep in ([], [first.name]):
        facts = quantize.run(replace(given, config=quantized(scheme=scheme, keep=keep))).facts
        assert list(facts["kept"]) == keep
        held = onnx.load(given.out / "model.onnx").graph.initializer
        types[bool(keep)] = next(each.data_type for each in held if each.name.startswith(first.input[1]))
    assert types == {False: small, True: TensorProto.FLOAT}


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_ranges_are_found_by_each_method(work, method):
    given = work("cnn", calibration={"method": method, "rows": 64})
    facts = quantize.run(given).facts
    assert facts["calibration"] == {"method": method, "rows": 64}
    assert agreement(given) >= 0.95


def test_a_percentile_leaves_outliers_out_of_the_range(work):
    scales = []
    for percentile in (100, 60):
        given = work("mlp", keep=[], calibration={"method": "percentile", "percentile": percentile, "rows": 64})
        quantize.run(given)
        model = onnx.load(given.out / "model.onnx")
        (given.out / "model.onnx").unlink()
        held = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
        first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
        scales.append(float(held[first.input[1]]))
    assert scales[1] < 0.8 * scales[0]


def outlier(candidate, folder):
    """The same answers, with one hidden unit a thousand times as large: one range for all of them is too coarse."""
    folder.mkdir()
    model = candidate.network(SCHEMA, None)
    layers = [each for each in model.network if isinstance(each, torch.nn.Linear)]
    with torch.no_grad():
        unit = int(layers[0].bias.argmax())
        layers[0].weight[unit] *= 1000
        layers[0].bias[unit] *= 1000
        layers[1].weight[:, unit] /= 1000
    save_weights(folder, model.state_dict())
    (folder / MODEL_FILE).write_text((candidate.folder / MODEL_FILE).read_text())
    example = np.zeros((2, 8, 8, 1), np.uint8)
    write_onnx(model.eval(), example, SCHEMA, 20, {"rayml": "0", "run": "r"}, folder / "model.onnx")
    return Candidate(folder)


def test_the_layer_that_loses_the_answers_goes_back_to_float(work, candidate, tmp_path):
    given = work("mlp", keep="auto")
    given = replace(given, parent=outlier(candidate("mlp"), tmp_path / "parent"))
    names = [node.name for node in load_named(given.parent.onnx).graph.node if node.op_type == "Gemm"]
    quantize.run(replace(given, config=quantized(keep=names[:1])))
    assert agreement(given) < 0.95, "with that layer in int8 the answers are lost"
    facts = quantize.run(given).facts
    assert list(facts["kept"]) == [names[1]]
    assert facts["kept"][names[1]] > 0.01
    assert agreement(given) >= 0.98
    assert facts["judged"]["agreement"] >= 0.99


def test_weights_have_7_bits_without_vnni(work, monkeypatch):
    monkeypatch.setattr(static, "processor", lambda: {"vnni": False, "flags": ["avx2"]})
    given = work("mlp")
    assert quantize.run(given).facts["reduce_range"] is True
    arrays = [onnx.numpy_helper.to_array(each) for each in onnx.load(given.out / "model.onnx").graph.initializer]
    assert max(np.abs(each.astype(int)).max() for each in arrays if each.dtype == np.int8 and each.size > 100) <= 64


def test_flags_are_read(tmp_path):
    (tmp_path / "x86").write_text("flags\t\t: fpu avx2 avx_vnni\n")
    (tmp_path / "old").write_text("flags\t\t: fpu avx2\n")
    (tmp_path / "arm").write_text("Features\t: fp asimddp\n")
    assert [processor(tmp_path / name)["vnni"] for name in ("x86", "old", "arm", "none")] == [True, False, True, False]


def test_what_cannot_be_done_is_said(work):
    with pytest.raises(StageError, match=r"8 rows are too few.*16 to 1400 fit"):
        quantize.run(work("mlp", calibration={"rows": 8}))


def test_a_wrong_zero_point_is_caught_and_its_layer_named(work):
    given = work("cnn")
    quantize.run(given)
    path, feature, records = given.out / "model.onnx", SCHEMA.feature.name, frozen_sample(given.data, 190)[1]
    judge = Judge(given.parent.onnx, feature, records, 1)
    assert judge(path)[0] >= 0.97
    assert first_divergence(given.parent.onnx, path, records[:64], DIVERGED) is None
    model = onnx.load(path)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    back = next(node for node in model.graph.node if gemm.input[0] in node.output)
    point = next(onnx.numpy_helper.to_array(each) for each in model.graph.initializer if each.name == back.input[2])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(point + 90, point.dtype), "wrong_point"))
    back.input[2] = "wrong_point"
    onnx.save_model(model, path)
    row = measure_row(path, given.parent.onnx, SCHEMA, given.data, seed=0, threads=1)
    default = CompressSpec(ladder=[{"kind": "quantize"}]).budget.model_dump()
    with pytest.raises(GateError, match="agreement"):
        choose([("1. quantize", row)], default, "size")
    assert first_divergence(given.parent.onnx, path, records[:64], DIVERGED)["tensor"] == gemm.input[0].split("_Deq")[0]
