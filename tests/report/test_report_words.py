"""Numbers as a person reads them, and the scales of the charts."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rayml.report import svg, words

TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.98333, "0.9833"),
        (0.0, "0"),
        (1797.0, "1,797"),
        (1.19e-7, f"1.2 {TIMES} 10⁻⁷"),
        (-0.25, "-0.2500"),
        (None, "\N{EN DASH}"),
    ],
)
def test_number(value, text):
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-4, "10⁻⁴"),
        (9.99e-5, "10⁻⁴"),
        (1.8e-7, f"1.8 {TIMES} 10⁻⁷"),
        (3e5, f"3 {TIMES} 10⁵"),
        (0, "0"),
        (-2e-3, f"-2 {TIMES} 10⁻³"),
    ],
)
def test_power(value, text):
    assert words.power(value) == text


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.98333, 1, "98.3 %"),
        (1.0, 1, "100 %"),
        (0.0, 0, "0 %"),
        (0.99999, 1, "> 99.9 %"),
        (0.0004, 0, "< 1 %"),
        (0.004, 1, "0.4 %"),
        (None, 1, "\N{EN DASH}"),
    ],
)
def test_percent(share, digits, text):
    assert words.percent(share, digits) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.416, "0.42 s"), (48.12, "48.1 s"), (192, "3 min 12 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_duration(seconds, text):
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (96234, "96.2 kB"), (5_300_000_000_000, "5.3 TB")]
)
def test_size(count, text):
    assert words.size(count) == text


def test_bound_and_names():
    assert words.bound(">= 0.95") == "≥ 0.95"
    assert words.bound("<= 1e-05") == "≤ 10⁻⁵"
    assert words.bound(">0.5") == "> 0.5"
    assert words.metric_name("f1_macro") == "F1, macro"
    assert words.metric_name("roc_auc") == "ROC AUC"
    assert words.metric_name("accuracy") == "Accuracy"


def test_settings_are_dotted_paths():
    tree = {"a": {"b": 2e-3, "c": [1, 2]}, "d": None, "e": [{"f": True}], "g": {}, "h": "ä" * 400}
    rows = dict(words.flatten(tree))
    assert rows["h"] == "ä" * (words.VALUE_CHARS - 1) + "…"
    del rows["h"]
    assert rows == {"a.b": "0.002", "a.c": "[1, 2]", "d": "none", "e[0].f": "true", "g": "{}"}


@pytest.mark.parametrize(
    ("low", "high"), [(0, 2.3), (0.611, 0.998), (0.5, 0.5), (0, 0), (-3, 7e6), (1e-9, 3e-9), (0.9999, 1)]
)
def test_ticks_are_few_round_and_hold_the_values(low, high):
    ticks = svg.nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12
    texts = [svg.tick_text(tick, ticks) for tick in ticks]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("last", [1, 2, 8, 9, 15, 100, 999, 100_000])
def test_epoch_ticks_start_at_the_first_epoch_and_are_few(last):
    ticks = svg.epoch_ticks(1, last)
    assert ticks[0] == 1 and ticks == sorted(set(ticks)) and len(ticks) <= 10 and ticks[-1] <= last


def test_names_of_curves_do_not_overlap():
    heights = svg.spread([50.0, 52.0, 20.0, 51.0], 14)
    placed = sorted(heights)
    assert all(below - above >= 14 for above, below in pairwise(placed))
    assert heights[2] == 20


@pytest.mark.parametrize(
    ("whole", "shown"),
    [
        ("0123456789abcdef" * 4, "0123456789ab"),
        (f"registry.example:5000/team/rayml@sha256:{'ab' * 32}", "rayml@abababababab"),
        (f"rayml@sha256:{'ab' * 32}", "rayml@abababababab"),
        ("my-image:latest", "my-image:latest"),
        ("", ""),
    ],
)
def test_a_digest_is_shortened_and_nothing_else_is(whole, shown):
    assert words.short(whole) == shown


def test_a_time_that_is_none_stays_as_it_was_written():
    assert words.stamp("2026-11-21T23:26:41.512+00:00") == "21 Nov 2026, 23:26 UTC"
    assert words.stamp("yesterday") == "yesterday"
