"""The section on a compression: from its artifact, or from the events of a ladder that left no candidate."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from rayml.artifacts.manifest import digest
from rayml.plan.plan import Plan, Resources, Step
from rayml.report import compress_svg
from rayml.report.compress_view import compact, essence, signed, times
from rayml.report.page import write_report
from rayml.report.record import collect
from rayml.report.words import MISSING

RUN = "ziffern-20261121-232618-4f1a"
TIMES, MINUS = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"
BUDGET = {"metric_drop": 0.015, "agreement": 0.95, "size": 60_000, "p50_ms": 0.1, "p95_ms": None, "ram": None}
FINETUNE = {"epochs": 30, "teacher": "uncompressed", "temperature": 2.0, "hard": 0.3}
LADDER = [
    {
        "kind": "distill",
        "student": {"kind": "derived", "width": 0.5, "depth": 1.0},
        "temperature": 4.0,
        "hard": 0.1,
        "teachers": [],
        "finetune": FINETUNE,
    },
    {"kind": "prune", "structured": 0.25, "unstructured": None, "pattern": None, "finetune": FINETUNE},
    {"kind": "prune", "structured": None, "unstructured": 0.5, "pattern": None, "finetune": FINETUNE},
    {
        "kind": "quantize",
        "scheme": "int8_static",
        "calibration": {"method": "minmax", "rows": 256},
        "keep": "auto",
        "per_channel": True,
    },
]
GAINS = ("file -71 %, median latency -48 %", "brought too little: file -3 %, median latency +1 %; min_gain is 5%")


def latency(p50, ratio):
    def one(at, speed, rows):
        return {
            "p50_ms": p50 * at,
            "p95_ms": p50 * at * 1.14,
            "p99_ms": p50 * at * 1.52,
            "rows_per_s": rows / (p50 * at) * 1000,
            "ratio": speed,
            "ratio_low": speed * 0.97,
            "ratio_high": speed * 1.04,
        }

    return {
        "1x1": one(1, ratio, 1),
        "1x32": one(14.1, ratio * 1.21, 32),
        "2x1": one(0.93, ratio * 0.9, 1),
        "2x32": one(7.9, ratio, 32),
    }


def row(size, parameters, operations, accuracy, drop, half, agreement, p50, ratio, ram):
    return {
        "bytes": size,
        "parameters": parameters,
        "multiply_adds": operations,
        "multiply_adds_why": None,
        "accuracy": {"value": accuracy, "drop": drop, "low": drop - half, "high": drop + half},
        "agreement": {
            "value": agreement,
            "low": agreement - 0.02,
            "high": min(1.0, agreement + 0.009),
            "rows": 270,
            "only_baseline_right": round(270 * drop) + 1,
            "only_candidate_right": 1,
        },
        "loss": 0.0612 + drop,
        "latency": latency(p50, ratio),
        "ram": ram,
        "energy": {
            "joules_per_1000": None,
            "why": "this machine reports no energy (no RAPL below /sys/class/powercap)",
        },
        "parity": {"samples": 64, "agreement": agreement, "max_abs": 0.1184 if drop else 0.0, "mean_abs": 0.0031},
        "processor": {"name": "AMD EPYC 7R13 <Zen 3>", "machine": "x86_64", "flags": ["avx2"]},
    }


def rung(name, config, seconds, status, why, measured, facts=None, diverges=None):
    gains = {"smaller": 0.71, "faster": 0.48}
    head = {"name": name, "key": digest(name), "config": config, "seconds": seconds, "status": status, "why": why}
    return {**head, **gains, "row": measured, "pass": facts or {}, "diverges": diverges}


def document():
    """Four passes on the digits model: a narrower student, channels that bring little, zeros, 8 bits."""
    rungs = [
        rung("uncompressed", {"kind": "uncompressed"}, 2.4, "kept", "what the others are measured against",
             row(214_320, 52_810, 1_842_176, 0.9852, 0.0, 0.0, 1.0, 0.2113, 1.0, 8_400_000)),
        rung("1. distill", LADDER[0], 41.7, "kept", GAINS[0],
             row(61_904, 13_706, 483_328, 0.9815, 0.0037, 0.0074, 0.9889, 0.1098, 1.924, 6_100_000),
             {"student": {"kind": "small_cnn", "width": 24}, "epochs": 30, "best": {"val/loss": 0.0714, "epoch": 27}}),
        rung("2. prune", LADDER[1], 18.2, "rolled back", GAINS[1],
             row(60_112, 13_258, 470_016, 0.9778, 0.0074, 0.0101, 0.9852, 0.1109, 1.905, 6_100_000),
             {"ratio": {"network.conv2": 0.25, "network.conv3": 0.25}, "groups": 3}),
        rung("3. prune", LADDER[2], 17.9, "refused",
             "its weights are zeros in place, which no runtime here skips: file -0 %, median latency +0 %",
             row(61_904, 13_706, 483_328, 0.9741, 0.0111, 0.0128, 0.9778, 0.1097, 1.926, 6_100_000)),
        rung("4. quantize", LADDER[3], 6.3, "kept", "file -71 %, median latency -62 %",
             row(18_104, 13_706, 483_328, 0.9815, 0.0037, 0.0074, 0.9852, 0.0414, 5.104, 5_900_000),
             {"kept": ["/network/head/Gemm"], "calibration": {"method": "minmax", "rows": 256},
              "activations": "uint8", "reduce_range": True},
             {"layer": "/network/conv3/Conv", "op": "Conv", "tensor": "conv3", "error": 0.0621, "compared": 21}),
    ]  # fmt: skip
    return {"rungs": rungs, "chosen": "4. quantize", "budget": BUDGET, "prefer": "size", "min_gain": 0.05}


def with_compress(plan):
    """The plan of a job that compresses: export reads what compress left."""
    steps = {step.name: step for step in plan.steps}
    inputs = {name: steps[name].key for name in ("data", "train")}
    config = {"ladder": LADDER, "budget": BUDGET, "prefer": "size", "min_gain": 0.05}
    key = digest({"compress": config})
    resources = Resources(cpus_per_worker=2)
    step = Step(name="compress", config=config, policy={}, inputs=inputs, code="ab" * 32, key=key, resources=resources)
    export = steps["export"].model_copy(update={"inputs": {**inputs, "compress": key}})
    order = (steps["data"], steps["train"], step, export, steps["evaluate"], steps["serve"])
    return plan.model_copy(update={"steps": order})


def rung_event(number, status, told=None):
    event = {"kind": "rung", "step": "compress", "number": number, "of": 4, "name": LADDER[number - 1]["kind"]}
    if told is None:
        return {**event, "status": status}
    measured, single = told["row"], told["row"]["latency"]["1x1"]
    return {
        **event,
        "status": status,
        "why": told["why"],
        "size_bytes": float(measured["bytes"]),
        "parameters": float(measured["parameters"]),
        "accuracy": measured["accuracy"]["value"],
        "metric_drop": measured["accuracy"]["drop"],
        "agreement": measured["agreement"]["value"],
        "latency_p50_ms": single["p50_ms"],
        "latency_p95_ms": single["p95_ms"],
        "speedup": single["ratio"],
        "ram_bytes": float(measured["ram"]),
    }


def ladder_events(found, ended=4):
    """As the stage tells of its rungs, one after the other, until `ended` have ended and the next one runs."""
    events = []
    for number, told in enumerate(found["rungs"][1:], start=1):
        events += [rung_event(number, "starts")] * (number <= ended + 1)
        events += [rung_event(number, told["status"], told)] * (number <= ended)
    return events


NONE_INSIDE = {
    "type": "GateError",
    "exit_code": 3,
    "what": "none of 3 candidates is inside the budget; the nearest is 4. quantize: size 18.1 kB instead of 9.0 kB",
    "where": "compress.budget",
    "hint": "widen the budget, or put other passes into compress.ladder",
}


def compressed(runs, found=None, *, ended=None, error=None, budget=None):
    """The folder of a run whose job compresses.

    Args:
        found: the artifact's document.
        ended: rungs that ended before the run did, which then left no artifact.
        error: what compress failed with.
        budget: of the plan, in the place of the usual one.
    """
    found = found or document()
    folder = runs.make()
    plan = with_compress(Plan.model_validate_json((folder / "plan.json").read_bytes()))
    step = plan.step("compress")
    step.config["budget"] = budget or step.config["budget"]
    (folder / "plan.json").write_text(plan.model_dump_json(), encoding="utf-8")
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    place = next(at for at, event in enumerate(events) if event.get("step") == "export")
    before, after = events[:place], events[place:]
    mine = [{"kind": "step_started", "step": "compress", "attempt": 1}]
    mine += ladder_events(found, ended) if ended is not None else []
    if error:
        mine.append({"kind": "step_failed", "step": "compress", "error": error})
        after = [{"kind": "run_done", "status": "failed", "exit_code": 3, "error": error}]
    elif ended is not None:
        after = []
    else:
        files = {"compress.json": json.dumps(found), "model.onnx": "O" * 18104}
        runs.commit(plan, step, files, {"size_bytes": 18104.0, "agreement": 0.9852}, {}, RUN, 86.5)
        mine.append({"kind": "step_done", "step": "compress", "seconds": 86.5, "metrics": {"size_bytes": 18104.0}})
    late = [{**event, "t": before[-1]["t"] + 0.1 + 9 * at} for at, event in enumerate(mine)]
    after = [{**event, "t": late[-1]["t"] + 0.1 + at} for at, event in enumerate(after)]
    lines = [json.dumps(event) for event in [*before, *late, *after]]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def page_of(folder, runs):
    """The page's text, and its section on compression as XML; an error of its syntax fails the test."""
    text = write_report(folder, runs.store).read_text(encoding="utf-8")
    section = text.partition('<section id="compress">')[2].partition("</section>")[0]
    return text, ElementTree.fromstring(f"<section>{section}</section>")


