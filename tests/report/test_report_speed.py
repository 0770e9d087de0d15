"""The section on training speed: from the event of a run that was profiled, or from the artifact of one that was."""

from __future__ import annotations

from rayml.report import view
from rayml.report.page import render, write_report
from rayml.report.record import collect

SHARES = {"compute": 0.612, "communication": 0.213, "data": 0.081, "optimizer": 0.06, "checkpoint": 0.034, "other": 0.0}
OPERATORS = ("aten::convolution_backward", "aten::mkldnn_convolution", "c10d::allreduce_", "<b>größter</b>")
PROFILE = {
    "steps": 10,
    "step_ms": 5.9509,
    "shares": SHARES,
    "workers": [
        {"rank": rank, "shares": SHARES, "memory": {"host": 581_533_696 + rank, "gpu_tensors": 233_000_000}}
        for rank in range(2)
    ],
    "operators": [
        {"name": name, "self_ms": 1.2 / (place + 1), "calls": 2.0 + place, "share": 0.4 / (place + 1)}
        for place, name in enumerate(OPERATORS)
    ],
    "bottleneck": "Waiting for the other workers takes 21 % of a step: raise train.batch_size (now 16)",
    "trace": "trace.json.gz",
}


def profiled(runs):
    folder = runs.make()
    runs.log("profile", step="train", **PROFILE)
    return folder


def test_a_profile_is_shown_with_its_bottleneck_shares_operators_and_workers(runs):
    page = write_report(profiled(runs), runs.store).read_text(encoding="utf-8")
    section = page.partition('<section id="speed">')[2].partition("</section>")[0]
    assert PROFILE["bottleneck"] in section
    assert "61.2 %" in section
    assert "581.5 MB" in section
    assert "233.0 MB" in section
    assert "aten::convolution_backward" in section
    assert "&lt;b&gt;größter&lt;/b&gt;" in section
    assert "the loop around it" not in section


def test_bars_are_relative_to_the_largest_operator_and_parts_without_a_share_are_left_out(runs):
    shown = view.speed(collect(profiled(runs), runs.store))
    assert [row["bar"] for row in shown["operators"]] == [100.0, 50.0, 33.3, 25.0]
    assert [name for name, _, _ in shown["shares"]] == list(SHARES)[:-1]
    assert shown["memory"] == [("host", "RAM"), ("gpu_tensors", "GPU, tensors")]


def test_without_a_profile_the_section_says_how_to_get_one(runs):
    record = collect(runs.make(), runs.store)
    assert record["speed"] is None
    assert "train.profile: {steps: 10}" in render(record)
