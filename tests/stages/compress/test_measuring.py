"""What is measured of a candidate: held against numbers that are known otherwise, and against failures."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from stages.train.ranks import make_shards

from rayml.errors import StageError
from rayml.ml.models import build_model
from rayml.ml.onnx_export import session_outputs, write_onnx
from rayml.ml.shards import ShardSet, load_schema
from rayml.ml.trained import frozen_sample
from rayml.stages.compress.measuring import energy, latency
from rayml.stages.compress.measuring.agreement import accuracy, agreement, loss, wilson
from rayml.stages.compress.measuring.answers import answers
from rayml.stages.compress.measuring.cost import file_bytes, measure_cost
from rayml.stages.compress.measuring.energy import measure_energy
from rayml.stages.compress.measuring.latency import measure_latency
from rayml.stages.compress.measuring.memory import measure_memory
from rayml.stages.compress.measuring.row import measure_row, processor

MLP = {"kind": "mlp", "hidden": [64, 32], "dropout": 0.0}
CNN = {"kind": "small_cnn", "width": 8, "dropout": 0.0}
RESNET = {"kind": "torchvision", "name": "resnet18", "norm": "batch", "small_images": True, "resize": None}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data folder, its schema, and a function that exports a network once."""
    folder = tmp_path_factory.mktemp("measuring")
    data = make_shards(folder / "data", val=300, shard_rows=130)
    schema = load_schema(data)
    _, records = frozen_sample(data, 64)

    def export(name, config):
        path = folder / f"{name}.onnx"
        torch.manual_seed(3)
        model = build_model(config, schema, None).eval()
        if not path.exists():
            write_onnx(model, records[:2], schema, 20, {"rayml": "0"}, path)
        return path, model

    return data, schema, records, export


def torch_multiply_adds(model, records):
    """By hooks on convolutions and linear layers, for one row."""
    total = 0

    def count(module, _, output):
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    hooks = [each.register_forward_hook(count) for each in model.modules() if isinstance(each, kinds)]
    with torch.no_grad():
        model(torch.from_numpy(records[:1]))
    for hook in hooks:
        hook.remove()
    return total


def test_answers_are_those_of_one_call_over_all_shards(world):
    data, schema, _, export = world
    path, _ = export("mlp", MLP)
    rows = ShardSet.open(data, "val")
    found = answers(path, schema, rows, 1)
    assert (found.shape, found.dtype) == ((300, 3), np.float32)
    _, expected = session_outputs(path, schema.feature.name, rows.gather(np.arange(300))[0])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def one_hot(predicted, classes=3):
    return np.eye(classes, dtype=np.float32)[predicted]


def test_the_drop_and_its_interval_are_those_of_resampled_rows():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 400)
    before = np.where(rng.random(400) < 0.9, labels, (labels + 1) % 3)
    after = np.where(rng.random(400) < 0.85, before, (labels + 2) % 3)
    found = accuracy(labels, one_hot(before), one_hot(after), seed=5)
    difference = (before == labels).astype(float) - (after == labels)
    assert found.drop == pytest.approx(difference.mean())
    assert found.value == pytest.approx((after == labels).mean())
    drawn = difference[rng.integers(400, size=(20_000, 400))].mean(axis=1)
    np.testing.assert_allclose([found.low, found.high], np.percentile(drawn, [2.5, 97.5]), atol=0.008)
    assert found == accuracy(labels, one_hot(before), one_hot(after), seed=5)
    assert found.low < found.drop < found.high


def test_the_same_answers_have_no_drop_and_agree():
    labels = np.array([0, 1, 2, 1])
    same = one_hot(np.array([0, 1, 1, 1]))
    assert accuracy(labels, same, same, seed=1).to_json() == {"value": 0.75, "drop": 0.0, "low": 0.0, "high": 0.0}
    found = agreement(labels, same, same)
    assert (found.value, found.high, found.max_abs, found.mean_kl) == (1.0, 1.0, 0.0, 0.0)
    assert found.low < 0.6, "four rows prove little"


