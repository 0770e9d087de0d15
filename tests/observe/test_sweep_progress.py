"""What a person sees of a sweep while it runs: a table on terminals of several sizes, and lines in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rayml.observe import progress
from rayml.observe.progress import watch
from rayml.observe.sweep import SweepLog, best_first, error_line, pareto_front, short_names, value_text

STEPS = ["data", "tune", "train", "export"]
START = 1_700_000_000.0
ERROR = 'Traceback (most recent call last):\n  File "x.py", line 3, in größe\nRuntimeError: CUDA <out of memory>\n'
BUDGET = {"trials": 24, "wall_s": 600.0, "cpu_hours": None, "gpu_hours": None, "money": 2.0}
SCHEDULE = {"kind": "cosine", "warmup_steps": 20, "floor": 0.01, "cycles": 2}


def started(trial, t, attempt=1, **point):
    values = {"train.optimizer.lr": 0.001 * (trial + 1), "model.width": 8 * (trial + 1), **point}
    event = {"kind": "trial_started", "step": "tune", "trial": trial, "point": values, "origin": "draw"}
    return {**event, "node": "node-1a2b", "attempt": attempt, "t": START + t}


def epoch(trial, number, accuracy, t):
    values = {"val/accuracy": accuracy, "val/loss": 1 - accuracy}
    event = {"kind": "trial_epoch", "step": "tune", "trial": trial, "epoch": number, "epochs": 9}
    return {**event, "values": values, "t": START + t}


def ended(trial, t, status="done", reason="", error=None, **values):
    named = {name.replace("__", "/"): value for name, value in values.items()}
    event = {"kind": "trial_done", "step": "tune", "trial": trial, "status": status, "values": named, "epochs": 9}
    return {**event, "seconds": 3.4, "reason": reason, "error": error, "t": START + t}


def counts(t, running=1, **more):
    spent = {"wall_s": float(t), "cpu_hours": 0.02, "gpu_hours": 0.0, "money": 0.4, "trials": 3}
    event = {"kind": "sweep", "step": "tune", "running": running, "waiting": 2, "done": 2, "stopped": 1, "failed": 1}
    return {**event, "budget": BUDGET, "spent": spent, "nodes": 2, "cpus": 4.0, "t": START + t, **more}


BEGIN = [{"kind": "step_started", "step": "tune", "attempt": 1, "t": START}, counts(1)]
SWEEP = [
    *BEGIN,
    started(0, 1),
    epoch(0, 1, 0.81, 2),
    ended(0, 4, val__accuracy=0.91, size_bytes=40_500.0),
    started(1, 1),
    ended(1, 5, val__accuracy=0.97, size_bytes=126_600.0),
    started(2, 2, **{"train.schedule": SCHEDULE}),
    epoch(2, 1, 0.42, 3),
    ended(2, 3, status="stopped", reason="asha: rung of 1 epochs", val__accuracy=0.42),
    started(3, 3),
    ended(3, 4, status="failed", error=ERROR),
    started(4, 4),
    epoch(4, 1, 0.5, 5),
    epoch(4, 2, 0.66, 6),
    counts(6),
]


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


def live(clock, events, width=100, height=30, at=6.0, encoding="utf-8"):
    """The frame of the live view at `at` seconds after the start."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=width, height=height, force_terminal=True, color_system=None)
    clock.now = START
    watcher = watch(console, "digits-1", STEPS)
    for event in events:
        watcher.show(event)
    clock.now = START + at
    watcher.tick()
    with console.capture() as capture:
        console.print(watcher._draw())
    return [line.rstrip() for line in capture.get().splitlines()]


def cells(lines, number):
    """The words of a trial's row."""
    return next(line.split() for line in lines if f" {number} " in line[:8] or line[:8].split()[-1:] == [str(number)])


def test_the_table_stands_below_its_step_with_the_front_first_and_marked(clock):
    lines = live(clock, SWEEP)
    assert lines[2].split()[1] == "tune"
    assert lines[3] == "  trials 4 of 24, wall 9:54 left, CPU-hours 0.02, money 0.40 of 2"
    assert lines[4] == "  1 running, 2 waiting, 2 done, 1 stopped, 1 failed, 2 nodes, 4 CPUs"
    assert lines[5].split() == ["trial", "epoch", "val/accuracy", "size_bytes", "lr", "width"]
    assert [row.split()[:2] for row in lines[6:8]] == [["◆", "1"], ["◆", "0"]]
    assert [row.split()[0] for row in lines[8:11]] == ["4", "2", "3"]
    assert cells(lines, 4)[:6] == ["4", "●", "running", "2/9", "0.6600", "-"]
    assert cells(lines, 2)[:4] == ["2", "■", "stopped", "1/9"]
    assert lines[11:] == ["· train", "· export"]