def said(element):
    return " ".join(part.strip() for part in element.itertext() if part.strip())


def by_class(tree, tag, style):
    return [each for each in tree.iter(tag) if style in each.get("class", "").split()]


def ladder(tree):
    """Name of a rung to its part of the table."""
    (table,) = by_class(tree, "table", "ladder")
    return {part.find("tr/th").text: part for part in table.findall("tbody")}


def widths(part):
    """Of the bars of a rung, in percent."""
    return [float(each.get("style")[4:-1]) for each in by_class(part, "span", "bar")]


def test_a_job_without_the_step_has_no_section_and_no_hop(runs):
    folder = runs.make()
    record = collect(folder, runs.store)
    assert record["compress"] is None
    assert [hop["step"] for hop in record["promises"]] == ["export", "evaluate", "serve"]
    text = write_report(folder, runs.store).read_text(encoding="utf-8")
    assert 'id="compress"' not in text and 'href="#compress"' not in text


def test_the_section_stands_after_the_metrics_and_the_head_says_what_was_gained(runs):
    text, _ = page_of(compressed(runs), runs)
    anchors = re.findall(r'<section id="(\w+)">', text)
    assert anchors[:4] == ["promises", "metrics", "compress", "curves"]
    assert '<a href="#compress">Compression</a>' in text
    assert f"<dt>Compressed</dt><dd>12{TIMES}<small>smaller, 5.1{TIMES} as fast</small>" in text


