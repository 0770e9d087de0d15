"""Before and after a compression on a terminal: bars that tell, numbers that are whole, at any width and encoding."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from rayml.observe.compress_table import before_after, draw_bar, size_text, time_text, times_text
from rayml.observe.progress import conclude


def rung(name, status, size, p50, ratio, accuracy, drop, agreement, why=""):
    single = {"p50_ms": p50, "p95_ms": 1.14 * p50, "p99_ms": 1.5 * p50, "rows_per_s": 1000 / p50, "ratio": ratio}
    row = {
        "bytes": size,
        "accuracy": {"value": accuracy, "drop": drop, "low": drop - 0.007, "high": drop + 0.007},
        "agreement": {"value": agreement},
        "latency": {"1x1": single},
    }
    return {"name": name, "status": status, "why": why, "row": row}


DOCUMENT = {
    "rungs": [
        rung("uncompressed", "kept", 214_320, 0.2113, 1.0, 0.9852, 0.0, 1.0),
        rung("1. distill", "kept", 61_904, 0.1098, 1.92, 0.9852, 0.00001, 0.9889),
        rung("2. prune", "rolled back", 60_112, 0.1109, 1.9, 0.9778, 0.0074, 0.9852, "brought too little: file -3 %"),
        rung("3. prune", "refused", 61_904, 0.1097, 1.93, 0.9741, 0.0111, 0.9778, "its weights are zeros in place"),
        rung("4. quantize", "kept", 18_104, 0.0414, 5.1, 0.9889, -0.0037, 0.9852),
    ],
    "chosen": "4. quantize",
    "prefer": "size",
}


def lines_at(width, document=DOCUMENT, *, is_unicode=True):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(before_after(document, width, is_unicode=is_unicode))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_80_columns_show_bars_and_every_number():
    assert lines_at(80) == [
        "   before / after  size                  latency                accuracy  agrees",
        "✓  uncompressed    ██████  214 kB        ██████ 0.211 ms          0.9852       -",
        "✓  1. distill      █▊     61.9 kB  3.5x  ███▏   0.110 ms  1.9x   +0.0000  98.9 %",
        "✗  2. prune        █▋     60.1 kB  3.6x  ███▏   0.111 ms  1.9x   -0.0074  98.5 %",
        "✗  3. prune        █▊     61.9 kB  3.5x  ███▏   0.110 ms  1.9x   -0.0111  97.8 %",
        "◆  4. quantize     ▌      18.1 kB   12x  █▏     0.041 ms  5.1x   +0.0037  98.5 %",
        "◆  4. quantize goes on: the smallest inside the budget",
        "✗  2. prune rolled back: brought too little: file -3 %",
        "✗  3. prune refused: its weights are zeros in place",
    ]


def test_120_columns_have_room_for_long_bars_and_the_95th_percentile():
    lines = lines_at(120)
    assert "p95" in lines[0] and "0.047 ms" in lines[5]
    assert "█" * 16 in lines[1] and "█" * 17 not in lines[1]


@pytest.mark.parametrize("width", [200, 120, 100, 80, 70, 60, 44, 40])
def test_nothing_is_wider_than_the_terminal_and_no_number_is_cut(width):
    lines = lines_at(width)
    assert max(map(len, lines)) <= width
    assert all(part in lines[5] for part in ("4. quantize", "18.1 kB", "+0.0037"))


def test_a_terminal_without_unicode_gets_bars_of_ascii():
    lines = lines_at(80, is_unicode=False)
    assert lines[1].startswith("+  uncompressed    ######  214 kB")
    assert lines[5].startswith(">  4. quantize     #      18.1 kB   12x")
    "\n".join(lines).encode("ascii")


def test_the_uncompressed_model_may_be_what_goes_on():
    lines = lines_at(80, {**DOCUMENT, "chosen": "uncompressed", "prefer": "latency"})
    assert lines[1].startswith("◆  uncompressed") and lines[5].startswith("✓  4. quantize")
    assert "◆  uncompressed goes on: the fastest inside the budget" in lines


@pytest.mark.parametrize(
    ("share", "drawn", "plain"),
    [
        (1.0, "████", "####"),
        (0.5, "██  ", "##  "),
        (0.53, "██▏ ", "##  "),
        (0.0, "▏   ", "#   "),
        (1e-6, "▏   ", "#   "),
        (1.7, "████", "####"),
    ],
)
def test_a_bar_is_as_long_as_the_share_and_never_nothing(share, drawn, plain):
    assert draw_bar(share, 4, is_unicode=True) == drawn
    assert draw_bar(share, 4, is_unicode=False) == plain


def test_numbers_have_three_digits_and_a_unit():
    assert [size_text(count) for count in (96, 18_104, 214_320, 999_700, 46_827_520, 1.2e9)] == [
        "96 B", "18.1 kB", "214 kB", "1 MB", "46.8 MB", "1.2 GB",
    ]  # fmt: skip
    assert [time_text(ms) for ms in (0.0414, 0.9, 14.213, 1350.0)] == ["0.041 ms", "0.900 ms", "14.2 ms", "1.35 s"]
    assert [times_text(ratio) for ratio in (11.84, 9.96, 5.1, 0.999, 0.93)] == ["12x", "10x", "5.1x", "1.0x", "0.93x"]


def result_of(**artifacts):
    return {"status": "done", "endpoint": {}, "report": "/runs/a/report.html", "artifacts": artifacts}


def test_the_last_lines_of_a_run_have_the_table_in_a_log_too(tmp_path):
    (tmp_path / "compress.json").write_text(json.dumps(DOCUMENT))
    console = Console(file=io.StringIO(), width=80)
    conclude(console, result_of(compress=str(tmp_path)))
    lines = console.file.getvalue().splitlines()
    assert lines[0].split() == ["before", "/", "after", "size", "latency", "accuracy", "agrees"]
    assert lines[-1] == "report   /runs/a/report.html"
    assert "\x1b" not in console.file.getvalue()


def test_a_run_that_compressed_nothing_has_no_table(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    conclude(console, result_of(train=str(tmp_path)))
    conclude(console, result_of(compress=str(tmp_path)))
    assert console.file.getvalue().splitlines() == ["report   /runs/a/report.html"] * 2