def test_time_goes_on_between_two_events(clock):
    assert "wall 9:51 left" in live(clock, SWEEP, at=9)[3]
    assert "wall 9:54 left" in live(clock, [*SWEEP, counts(6, ended="24 trials")], at=9)[3]


@pytest.mark.parametrize("width", [140, 100, 80, 60, 45, 30])
def test_no_line_is_wider_than_the_terminal_and_no_cell_is_cut(clock, width):
    lines = live(clock, SWEEP, width=width)
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if "◆ 1" in line)
    assert "✓" in row
    for column in (
        ("0.9700",) if width < 45 else ("0.9700", "126.6 kB") if width < 60 else ("0.9700", "126.6 kB", "0.002")
    ):
        assert column in row


def test_a_wide_terminal_says_how_a_trial_failed(clock):
    assert any(line.endswith("RuntimeError: CUDA <out of memory>") for line in live(clock, SWEEP, width=170))


@pytest.mark.parametrize("height", [40, 24, 16])
def test_as_many_trials_as_fit_and_how_many_more(clock, height):
    many = [*BEGIN]
    for trial in range(30):
        many += [started(trial, trial), epoch(trial, 1, 0.3 + 0.02 * trial, trial)]
        if trial < 20:
            many.append(ended(trial, trial, val__accuracy=0.3 + 0.02 * trial))
    lines = live(clock, many, height=height)
    assert len(lines) < height
    shown = sum("● running" in line or "✓ done" in line for line in lines)
    if height == 40:
        assert shown == 30
    else:
        assert any(line.startswith(f"  and {30 - shown} more") for line in lines)
        assert len(lines) >= height - 2, "no line of the terminal is left unused"


def test_a_terminal_without_unicode_gets_plain_marks(clock):
    long = started(5, 5, **{"data.augment": "a very long name of a way to change pictures"})
    lines = live(clock, [*SWEEP, long], width=170, encoding="latin-1")
    "\n".join(lines).encode("latin-1")
    assert any(line.split()[:4] == [">", "1", "+", "done"] for line in lines)


def test_the_table_ends_with_the_step_and_the_decision_stays(clock):
    metrics = {
        "trials": 5,
        "done": 2,
        "stopped": 1,
        "failed": 1,
        "unfinished": 1,
        "epochs": 21,
        "best val/accuracy": 0.97,
    }
    done = {"kind": "step_done", "step": "tune", "seconds": 9.0, "metrics": metrics, "t": START + 9}
    lines = live(clock, [*SWEEP, done], width=120)
    assert lines[2].endswith("5 trials (2 done, 1 stopped, 1 failed, 1 unfinished), best val/accuracy 0.9700")
    assert lines[3] == "· train"
    decided = {"kind": "decided", "step": "tune", "trial": 1, "values": {}, "t": START + 9}
    decided |= {"objectives": {"val/accuracy": 0.97, "size_bytes": 126_600.0}, "why": "knee of the front of 2"}
    decided |= {"tied": [0], "interval": [0.93, 0.99]}
    text = " ".join(" ".join(live(clock, [*SWEEP, done, decided], width=120)).split())
    said = "trial 1, knee of the front of 2, val/accuracy 0.9700 [0.93, 0.99], size_bytes 126.6 kB, tied with 0"
    assert said in text


def test_a_log_gets_a_line_for_each_trial_that_ended_and_one_for_the_decision():
    console = Console(file=io.StringIO(), width=40)
    watcher = watch(console, "digits-1", STEPS)
    decided = {"kind": "decided", "step": "tune", "trial": 1, "values": {}, "objectives": {"val/accuracy": 0.97}}
    decided |= {"why": "best val/accuracy", "tied": [], "interval": None, "t": START + 9}
    for event in [*SWEEP, decided]:
        watcher.show(event)
    assert console.file.getvalue().splitlines() == [
        "run digits-1",
        "     tune  starts",
        "     tune  trial 0 done after 1 of 9 epochs in 3.4 s: "
        "val/accuracy 0.9100, size_bytes 40.5 kB, lr=0.001, width=8",
        "     tune  trial 1 done after 0 of 9 epochs in 3.4 s: "
        "val/accuracy 0.9700, size_bytes 126.6 kB, lr=0.002, width=16",
        "     tune  trial 2 stopped after 1 of 9 epochs in 3.4 s: val/accuracy 0.4200, lr=0.003, width=24, "
        "schedule=cosine warmup_steps=20 floor=0.01 ... (asha: rung of 1 epochs)",
        "     tune  trial 3 FAILED after 0 of 9 epochs in 3.4 s: lr=0.004, width=32 "
        "(RuntimeError: CUDA <out of memory>)",
        "     tune  decided: trial 1, best val/accuracy, val/accuracy 0.9700",
    ]