def test_agreement_counts_rows_that_only_one_has_right():
    labels = np.array([0, 1, 1, 0])
    before = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]], np.float32)
    after = np.array([[0.4, 0.6], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7]], np.float32)
    found = agreement(labels, before, after)
    assert (found.value, found.rows) == (0.25, 4)
    assert (found.only_baseline_right, found.only_candidate_right) == (2, 1)
    assert found.max_abs == pytest.approx(0.6)
    assert found.mean_abs == pytest.approx((0.5 + 0 + 0.6 + 0.3) / 4)
    expected = np.sum(before * np.log(before / after), axis=1).mean()
    assert found.mean_kl == pytest.approx(expected, rel=1e-5)
    assert loss(labels, after) == pytest.approx(-np.log([0.4, 0.8, 0.9, 0.3]).mean())


def test_what_is_not_a_number_is_wrong_and_can_be_written_as_json():
    labels = np.array([0, 0])
    before = one_hot(labels)
    after = before.copy()
    after[1] = np.nan
    found = agreement(labels, before, after)
    assert (found.value, found.not_numbers, found.only_baseline_right) == (0.5, 1, 1)
    assert accuracy(labels, before, after, seed=1).drop == 0.5
    json.dumps([found.to_json(), loss(labels, after)], allow_nan=False)


def test_wilson_is_the_published_interval():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263, and 0 of 20.
    np.testing.assert_allclose(wilson(81, 263), (0.2553, 0.3662), atol=5e-5)
    np.testing.assert_allclose(wilson(0, 20), (0.0, 0.1611), atol=5e-5)


@pytest.mark.parametrize(("name", "config"), [("mlp", MLP), ("cnn", CNN), ("resnet", RESNET)])
def test_multiply_adds_are_those_of_the_torch_network(world, name, config):
    _, _, records, export = world
    path, model = export(name, config)
    found = measure_cost(path)
    assert found["multiply_adds"] == torch_multiply_adds(model, records)
    assert found["multiply_adds_why"] is None
    expected = sum(each.numel() for each in model.parameters())
    assert found["parameters"] == pytest.approx(expected, rel=0.01), "norms are rewritten by the exporter"
    assert found["bytes"] == path.stat().st_size


def test_parameters_of_an_mlp_are_exact_in_every_form(world, tmp_path):
    _, _, _, export = world
    path, model = export("mlp", MLP)
    expected = sum(each.numel() for each in model.parameters())
    before = measure_cost(path)
    assert before["parameters"] == expected
    plain = onnx.load(path)
    del plain.graph.value_info[:]
    onnx.save_model(plain, tmp_path / "plain.onnx")
    quantize_dynamic(tmp_path / "plain.onnx", tmp_path / "int8.onnx", per_channel=True, weight_type=QuantType.QInt8)
    after = measure_cost(tmp_path / "int8.onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert "MatMulInteger" in operators
    assert after["parameters"] == expected
    assert after["multiply_adds"] == before["multiply_adds"]


def test_a_network_of_int8_costs_as_many_operations_as_in_float(world, tmp_path):
    _, schema, records, export = world
    path, _ = export("cnn", CNN)

    class Rows(CalibrationDataReader):
        parts = iter([{schema.feature.name: records}])

        def get_next(self):
            return next(self.parts, None)

    for form in QuantFormat:
        out = tmp_path / f"{form}.onnx"
        Rows.parts = iter([{schema.feature.name: records}])
        quantize_static(path, out, Rows(), quant_format=form, per_channel=True, weight_type=QuantType.QInt8)
        before, after = measure_cost(path), measure_cost(out)
        assert after["multiply_adds"] == before["multiply_adds"]
        # A tensor that two norms share becomes one for each in a QDQ file.
        assert after["parameters"] == pytest.approx(before["parameters"], rel=0.005)


def save(nodes, tensors, path, inputs=(("rows", ["batch", 64]),)):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs]
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    named = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    graph = helper.make_graph(nodes, "graph", values, outputs, named)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save_model(model, path)
    return path


