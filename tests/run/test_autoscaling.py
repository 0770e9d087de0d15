"""Nodes come while work waits and go when none does, never more than the plan says; nothing is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from autoscaling import MOST, autoscaling_plan, nodes, until

from rayml.backends.local import session_members
from rayml.errors import BackendError
from rayml.run import autoscaling
from rayml.run.session import RECORD, clean_dead_runs

pytestmark = pytest.mark.ray

DRIVER = """
import signal, sys
from pathlib import Path
from autoscaling import autoscaling_plan, nodes, until
from rayml.observe.runs import RunFolder
from rayml.process import interrupt_on_signals
from rayml.run.session import Session

interrupt_on_signals()
folder = Path(sys.argv[1])
with RunFolder(folder).held():
    session = Session(autoscaling_plan(least=1, most=1), folder)
    try:
        session.start(lambda **_: None)
        until(lambda: len(nodes()) == 1, "the node")
        print("up", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        session.stop()
"""
"""A run's process: a head and one node, until it is told to end."""


def test_nodes_come_for_a_group_that_waits_and_go_when_idle(autoscaling_run):
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([{"CPU": 1}] * (1 + MOST))
    until(lambda: group.wait(0.1), "the group")
    assert len(nodes()) == MOST
    remove_placement_group(group)
    until(lambda: not nodes(), "the nodes to go")


def test_a_killed_node_is_replaced_and_there_are_never_more_than_the_most(autoscaling_run, tmp_path):
    import ray

    @ray.remote(num_cpus=1)
    def hold(number):
        (tmp_path / f"started-{number}").touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.1)
        return ray.get_runtime_context().get_node_id()

    def seen():
        found = nodes()
        counts.add(len(found))
        return found

    counts = set()
    work = [hold.remote(number) for number in range(4 * MOST)]
    until(lambda: seen() and len([*tmp_path.glob("started-*")]) == 1 + MOST, "work on each node")
    lost = min(seen())
    os.kill(raylet(autoscaling_run, lost), signal.SIGKILL)
    until(lambda: len(seen() - {lost}) == MOST, "another node")
    (tmp_path / "go").touch()
    assert lost not in ray.get(work)
    until(lambda: not seen(), "the nodes to go")
    assert max(counts) == MOST


def raylet(run_folder, node):
    """The process of a node."""
    for pid in session_members(head_session(run_folder)):
        if f"--node_id={node}" in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
            return pid
    raise AssertionError(f"no process of {node}")


def head_session(run_folder):
    return json.loads((run_folder / RECORD).read_text())["head"]


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
def test_nothing_is_left_when_the_driver_ends(tmp_path, end):
    run = tmp_path / "ended"
    with driver(run) as process:
        head = head_session(run)
        temporary = Path(json.loads((run / RECORD).read_text())["temporary"])
        assert len(raylets(head)) == 2
        process.send_signal(signal.Signals[end])
        process.wait()
    if end == "SIGTERM":
        assert process.returncode == 0
        assert not session_members(head)
    else:
        until(lambda: not session_members(head), "the cluster to follow its driver")
        clean_dead_runs(tmp_path / "next")
    assert not temporary.exists()
    assert not (run / RECORD).exists()
    assert len([*run.glob("logs/ray/session_*/raylet*.out")]) == 2


def test_the_next_run_ends_a_cluster_that_lost_driver_and_keeper(tmp_path):
    run = tmp_path / "killed"
    with driver(run) as process:
        head = head_session(run)
        os.kill(head, signal.SIGKILL)
        process.kill()
        process.wait()
    assert (run / RECORD).exists(), "nobody was left to clean up"
    clean_dead_runs(tmp_path / "next")
    until(lambda: not session_members(head), "the end of what was killed")
    assert not (run / RECORD).exists()


@contextlib.contextmanager
def driver(run_folder):
    """A process in which a session is up with its one node."""
    run_folder.mkdir()
    tests = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, run_folder],
        env={**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.kill()
        process.wait()


def raylets(session):
    return [pid for pid in session_members(session) if Path(f"/proc/{pid}/comm").read_text() == "raylet\n"]


@pytest.mark.parametrize(
    ("fault", "told"),
    [("refused", "ended with exit code 1 before it was up"), ("late", "was not up after 0 s")],
    ids=["refused", "late"],
)
def test_a_head_that_does_not_come_up_is_told_with_what_it_said(tmp_path, monkeypatch, fault, told):
    if fault == "late":
        monkeypatch.setattr(autoscaling, "START_TIMEOUT_S", 0.0)
    cluster = autoscaling_plan(object_store=1 if fault == "refused" else 2**28).cluster
    log = tmp_path / "logs" / "ray-head.log"
    head = autoscaling.AutoscalingHead(cluster, tmp_path, log)
    session = head.launch()
    try:
        with pytest.raises(BackendError, match=told) as error:
            head.join()
    finally:
        head.stop()
    assert error.value.exit_code == 5
    assert error.value.where == "this machine"
    assert str(log) in error.value.hint
    assert not session_members(session)


def test_ray_reads_the_nodes_as_the_plan_says_them():
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    cluster = autoscaling_plan(least=1, most=3, idle_s=10.0).cluster
    read = AutoscalingConfig(autoscaling.autoscaling_config(cluster, "127.0.0.1:6380"))
    node = read.get_node_type_configs()[autoscaling.NODE_TYPE]
    assert (node.min_worker_nodes, node.max_worker_nodes, node.resources["CPU"]) == (1, 3, 1)
    assert (read.get_max_num_worker_nodes(), read.get_idle_timeout_s()) == (3, 10.0)