def test_a_row_for_each_rung_with_before_and_after(runs):
    _, tree = page_of(compressed(runs), runs)
    rows = ladder(tree)
    assert list(rows) == ["uncompressed", "1. distill", "2. prune", "3. prune", "4. quantize"]
    assert [part.get("class") for part in rows.values()] == ["kept", "kept", "dim", "dim", "best"]
    assert widths(rows["uncompressed"]) == [100.0, 100.0]
    assert widths(rows["4. quantize"]) == [8.4, 19.6]
    numbers = said(rows["4. quantize"].find("tr"))
    assert numbers == (
        f"4. quantize int8_static 18.1 kB 12{TIMES} 8.4 % 0.0414 ms 5.1{TIMES} p95 0.0472, p99 0.0629 "
        f"0.9815 {MINUS}0.0037 {MINUS}0.0111 to +0.0037 98.5 % 5.9 MB 13.7 k 483 k"
    )
    assert "4. quantize goes on: the only one of 3 candidates inside the budget." in said(tree)


def test_what_became_of_a_rung_stands_in_one_line_below_it(runs):
    _, tree = page_of(compressed(runs), runs)
    lines = {name: said(part.find(".//summary")) for name, part in ladder(tree).items()}
    assert lines["1. distill"] == (
        "kept file -71 %, median latency -48 % ; outside the budget: File size ≤ 60.0 kB, Latency, p50 ≤ 0.1 ms"
    ).replace(" % ;", " %;")
    assert lines["2. prune"].startswith("rolled back brought too little: file -3 %")
    assert lines["3. prune"].startswith("refused its weights are zeros in place")
    assert lines["4. quantize"] == "chosen file -71 %, median latency -62 %"