def test_packed_weights_count_as_what_they_stand_for(tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
    path = save([helper.make_node("MatMul", ["rows", "w"], ["y"])], {"w": weight}, tmp_path / "float.onnx")
    quantizer = MatMulNBitsQuantizer(onnx.load(path), block_size=32, is_symmetric=False)
    quantizer.process()
    packed = tmp_path / "int4.onnx"
    quantizer.model.save_model_to_file(str(packed), False)
    assert [node.op_type for node in onnx.load(packed).graph.node] == ["MatMulNBits"]
    for file in (path, packed):
        found = measure_cost(file)
        assert (found["parameters"], found["multiply_adds"]) == (64 * 48, 64 * 48)
    assert measure_cost(packed)["bytes"] < measure_cost(path)["bytes"]


def test_convolutions_by_hand(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"w": rng.random((6, 2, 3, 3), np.float32), "t": rng.random((6, 5, 2, 2), np.float32)}
    nodes = [
        helper.make_node("Conv", ["rows", "w"], ["c"], group=2, pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["c", "t"], ["y"], strides=[2, 2]),
    ]
    path = save(nodes, tensors, tmp_path / "conv.onnx", inputs=(("rows", ["batch", 4, 8, 8]),))
    assert measure_cost(path)["multiply_adds"] == 6 * 64 * (2 * 9) + 6 * 64 * (5 * 4)


def test_weights_beside_the_file_count(world, tmp_path):
    _, _, _, export = world
    path, _ = export("mlp", MLP)
    apart = tmp_path / "apart.onnx"
    onnx.save_model(onnx.load(path), apart, save_as_external_data=True, location="apart.data", size_threshold=0)
    assert (tmp_path / "apart.data").stat().st_size > 0
    assert file_bytes(apart) == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_unknown_multiply_adds_have_a_reason(tmp_path):
    weight = np.ones((3, 3), np.float32)
    nodes = [
        helper.make_node("Reshape", ["rows", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    tensors = {"w": weight, "shape": np.array([-1, 3], np.int64)}
    found = measure_cost(save(nodes, tensors, tmp_path / "bad.onnx"))
    assert found["multiply_adds"] is None
    assert "does not run" in found["multiply_adds_why"]


def heavy(path, width):
    weights = {name: np.full((width, width), 1e-3, np.float32) for name in "abc"}
    nodes = [
        helper.make_node("MatMul", [rows, name], [f"{name}_out"])
        for rows, name in zip(("rows", "a_out", "b_out"), "abc", strict=True)
    ]
    return save(nodes, weights, path, inputs=(("rows", ["batch", width]),))


def test_latency_of_a_heavy_model_beside_a_light_one(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "THREADS", (1,))
    heavier = heavy(tmp_path / "heavy.onnx", 1024)
    records = np.ones((3, 1024), np.float32)
    light = save([helper.make_node("Neg", ["rows"], ["y"])], {}, tmp_path / "light.onnx", (("rows", ["batch", 1024]),))
    base, other, same = measure_latency([light, heavier, light], "rows", records, seed=1)
    assert set(base) == set(other) == {"1x1", "1x32"}
    assert base == same
    for block in base.values():
        assert (block["ratio"], block["ratio_low"], block["ratio_high"]) == (1, 1, 1)
    for key, block in other.items():
        assert block["ratio_low"] <= block["ratio"] <= block["ratio_high"] < 1
        assert block["p50_ms"] > base[key]["p50_ms"]
        assert 0 < block["p50_ms"] <= block["p95_ms"] <= block["p99_ms"]
        assert block["calls"] >= block["rounds"] >= latency.ROUNDS
        assert block["rows_per_s"] > 0


@pytest.mark.parametrize(
    ("rounds", "passed_s", "turns", "expected"),
    [
        (0, 0.0, [1], True),
        (4, 1e6, [1, 1], True),
        (5, 41.0, [1, 1], False),
        (19, 39.0, [1, 1], True),
        (20, 3.1, [1, 1], False),
        (20, 2.9, [20, 1], True),
        (50, 1.0, [20, 20], False),
        (50, 1.0, [20, 1], True),
        (200, 1.0, [20, 1], False),
    ],
)
def test_how_long_a_block_goes_on(rounds, passed_s, turns, expected):
    assert latency.goes_on(rounds, passed_s, turns) is expected


def test_a_failure_in_the_process_is_said(world, tmp_path):
    _, schema, records, export = world
    path, _ = export("mlp", MLP)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(path.read_bytes()[:500])
    with pytest.raises(StageError, match="cannot load the model"):
        measure_latency([path, broken], schema.feature.name, records, seed=1)
    with pytest.raises(StageError, match="cannot load the model"):
        measure_memory(broken, schema.feature.name, records)
    with pytest.raises(StageError, match="another"):
        measure_memory(path, "another", records)


def test_memory_grows_with_the_weights(tmp_path):
    records = np.ones((2, 1024), np.float32)
    light = save([helper.make_node("Neg", ["rows"], ["y"])], {}, tmp_path / "light.onnx", (("rows", ["batch", 1024]),))
    more = measure_memory(heavy(tmp_path / "heavy.onnx", 1024), "rows", records) - measure_memory(
        light, "rows", records
    )
    weights = 3 * 4 * 1024**2
    assert 0.8 * weights < more < 6 * weights, "the weights, and copies that ONNX Runtime packs for its kernels"


def zone(root, name, value):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{value}\n")
    (folder / "max_energy_range_uj").write_text("1000000\n")
    return folder


def test_energy_is_that_of_the_processors_and_not_of_their_parts(world, tmp_path, monkeypatch):
    _, schema, records, export = world
    path, _ = export("mlp", MLP)
    first, second = zone(tmp_path, "intel-rapl:0", 900_000), zone(tmp_path, "intel-rapl:1", 0)
    zone(tmp_path, "intel-rapl:0:0", 5)
    assert energy.readable_zones(tmp_path) == [first, second]
    readings = {first: iter([900_000, 400_000]), second: iter([0, 250_000])}
    monkeypatch.setattr(energy, "counter", lambda zone: next(readings[zone]))
    monkeypatch.setattr(energy, "SECONDS", 0.05)
    calls = []

    class Session:
        def run(self, _, feeds):
            calls.append(feeds)

    monkeypatch.setattr(energy, "open_session", lambda *_, **__: Session())
    found = measure_energy(path, schema.feature.name, records, root=tmp_path)
    assert found["joules_per_1000"] == pytest.approx((0.5 + 0.25) / (len(calls) - 1) * 1000)
    assert found["why"] is None


def test_energy_is_unknown_where_the_machine_does_not_say(world, tmp_path):
    _, schema, records, export = world
    path, _ = export("mlp", MLP)
    found = measure_energy(path, schema.feature.name, records, root=tmp_path)
    assert found == {"joules_per_1000": None, "why": f"this machine reports no energy (no RAPL below {tmp_path})"}
    (tmp_path / "intel-rapl:0").mkdir()
    assert "may not be read" in measure_energy(path, schema.feature.name, records, root=tmp_path)["why"]


def test_the_processor_and_what_it_can_do(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: Xeon\nflags\t\t: fpu avx2 avx512_vnni\n\nmodel name\t: other\n")
    found = processor(file)
    assert (found["name"], found["flags"]) == ("Xeon", ["avx2", "avx512_vnni"])
    file.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert processor(file)["flags"] == ["asimddp"]


def test_a_row_has_everything_and_is_json(world, tmp_path, monkeypatch):
    data, schema, _, export = world
    monkeypatch.setattr(latency, "THREADS", (1,))
    baseline, _ = export("cnn", CNN)
    candidate, _ = export("mlp", MLP)
    row = measure_row(candidate, baseline, schema, data, seed=1, threads=1)
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert {"bytes", "parameters", "multiply_adds", "loss", "ram", "energy", "parity", "processor"} < set(row)
    assert set(row["accuracy"]) == {"value", "drop", "low", "high"}
    assert row["agreement"]["rows"] == 300
    assert row["parity"]["samples"] == 10
    assert row["parity"]["max_abs"] > 0
    assert set(row["latency"]) == {"1x1", "1x32"}
    assert row["ram"] > 0
    copy = shutil.copy(baseline, tmp_path / "copy.onnx")
    for same in (baseline, copy):
        row = measure_row(same, baseline, schema, data, seed=1, threads=1)
        assert row["accuracy"]["drop"] == 0
        assert row["agreement"]["value"] == 1
        assert row["parity"]["max_abs"] == 0
    row = measure_row(baseline, baseline, schema, data, seed=1, threads=1)
    assert row["latency"]["1x1"]["ratio"] == 1
