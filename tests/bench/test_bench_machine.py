"""Counting the processor time of real processes, in coarse bounds only; the gate between a bench and its trainers."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from rayml.bench.command import run_command
from rayml.bench.gate import Gate, Keeper, make_gate
from rayml.bench.machine import Tree, read_processes, system_times
from rayml.bench.player import Player
from rayml.errors import StageError

SPIN = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\n"
NEST = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {SPIN!r}])\n"
IGNORE = "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"


@pytest.mark.parametrize("program", [SPIN, NEST, IGNORE + NEST], ids=["itself", "grandchild", "not waited for"])
def test_processor_time_of_a_whole_tree(program):
    """0.4 s are used, by whomever; what nobody waits for is seen at every 0.2 s, so some of it may be missed."""
    finished = run_command([sys.executable, "-c", program])
    assert 0.15 < finished.cpu_s < 1.5
    assert finished.seconds > 0.3


def test_a_command_that_fails_says_its_last_words():
    with pytest.raises(StageError, match="exit code 3") as failed:
        run_command([sys.executable, "-c", "import sys\nprint('größer als erlaubt')\nsys.exit(3)"])
    assert "größer als erlaubt" in failed.value.hint


def test_a_command_that_takes_too_long_is_ended():
    with pytest.raises(StageError, match=r"took more than 0\.3 s"):
        run_command([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.3)


def test_what_a_command_leaves_running_is_ended(tmp_path):
    left = tmp_path / "pid"
    start = f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {sleeper(3)!r}])\n"
    run_command(
        [sys.executable, "-c", f"{start}open({str(left)!r}, 'w').write(str(child.pid))\nimport time\ntime.sleep(1)"]
    )
    process = read_processes().get(int(left.read_text()))
    assert process is None or process.state == "Z"


def sleeper(seconds):
    return f"import time; time.sleep({seconds})"


def test_a_stopped_tree_uses_no_time():
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", "while True: pass"])
    tree = Tree(pid)
    try:
        tree.signal(signal.SIGSTOP)
        time.sleep(0.05)
        before = tree.look()
        time.sleep(0.3)
        assert tree.look() - before <= 0.02
        assert tree.living() == {pid}
    finally:
        tree.signal(signal.SIGKILL)
        os.waitpid(pid, 0)


def test_system_times_add_up():
    times = system_times()
    assert 0 < times.busy_s <= times.total_s
    assert (times - times).total_s == 0


def test_a_gate_hands_over_whole_laps_and_waits(tmp_path):
    make_gate(tmp_path)
    keeper = Keeper(tmp_path)
    passed = []

    def train():
        gate = Gate(str(tmp_path), epochs_per_lap=2)
        for epoch in range(4):
            gate.epoch({"loss": epoch})
            passed.append(epoch)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    assert keeper.records(5.0) == [{"loss": 0}, {"loss": 1}]
    assert passed == [0], "it waits behind the first lap"
    assert keeper.records(0.05) is None
    keeper.open()
    assert keeper.records(5.0) == [{"loss": 2}, {"loss": 3}]
    keeper.open()
    thread.join(5.0)
    assert passed == [0, 1, 2, 3]
    keeper.close()


TRAINER = """
import sys
from rayml.bench.gate import Gate
gate = Gate(sys.argv[1], 1)
for epoch in range(3):
    gate.epoch({"loss": 1.0 / (epoch + 1)})
"""


def test_a_player_runs_lap_by_lap(tmp_path):
    with Player(
        "trainer", [sys.executable, "-c", TRAINER, str(tmp_path)], tmp_path, rows=100, environment={}
    ) as player:
        laps = [player.lap() for _ in range(3)]
    assert [lap.proof for lap in laps] == [[{"loss": 1.0}], [{"loss": 0.5}], [{"loss": 1.0 / 3}]]
    assert all(lap.value > 0 for lap in laps)


def test_a_player_that_dies_says_its_last_words(tmp_path):
    program = "import sys\nsys.exit('kein Speicher für den Stapel')"
    player = Player("trainer", [sys.executable, "-c", program], tmp_path, rows=1, environment={})
    with pytest.raises(StageError, match="ended with exit code 1") as failed, player:
        player.lap()
    assert "kein Speicher für den Stapel" in failed.value.hint
