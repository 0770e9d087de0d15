"""The table fits 100 columns and says what the document says; so does the Markdown."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rayml.bench.show import cells_of, markdown, print_bench

MACHINE = {
    "cpus": 2,
    "memory_gib": 23.5,
    "processor": "Intel(R) Xeon(R) Platinum 8488C with a long name",
    "system": "Linux",
    "python": "3.11.7",
    "rayml": "0.1.0",
    "ray": "2.60.0",
    "torch": "2.14.1",
}
ROW = {
    "name": "ddp small cnn",
    "unit": "samples/s",
    "ours": 14287.4,
    "alternative": 15430.2,
    "alternative_is": "torchrun, DDP written by hand",
    "ratio": 0.923,
    "interval": [0.871, 1.012],
    "cpu_ratio": 0.901,
    "same_work": True,
    "difference": None,
    "limit": 24142.0,
    "limit_is": "no communication",
    "goal": 1.0,
    "goal_of": "ratio",
    "met": None,
    "pairs": 7,
    "ours_cpu_s": 1.49,
    "alternative_cpu_s": 1.34,
    "steal": 0.004,
    "others": 0.12,
}
EMPTY = ("alternative", "alternative_is", "ratio", "interval", "cpu_ratio", "same_work", "limit", "limit_is")
BUDGET = {**ROW, **dict.fromkeys(EMPTY), "name": "help", "unit": "s", "ours": 0.114, "goal": 0.5, "goal_of": "ours"}


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_table_fits_100_columns_and_says_everything(width):
    rows = [ROW, {**BUDGET, "met": True, "alternative_cpu_s": None}]
    document = {"bench": "train", "command": "rayml bench train --quick", "machine": MACHINE, "rows": rows}
    out = io.StringIO()
    print_bench(Console(file=out, width=width), document)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= max(100, width)
    for part in ("rayml bench train --quick", "14,287/s", "15,430/s", "0.92x [0.87, 1.01]", "0.90x", "24,142/s"):
        assert part in text
    lines = text.splitlines()
    measured = next(line for line in lines if line.startswith("ddp small cnn"))
    assert measured.split()[-1] == "open"
    assert next(line for line in lines if line.startswith("help")).split()[-4:] == ["<=", "0.5", "s", "yes"]


@pytest.mark.parametrize("same", [True, False])
def test_markdown_has_the_command_the_machine_and_every_row(same):
    row = {**ROW, "same_work": same, "difference": None if same else "loss 1 is not 2"}
    text = markdown({"bench": "x", "command": "rayml bench x --full", "machine": MACHINE, "rows": [row, BUDGET]})
    assert "`rayml bench x --full`" in text
    assert MACHINE["processor"] in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
    assert ("NOT THE SAME WORK: loss 1 is not 2" in text) is not same
    assert "steal 0.4%, other processes 12%" in text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"unit": "s", "goal": 0.5, "goal_of": "ours"}, "<= 0.5 s"),
        ({"unit": "%", "goal": 95.0, "goal_of": "ours_at_least"}, ">= 95 %"),
        ({"unit": "trials/s", "goal": 25.0, "goal_of": "ours_at_least"}, ">= 25/s"),
        ({"goal": 1.1}, ">= 1.10x"),
    ],
)
def test_a_goal_says_in_which_direction_it_is_one(change, text):
    assert cells_of({**ROW, **change})[-2] == text


@pytest.mark.parametrize(("value", "text"), [(0.94, "0.9/s"), (26.71, "26.7/s"), (14287.4, "14,287/s")])
def test_a_small_rate_has_a_tenth(value, text):
    assert cells_of({**ROW, "ours": value})[1] == text