def test_the_folded_detail_has_all_settings_and_what_the_pass_did(runs):
    _, tree = page_of(compressed(runs), runs)
    detail = ladder(tree)["4. quantize"].find(".//details")
    (table,) = by_class(detail, "table", "latencies")
    rows = [said(row) for row in table.find("tbody")]
    assert rows[0] == (f"1 thread, batch of 1 0.0414 ms 0.0472 ms 0.0629 ms 24.2 k 5.1{TIMES} 5.0{TIMES} to 5.3{TIMES}")
    assert [row.partition(" 0.")[0] for row in rows[1:]] == [
        "1 thread, batch of 32", "2 threads, batch of 1", "2 threads, batch of 32",
    ]  # fmt: skip
    text = said(detail)
    assert "98.5 % of 270 rows as before (95 % interval 96.5 % to 99.4 %); 2 rows right only before, 1 only now" in text
    assert "98.5 % of 64 rows as before; probabilities differ by at most 0.1184, mean 0.0031" in text
    assert "first at /network/conv3/Conv (Conv), whose output is off by 6.2 %; 21 tensors compared" in text
    assert "not measured: this machine reports no energy" in text
    assert "kept [/network/head/Gemm]" in text and "calibration.rows 256" in text and "Took 6.30 s" in text


def test_energy_and_what_was_not_counted_are_said(runs):
    found = document()
    row = found["rungs"][1]["row"]
    row.update(multiply_adds=None, multiply_adds_why="the shapes around Loop are not known")
    row["energy"] = {"joules_per_1000": 0.4127, "why": None}
    found["rungs"][4]["diverges"]["error"] = float("inf")
    _, tree = page_of(compressed(runs, found), runs)
    text = said(ladder(tree)["1. distill"])
    assert "0.413 J for 1,000 rows" in text and "multiply-adds: the shapes around Loop are not known" in text
    assert "whose output is not a number" in said(ladder(tree)["4. quantize"])


def test_the_budget_is_a_list_of_what_is_met(runs):
    _, tree = page_of(compressed(runs), runs)
    (table,) = by_class(tree, "table", "budget")
    assert [said(row) for row in table.find("tbody")] == [
        "Accuracy lost ≤ 0.0150 0.0037 3 of 3 met",
        "Same answer ≥ 95.0 % 98.5 % 3 of 3 met",
        "File size ≤ 60.0 kB 18.1 kB 1 of 3 met",
        "Latency, p50 ≤ 0.1 ms 0.0414 ms 1 of 3 met",
    ]


def test_a_job_without_a_budget_says_so(runs):
    found = {**document(), "budget": dict.fromkeys(BUDGET)}
    _, tree = page_of(compressed(runs, found), runs)
    assert "The job sets no budget." in said(tree) and "outside the budget" not in said(tree)
    assert not by_class(tree, "line", "limit")


def test_the_drawing_has_a_point_for_each_candidate_and_the_budget(runs):
    _, tree = page_of(compressed(runs), runs)
    (drawing,) = by_class(tree, "svg", "ladder-map")
    assert [each.get("class") for each in drawing.iter("circle")] == ["dim", "dim", "kept", "kept", "chosen"]
    assert [each.text for each in by_class(drawing, "text", "bound")] == ["budget 60.0 kB", "budget 0.1 ms"]
    labels = [each.text for each in by_class(drawing, "text", "label")]
    assert labels[0] == f"4. quantize {MINUS}0.0037" and "uncompressed" in labels
    assert len(drawing.findall("line[@class='limit']")) == 2


