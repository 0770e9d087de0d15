"""The bench of compression: which rows there are, what their goals say of a compress.json, and the tools by hand."""

from __future__ import annotations

import copy
import json
import types

import numpy as np
import pytest

from rayml.bench import compress, compress_jobs
from rayml.bench.compress_jobs import AGAINST, INT8_CNN, INT8_MINILM, LOADS, Wanted, load_named
from rayml.bench.harness import document
from rayml.bench.machine import SystemTimes
from rayml.bench.show import markdown
from rayml.bench.table import BENCHES
from rayml.errors import PlanError
from rayml.spec.load import load_job

MEASURED = {"p50_ms": 0.8, "p95_ms": 0.9, "p99_ms": 1.0, "rows_per_s": 1250.0, "calls": 1000, "rounds": 50}
WANTED = Wanted(faster=4.5, faster_without_vnni=1.5, smaller=3.9, drop=0.005, agreement=0.99)
INT8 = "1. quantize"
VNNI = ["avx2", "avx512_vnni"]
SPENT = SystemTimes(busy_s=8.0, steal_s=0.1, total_s=10.0)


def made_up_row(ratio, size, drop=0.0, agreement=1.0, flags=VNNI):
    """What the stage measures of a candidate, whose ratio is known to 2 %."""
    latency = {**MEASURED, "ratio": ratio, "ratio_low": 0.99 * ratio, "ratio_high": 1.01 * ratio}
    return {
        "bytes": size,
        "accuracy": {"value": 0.98 - drop, "drop": drop},
        "agreement": {"value": agreement, "rows": 539},
        "latency": {"1x1": latency, "1x32": {**latency, "ratio": 2 * ratio}},
        "processor": {"flags": flags},
    }


def made_up_document(**changes):
    """compress.json of a ladder of one pass, which is chosen."""
    values = {"ratio": 5.0, "size": 1_000, **changes}
    rungs = [
        {"name": "uncompressed", "key": "a", "status": "kept", "row": made_up_row(1.0, 4_000)},
        {"name": "1. quantize", "key": "b", "status": "kept", "row": made_up_row(**values)},
    ]
    return {"rungs": rungs, "chosen": "1. quantize"}


@pytest.mark.parametrize(
    ("change", "met", "missed"),
    [
        ({}, True, None),
        ({"ratio": 4.48}, True, None),
        ({"ratio": 4.3}, False, None),
        ({"ratio": 4.44}, False, None),
        ({"size": 1_026}, False, "3.90x smaller instead of 3.90x"),
        ({"size": 1_100}, False, "3.64x smaller instead of 3.90x"),
        ({"drop": 0.0056}, False, "0.56 points lost instead of 0.5"),
        ({"drop": 0.005}, True, None),
        ({"drop": -0.01}, True, None),
        ({"agreement": 0.9889}, False, "agreement 0.9889 instead of 0.99"),
        ({"agreement": 0.99}, True, None),
        ({"ratio": 1.6, "flags": ["avx2"]}, True, None),
        ({"ratio": 1.4, "flags": ["avx2"]}, False, None),
        ({"ratio": 1.6, "flags": ["avx2", "avx_vnni"]}, False, None),
        ({"ratio": 1.6, "flags": ["asimddp"]}, False, None),
    ],
)
def test_a_goal_is_met_where_all_conditions_are(change, met, missed):
    row = compress.judged("int8 resnet18", made_up_document(**change), INT8, WANTED, SPENT)
    assert row.met is met
    assert (missed is None) == ("missed" not in row.alternative_is)
    assert missed is None or missed in row.alternative_is


def test_what_lies_on_both_sides_of_the_goal_is_open():
    row = made_up_document(ratio=4.6)
    row["rungs"][1]["row"]["latency"]["1x1"]["ratio_low"] = 4.0
    assert compress.judged("x", row, INT8, WANTED, SPENT).met is None
    row["rungs"][1]["row"]["agreement"]["value"] = 0.9
    assert compress.judged("x", row, INT8, WANTED, SPENT).met is False


