"""How a run is closed whose process ended by itself, was killed, or was asked to stop at a bad moment."""

from __future__ import annotations

import pytest

from rayml.observe.events import EventLog
from rayml.observe.runs import RunFolder
from rayml.run.launch import close_events


def ends(tmp_path, before, *, asked_to_stop, exit_code=-9):
    run = RunFolder(tmp_path)
    log = EventLog(run.events_path)
    log.emit("run_started")
    if before is not None:
        log.emit("run_done", status=before, exit_code={"done": 0, "failed": 1, "interrupted": 130}[before], error=None)
    log.close()
    close_events(run, exit_code, asked_to_stop=asked_to_stop)
    return [event for event in run.events() if event["kind"] == "run_done"]


def test_a_process_that_was_killed_is_a_failure_with_a_place_to_look(tmp_path):
    (end,) = ends(tmp_path, None, asked_to_stop=False)
    assert (end["status"], end["exit_code"], end["error"]["type"]) == ("failed", 4, "StageError")
    assert "exit code -9" in end["error"]["what"]
    assert "driver.log" in end["error"]["hint"]


@pytest.mark.parametrize("before", [None, "failed", "interrupted"])
def test_a_process_that_was_asked_to_stop_did_not_fail_whatever_it_said(tmp_path, before):
    end = ends(tmp_path, before, asked_to_stop=True)[-1]
    assert (end["status"], end["exit_code"], end["error"]) == ("interrupted", 130, None)


@pytest.mark.parametrize(("before", "asked"), [("done", True), ("done", False), ("failed", False)])
def test_what_the_process_said_stands(tmp_path, before, asked):
    assert [end["status"] for end in ends(tmp_path, before, asked_to_stop=asked)] == [before]