def test_a_bound_that_is_far_away_does_not_squeeze_the_drawing():
    points = [
        compress_svg.Candidate("a", "0", "kept", 200e3, 0.2),
        compress_svg.Candidate("b", "0", "chosen", 2e3, 0.1),
    ]
    near, far = compress_svg.candidates(points, 210e3, None), compress_svg.candidates(points, 10e6, 90.0)
    assert near.count("limit") == 1 and "limit" not in far
    assert compress_svg.from_zero([200e3, 2e3], None, "size_bytes").is_log
    assert not compress_svg.from_zero([200e3, 20e3], None, "size_bytes").is_log


def test_the_uncompressed_model_may_go_on(runs):
    found = {**document(), "chosen": "uncompressed", "prefer": "latency"}
    text, tree = page_of(compressed(runs, found), runs)
    assert "The uncompressed model goes on: no candidate inside the budget is faster." in text
    assert said(ladder(tree)["uncompressed"].find(".//summary")).startswith("chosen ")
    assert "<dt>Compressed</dt>" not in text


def test_the_chain_has_a_hop_between_train_and_export(runs):
    folder = compressed(runs)
    hops = collect(folder, runs.store)["promises"]
    assert [hop["step"] for hop in hops] == ["compress", "export", "evaluate", "serve"]
    hop = hops[0]
    assert (hop["kind"], hop["agreement"], hop["difference"]) == ("measured", 0.9852, 0.1184)
    assert (hop["samples"], hop["tolerance"], hop["passed"]) == (64, None, True)
    text, _ = page_of(folder, runs)
    chain = text.partition('<ol class="chain long">')[2].partition("</ol>")[0]
    assert "<b>98.5 % agree</b>\n<span>up to 0.12 apart</span>" in chain
    assert "64 rows compared with the uncompressed model, 98.5 % with the same answer" in text


def test_a_ladder_without_a_result_shows_what_its_events_told(runs):
    budget = {**BUDGET, "size": 9000}
    folder = compressed(runs, ended=4, error=NONE_INSIDE, budget=budget)
    record = collect(folder, runs.store)
    assert record["compress"]["chosen"] is None and not record["compress"]["is_whole"]
    assert record["promises"][0]["passed"] is False and record["promises"][0]["difference"] is None
    text, tree = page_of(folder, runs)
    assert "No candidate goes on: none of 3 candidates is inside the budget; the nearest is 4. quantize" in said(tree)
    rows = ladder(tree)
    assert list(rows) == ["1. distill", "2. prune", "3. prune", "4. quantize"]
    assert [part.get("class") for part in rows.values()] == ["kept", "dim", "dim", "kept"]
    assert f"18.1 kB 0.0414 ms 5.1{TIMES} p95 0.0472 0.9815 {MINUS}0.0037 98.5 % 5.9 MB 13.7 k" in said(
        rows["4. quantize"]
    )
    assert widths(rows["1. distill"]) == [100.0, 99.0], "of the largest, where nothing is told of the uncompressed one"
    assert "File size ≤ 9.0 kB 18.1 kB 0 of 2 not met" in said(tree)
    assert "distill" in said(tree) and "student.width 0.5" in said(tree)
    assert "<b>failed</b>" in text.partition('<ol class="chain long">')[2].partition("</ol>")[0]


def test_the_uncompressed_model_is_shown_where_events_tell_of_it(runs):
    folder = compressed(runs, ended=4, error=NONE_INSIDE)
    whole = {**rung_event(1, "kept", document()["rungs"][0]), "number": 0, "name": "uncompressed"}
    with (folder / "events.jsonl").open("a") as stream:
        stream.write(json.dumps({**whole, "t": 1_795_303_999.0}) + "\n")
    _, tree = page_of(folder, runs)
    assert next(iter(ladder(tree))) == "uncompressed"
    assert widths(ladder(tree)["4. quantize"]) == [8.4, 19.6]