@pytest.mark.parametrize(
    ("name", "chosen", "ratio", "met"),
    [
        (compress_jobs.LADDER_MLP, INT8, 5.0, True),
        (compress_jobs.LADDER_MLP, "uncompressed", 1.0, False),
        (INT8_CNN, INT8, 0.8, False),
        (INT8_CNN, "uncompressed", 0.8, False),
    ],
)
def test_a_ladder_is_judged_by_what_was_chosen_and_int8_by_its_own_rung(monkeypatch, name, chosen, ratio, met):
    """Where int8 is slower the uncompressed model is chosen, and int8 has not reached that by being left out."""
    found = made_up_document(ratio=5.0, size=100)
    found["rungs"].append({**copy.deepcopy(found["rungs"][1]), "name": "2. int8", "row": made_up_row(0.8, 50)})
    found["chosen"] = chosen
    ran = compress.Ran(found, None, None, SPENT)
    monkeypatch.setattr(compress.Bench, "job", lambda self, name: ran)
    row = compress.Bench(None, "full", lambda text: None).compressed(name)
    assert (row.ratio, row.met) == (ratio, met)


def test_a_row_says_all_that_was_measured():
    row = compress.judged("int8 resnet18", made_up_document(drop=0.002, agreement=0.995), INT8, WANTED, SPENT)
    for words in ("4.00x smaller (1,000 bytes)", "-0.20 points", "0.9950 of 539 validation rows", "1x32 10.00x"):
        assert words in row.alternative_is
    assert (row.unit, row.pairs, row.interval, row.steal) == ("ms", 50, (4.95, 5.05), pytest.approx(0.01))


KEYS = (
    "name unit ours alternative alternative_is ratio interval cpu_ratio same_work difference limit limit_is goal "
    "goal_of met pairs ours_cpu_s alternative_cpu_s steal others"
)


def test_the_document_is_that_of_the_other_benches():
    rows = [compress.judged("int8 resnet18", made_up_document(), INT8, WANTED, SPENT)]
    machine = dict.fromkeys(("processor", "system", "python", "rayml", "ray", "torch"), "x")
    found = document("compress", "full", {**machine, "cpus": 2, "memory_gib": 8.0}, "rayml bench compress", rows)
    assert list(found) == ["bench", "command", "machine", "mode", "pairs", "rows"]
    assert list(found["rows"][0]) == KEYS.split()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "| int8 resnet18 | 0.8 ms | 4 ms | 5.00x [4.95, 5.05] |" in markdown(found)


@pytest.mark.parametrize("mode", ["quick", "full"])
def test_the_rows_that_are_wanted_are_measured_in_order(monkeypatch, mode):
    assert BENCHES["compress"] == compress.__name__
    monkeypatch.setattr(compress, "minilm_lacks", lambda: None)
    monkeypatch.setattr(compress.Bench, "compressed", lambda self, name: name)
    monkeypatch.setattr(compress.Bench, "against", lambda self, name: f"{name}!")
    every = [name + "!" * (name in AGAINST[mode]) for name in compress.names(mode)]
    assert compress.run(mode, print, compress.names(mode)) == every
    assert compress.run(mode, print, [compress.names(mode)[-1]]) == every[-1:]
    assert set(AGAINST[mode].values()) <= {load.name for load in LOADS[mode]}


def test_minilm_is_left_out_where_it_is_not_here(monkeypatch, tmp_path):
    monkeypatch.setattr(compress, "MINILM_JOB", tmp_path / "none.yaml")
    monkeypatch.setattr(compress.Bench, "compressed", lambda self, name: name)
    said = []
    assert compress.run("full", said.append, [INT8_MINILM, INT8_CNN]) == [INT8_CNN]
    assert "int8 minilm is left out: " in said[0]
    with pytest.raises(PlanError, match=r"none\.yaml is not there"):
        compress.run("full", print, [INT8_MINILM])
    (tmp_path / "none.yaml").touch()
    monkeypatch.setattr(compress, "MINILM_WHEEL", "no_such_wheel_of_minilm")
    with pytest.raises(PlanError, match="no_such_wheel_of_minilm"):
        compress.run("full", print, [INT8_MINILM])


