"""What a person sees of a run: drawn from events, on a terminal of 100 and of 60 columns, and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rayml.observe import progress
from rayml.observe.progress import conclude, watch

STEPS = ["data", "train", "export"]
START = 1_700_000_000.0
EPOCH = {
    "kind": "epoch",
    "step": "train",
    "epochs": 4,
    "val/loss": 0.25,
    "val/accuracy": 0.9125,
    "samples_per_s": 9876.5,
}
BEFORE = [
    {"kind": "note", "step": "data", "text": "starts Ray", "t": START},
    {"kind": "step_started", "step": "data", "attempt": 1, "t": START + 4},
    {"kind": "step_done", "step": "data", "seconds": 3.4, "metrics": {"rows": 1797, "classes": 10}, "t": START + 7.4},
    {"kind": "step_started", "step": "train", "attempt": 1, "t": START + 8},
    {"kind": "note", "step": "train", "text": "starting 2 workers", "t": START + 8},
]


def epoch(number, t):
    return {**EPOCH, "epoch": number, "train/loss": 1 / number, "t": START + t}


def middle(number, batch, t):
    event = {"kind": "progress", "step": "train", "epoch": number, "epochs": 4, "batch": batch, "batches": 10}
    return {**event, "loss": 0.5, "samples_per_s": 10.0, "t": START + t}


@pytest.fixture
def clock(monkeypatch):
    """The watcher's clock, which stands still until a test moves it."""

    class Clock:
        now = START

        def time(self):
            return self.now

    still = Clock()
    monkeypatch.setattr(progress, "time", still)
    return still


def live(clock, events, width=100, at=0.0, encoding="utf-8"):
    """The last frame of the live view at `at` seconds after the start."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=width, height=30, force_terminal=True, color_system=None)
    clock.now = START
    watcher = watch(console, "digits-1", STEPS)
    for event in events:
        watcher.show(event)
    clock.now = START + at
    watcher.tick()
    with console.capture() as capture:
        console.print(watcher._draw())
    return [line.rstrip() for line in capture.get().splitlines()]


def test_before_the_first_epoch_it_says_what_is_waited_for(clock):
    lines = live(clock, BEFORE, at=20)
    assert lines[0] == "run digits-1  0:20"
    assert lines[1] == "✓ data        3.4 s 1,797 rows, 10 classes"
    assert lines[2].endswith(" train      12.0 s starting 2 workers")
    assert lines[3] == "· export"


def test_ray_starts_in_the_row_that_waits_for_it_and_does_not_count(clock):
    assert live(clock, BEFORE[:1], at=3)[1].endswith(" data        3.0 s starts Ray")
    assert live(clock, BEFORE[:2], at=5)[1].endswith(" data        1.0 s")


def test_training_shows_epoch_step_loss_speed_and_time_left(clock):
    lines = live(clock, [*BEFORE, epoch(1, 20), epoch(2, 30), middle(3, 5, 35)], at=36)
    assert " train      28.0 s epoch 3/4 step 5/10 " in lines[2]
    assert lines[2].endswith("0:14 left"), "15 s per 1.5 epochs from the last event on, and one second has passed"
    assert lines[3].strip() == "loss 0.5000  val/loss 0.2500  val/accuracy 0.9125  10 samples/s"


def test_the_time_left_is_not_guessed_from_one_event_and_never_below_zero(clock):
    assert "left" not in live(clock, [*BEFORE, epoch(1, 20)], at=21)[2]
    assert live(clock, [*BEFORE, epoch(1, 20), epoch(3, 40)], at=99)[2].endswith("0:00 left")


def test_a_resumed_training_counts_from_where_it_went_on(clock):
    lines = live(clock, [*BEFORE, middle(3, 5, 10), epoch(3, 15)], at=15)
    assert lines[2].endswith("0:10 left")


@pytest.mark.parametrize("width", [100, 60, 45])
def test_nothing_is_wider_than_the_terminal_and_no_number_is_cut(clock, width):
    lines = live(clock, [*BEFORE, epoch(1, 20), middle(2, 5, 30)], width=width, at=31)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for part in ("epoch 2/4", "loss 0.5000", "val/loss 0.2500", "val/accuracy 0.9125", "10 samples/s", "left"):
        assert part in text, f"{part} is broken over two lines"


def test_a_terminal_without_unicode_gets_plain_marks(clock):
    lines = live(clock, BEFORE[:3], encoding="latin-1")
    assert lines[1].startswith("+ data")
    "\n".join(lines).encode("latin-1")


def test_what_was_running_when_it_ended_is_marked_as_stopped(clock):
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with watch(console, "digits-1", STEPS) as watcher:
        for event in [*BEFORE, epoch(1, 20)]:
            watcher.show(event)
        watcher.stop()
        assert "digits-1  stopping" in console.file.getvalue()
    assert "■ train" in console.file.getvalue().rpartition("digits-1")[2]


def test_a_log_gets_one_line_a_thing_and_a_sign_of_life_from_a_long_epoch():
    console = Console(file=io.StringIO(), width=40)
    watcher = watch(console, "digits-1", STEPS)
    for event in [*BEFORE, *[middle(1, batch, 10 * batch) for batch in range(1, 10)], epoch(1, 100)]:
        watcher.show(event)
    watcher.stop()
    assert console.file.getvalue().splitlines() == [
        "run digits-1",
        "     data  starts Ray",
        "     data  starts",
        "     data  done in 3.4 s: 1,797 rows, 10 classes",
        "    train  starts",
        "    train  starting 2 workers",
        "    train  epoch 1/4, step 4/10: loss 0.5000, 10 samples/s",
        "    train  epoch 1/4, step 7/10: loss 0.5000, 10 samples/s",
        "    train  epoch 1/4: train/loss 1.0000, val/loss 0.2500, val/accuracy 0.9125, 9,876 samples/s",
        "           stopping",
    ]


def test_a_label_with_brackets_is_text_and_the_last_lines_are_not_broken():
    console = Console(file=io.StringIO(), width=40)
    example = {"sample_id": 12345678901234567, "label": "[red]größe[/]", "probability": 0.5}
    conclude(console, {"status": "done", "endpoint": {"example": example}, "report": "/a/" + "b" * 60})
    lines = console.file.getvalue().splitlines()
    assert lines[0].endswith("sample 12345678901234567 is [red]größe[/] with probability 0.5000")
    assert lines[1] == "report   /a/" + "b" * 60