def test_a_ladder_that_was_cut_off_shows_how_far_it_got(runs):
    _, tree = page_of(compressed(runs, ended=2), runs)
    rows = ladder(tree)
    assert list(rows) == ["1. distill", "2. prune", "3. prune"]
    assert "unfinished the run ended before it was measured" in said(rows["3. prune"])
    assert "The ladder was not walked to its end: 2 rungs measured so far." in said(tree)


def test_a_ladder_that_was_not_reached_says_so(runs):
    folder = runs.make(fate="interrupted", stop_in="train")
    plan = with_compress(Plan.model_validate_json((folder / "plan.json").read_bytes()))
    (folder / "plan.json").write_text(plan.model_dump_json(), encoding="utf-8")
    _, tree = page_of(folder, runs)
    assert "The run did not reach compress." in said(tree)
    assert collect(folder, runs.store)["promises"][0]["passed"] is None


def test_a_rung_that_ran_again_counts_once(runs):
    folder = compressed(runs, ended=4, error=NONE_INSIDE)
    again = {**rung_event(1, "rolled back", document()["rungs"][1]), "t": 1_795_303_999.0}
    with (folder / "events.jsonl").open("a") as stream:
        stream.write(json.dumps(again) + "\n")
    rungs = collect(folder, runs.store)["compress"]["rungs"]
    assert [rung["name"] for rung in rungs] == ["1. distill", "2. prune", "3. prune", "4. quantize"]
    assert rungs[0]["status"] == "rolled back"


def test_a_document_of_fewer_numbers_is_still_drawn(runs):
    """Such as one that another version wrote."""
    found = document()
    for rung in found["rungs"][1:]:
        rung["row"] = {"bytes": rung["row"]["bytes"], "latency": {"1x1": {"p50_ms": None}}, "ram": float("nan")}
    _, tree = page_of(compressed(runs, found), runs)
    assert len(ladder(tree)) == 5 and "not measured" in said(by_class(tree, "table", "budget")[0])


def test_words_from_outside_stay_text(runs):
    evil = "<script>alert(1)</script>\"'><img src=x onerror=y>{{ 7 * 7 }}"
    found = document()
    for rung in found["rungs"][1:]:
        rung.update(why=evil, config={"kind": "quantize", "scheme": evil, evil: evil}, diverges={"layer": evil})
        rung["pass"] = {"kept": [evil], evil: {evil: evil}}
        rung["row"]["energy"]["why"] = rung["row"]["multiply_adds_why"] = rung["row"]["processor"]["name"] = evil
        rung["name"] = f"{rung['name']}{evil}"
    found["chosen"] = found["rungs"][4]["name"]
    text, tree = page_of(compressed(runs, found), runs)
    assert "<script" not in text and "<img src=x" not in text
    assert said(tree).count("{{ 7 * 7 }}") > 20


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kind": "distill", "student": {"kind": "derived", "width": 0.5, "depth": 1.0}}, "derived, width 0.5"),
        ({"kind": "distill", "student": {"kind": "same"}}, "same"),
        ({"kind": "prune", "structured": None, "pattern": "2:4"}, "pattern 2:4"),
        ({"kind": "factorize", "energy": 0.9, "rank": None}, "energy 0.9"),
        ({"kind": "share", "every": 3}, "every 3"),
        ({"kind": "optimize", "level": "extended"}, "extended"),
        ({"kind": "uncompressed"}, ""),
        ({"kind": "mine"}, ""),
    ],
)
def test_what_a_pass_does_in_few_words(config, words):
    assert essence(config) == words


def test_numbers_as_they_are_read():
    assert [times(ratio) for ratio in (11.84, 9.96, 5.104, 0.999, 0.93)] == [
        f"{text}{TIMES}" for text in ("12", "10", "5.1", "1.0", "0.93")
    ]
    assert [signed(each) for each in (-0.0037, 0.0021, 0.0, -1e-9, None)] == [
        f"{MINUS}0.0037",
        "+0.0021",
        "0",
        "0",
        MISSING,
    ]
    assert [compact(each) for each in (730, 13_706, 1_842_176, 4.1e9, None)] == [
        "730",
        "13.7 k",
        "1.84 M",
        "4.1 G",
        MISSING,
    ]