def test_jobs_that_share_a_training_are_trained_once():
    pairs = [(compress_jobs.INT8_RESNET, compress_jobs.LADDER_RESNET), (INT8_CNN, compress_jobs.LADDER_CNN)]
    for names in pairs:
        one, other = (load_named("full", name).document() for name in names)
        assert [one[part] for part in ("data", "model", "train", "seed")] == [
            other[part] for part in ("data", "model", "train", "seed")
        ]


@pytest.mark.parametrize("load", [load for mode in LOADS for load in LOADS[mode] if load.file is None])
def test_every_job_is_a_valid_one(load, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(load.document()))
    job = load_job(path)
    assert job.compress.ladder[-1].scheme == "int8_static"
    assert job.compress.prefer == "latency"


@pytest.mark.parametrize("slower", [0.9, 1.0])
@pytest.mark.parametrize(("larger", "lost_low", "word"), [(0, -0.01, None), (20, -0.01, "larger"), (0, 0.001, "lower")])
def test_ours_must_not_be_worse_than_the_tools_by_hand_in_anything(slower, larger, lost_low, word):
    latency = {**MEASURED, "ratio": slower, "ratio_low": 0.99 * slower, "ratio_high": 1.01 * slower}
    worth = compress.Worth("defaults", 1_000, 0.98, 1_000 + larger, 0.98, lost_low, 539)
    row = compress.beside("against ort tools", "defaults", latency, worth)
    assert row.met is (slower == 1.0 and word is None)
    assert (f"the file is {word}" in row.alternative_is) == (word == "larger")
    assert (f"accuracy is {word}" in row.alternative_is) == (word == "lower")


def test_of_two_settings_the_one_counts_that_says_less_good_of_ours():
    worth = compress.Worth("defaults", 1_000, 0.98, 1_000, 0.98, 0.0, 539)
    rows = [
        compress.beside("a", name, {**MEASURED, "ratio": ratio, "ratio_low": ratio, "ratio_high": ratio}, worth)
        for name, ratio in (("defaults", 2.0), ("per channel", 1.1))
    ]
    found = compress.least(rows)
    assert found.ratio == 1.1
    assert "also 2.00x against onnxruntime.quantization by hand, defaults" in found.alternative_is
    failed = [compress.replace(rows[0], met=False), rows[1]]
    assert compress.least(failed).ratio == 2.0


def test_a_user_keeps_the_fastest_setting_that_is_as_accurate_as_the_best():
    accuracies = {"defaults": 0.97, "per channel": 0.98, "uint8": 0.976, "entropy": 0.98}
    times = {"defaults": 1.0, "per channel": 3.0, "uint8": 2.0, "entropy": 2.5}
    assert compress.best_of(times, accuracies) == "uint8"


def test_both_sides_calibrate_on_the_same_rows(tmp_path):
    from stages.train.ranks import make_shards

    from rayml.bench.ort_tools import calibration_rows
    from rayml.ml.shards import ShardSet
    from rayml.stages.compress.quantization.calibration import rows_of

    data = make_shards(tmp_path / "data")
    train = ShardSet.open(data, "train")
    for count in (20, 10_000):
        config = {"calibration": {"rows": count}}
        work = types.SimpleNamespace(data=data, config=config, note=lambda text: None)
        places = calibration_rows(count, len(train))
        np.testing.assert_array_equal(train.gather(places)[0], rows_of(work).calibration)


def test_the_tools_by_hand_make_a_file_for_each_setting_and_print_nothing(tmp_path, capsys):
    from stages.compress.passes import CNN, make_work

    from rayml.bench.ort_tools import SETTINGS, calibration_rows, quantize_by_hand
    from rayml.ml.onnx_session import open_session
    from rayml.ml.shards import ShardSet

    work = make_work(tmp_path, CNN, {})
    train = ShardSet.open(work.data, "train")
    records = train.gather(calibration_rows(64, len(train)))[0]
    made = quantize_by_hand(
        work.parent.onnx, work.schema.feature.name, records, tmp_path / "by-hand", lambda text: None
    )
    assert list(made) == list(SETTINGS)
    assert capsys.readouterr().out == ""
    for path in made.values():
        (found,) = open_session(path, threads=1).run(["probabilities"], {work.schema.feature.name: records[:4]})
        assert found.shape == (4, len(work.schema.classes))