def test_a_trial_that_goes_on_after_a_failure_trains_its_epochs_again():
    log = SweepLog()
    for event in [
        started(0, 0),
        epoch(0, 1, 0.5, 1),
        epoch(0, 2, 0.6, 2),
        started(0, 9, attempt=2),
        epoch(0, 2, 0.7, 10),
    ]:
        log.take(event)
    trial = log.trials[0]
    assert [(row["epoch"], row["val/accuracy"]) for row in trial["epochs"]] == [(1, 0.5), (2, 0.7)]
    assert trial["attempts"] == 2
    assert [(span["started"] - START, span["ended"]) for span in trial["spans"]] == [(0, START + 2), (9, None)]


def test_nodes_are_a_row_at_each_change():
    log = SweepLog()
    for event in [counts(1), counts(2), counts(3, nodes=3), counts(4, nodes=3), counts(5)]:
        log.take(event)
    assert [(row["t"] - START, row["nodes"]) for row in log.nodes] == [(1, 2), (3, 3), (5, 2)]


def trial(number, status="done", **values):
    return {"number": number, "status": status, "values": {name.replace("__", "/"): v for name, v in values.items()}}


ACCURACY, SIZE = {"metric": "val/accuracy", "goal": "max"}, {"metric": "size_bytes", "goal": "min"}


def test_the_front_holds_what_no_other_trial_beats():
    trials = [
        trial(0, val__accuracy=0.9, size_bytes=10.0),
        trial(1, val__accuracy=0.9, size_bytes=11.0),
        trial(2, val__accuracy=0.95, size_bytes=20.0),
        trial(3, val__accuracy=0.95, size_bytes=20.0),
        trial(4, val__accuracy=0.94, size_bytes=30.0),
        trial(5, val__accuracy=float("nan"), size_bytes=1.0),
        trial(6, status="failed", val__accuracy=0.99, size_bytes=1.0),
        trial(7, val__accuracy=0.99),
    ]
    assert pareto_front(trials, [ACCURACY, SIZE]) == [0, 2]
    assert pareto_front(trials, [ACCURACY]) == [7]


def test_best_first_puts_trials_without_a_value_and_failed_ones_at_the_end():
    loss = {"metric": "val/loss", "goal": "min"}
    trials = [
        trial(0, status="failed", val__loss=0.1),
        trial(1, status="running"),
        trial(2, val__loss=0.4),
        trial(3, val__loss=0.2),
        trial(4, val__loss=float("inf")),
    ]
    assert [each["number"] for each in best_first(trials, [loss], [3])] == [3, 2, 1, 4, 0]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["train.optimizer.lr", "model.width"], ["lr", "width"]),
        (["model.dropout", "teacher.model.dropout", "seed"], ["model.dropout", "teacher.model.dropout", "seed"]),
        (["train.kind", "train.optimizer.kind"], ["train.kind", "optimizer.kind"]),
    ],
)
def test_keys_are_as_short_as_tells_them_apart(paths, names):
    assert list(short_names(paths).values()) == names


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00342198, "0.00342"),
        (True, "true"),
        (None, "null"),
        (48, "48"),
        ("größe", "größe"),
        ([1, 0.5], "[1, 0.5]"),
        ({"kind": "none"}, "none"),
        (SCHEDULE, "cosine warmup_steps=20 floor=0.01 ..."),
    ],
)
def test_a_value_is_shown_as_it_is_written(value, text):
    assert value_text(value) == text


def test_the_line_of_an_error_that_says_what_it_was():
    assert error_line(ERROR) == "RuntimeError: CUDA <out of memory>"
    assert error_line("the worker died\nits last lines:\n  x") == "the worker died"
    assert error_line(" \n") == ""
