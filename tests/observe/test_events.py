"""The event log: appended from several threads, readable while it grows, and after a crash."""

from __future__ import annotations

import threading

from rayml.observe.events import EventLog, EventReader, read_events


def test_what_is_emitted_is_read_in_order(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.emit("note", step="data", text="Zeile mit Umlaut: ä\nund Umbruch")
    log.emit("progress", loss=0.25)
    events = read_events(path)
    assert [event["kind"] for event in events] == ["note", "progress"]
    assert events[0]["text"] == "Zeile mit Umlaut: ä\nund Umbruch"
    assert events[0]["t"] <= events[1]["t"]


def test_a_line_cut_short_by_a_crash_is_left_out_and_a_later_run_appends(tmp_path):
    path = tmp_path / "events.jsonl"
    EventLog(path).emit("one")
    with path.open("ab") as stream:
        stream.write(b'{"t": 1, "kind": "tw')
    assert [event["kind"] for event in read_events(path)] == ["one"]
    with path.open("ab") as stream:
        stream.write(b"\n")
    EventLog(path).emit("three")
    assert [event["kind"] for event in read_events(path)] == ["one", "three"]


def test_a_reader_gives_each_event_once(tmp_path):
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    assert list(reader.new()) == []
    log = EventLog(path)
    log.emit("one")
    assert [event["kind"] for event in reader.new()] == ["one"]
    assert list(reader.new()) == []
    log.emit("two")
    assert [event["kind"] for event in reader.new()] == ["two"]


def test_threads_do_not_mix_their_lines(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    threads = [
        threading.Thread(target=lambda n=n: [log.emit("x", n=n, i=i, pad="y" * 500) for i in range(50)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = read_events(path)
    assert len(events) == 400
    assert {(event["n"], event["i"]) for event in events} == {(n, i) for n in range(8) for i in range(50)}
