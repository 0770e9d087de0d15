"""Three hundred texts with secrets through everything that says something: nothing of a secret comes out."""

from __future__ import annotations

import io
import json
import logging
import pickle
import subprocess
import sys
import traceback

import pytest
from secret_table import CASES, KINDS, RAY_TOKEN, SERVE_KEY, leaks

from rayml.backends.ray.client import JobsClient
from rayml.backends.ray.token import find_token
from rayml.errors import BackendError, Problem, RaymlError, SpecError, StageError, error_from_json
from rayml.lint.finding import harmless
from rayml.observe.events import EventLog
from rayml.redact.shapes import SHAPES
from rayml.redact.streams import Guarded
from rayml.redact.text import cleaned, redacted
from rayml.redact.values import remember
from rayml.run.records import summary
from rayml.spec.words import show


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", RAY_TOKEN)
    monkeypatch.setenv("RAYML_KEY", SERVE_KEY)


def leaking(say, cases=CASES):
    """The cases of which `say(text)` tells something."""
    return {name: said[:300] for name, (text, secrets) in cases.items() if leaks(said := say(text), secrets)}


def test_there_are_enough_of_them():
    assert len(KINDS) >= 40
    assert len(CASES) >= 200
    assert leaking(lambda text: text) == {name: text[:300] for name, (text, _) in CASES.items()}, "the probe sees each"


def logged(text):
    """What a logger with a handler on a guarded stream writes for it, as message, argument and exception."""
    stream = io.StringIO()
    handler = logging.StreamHandler(Guarded(stream))
    logger = logging.Logger("user")
    logger.addHandler(handler)
    logger.warning(text)
    logger.error("refused: %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("failed")
    handler.flush()
    return stream.getvalue()


def traced(text):
    """The traceback of a user's exception inside one of ours, as a rank prints it: line by line."""
    stream = io.StringIO()
    guard = Guarded(stream)
    try:
        try:
            raise KeyError(text)
        except KeyError as error:
            raise StageError(f"the function raised {error}", where=text, hint=text) from error
    except StageError:
        traceback.print_exc(file=guard)
    guard.flush()
    return stream.getvalue()


def in_pieces(text):
    """Written three characters at a time, as progress bars do, and in the middle of a line."""
    stream = io.StringIO()
    guard = Guarded(stream)
    for at in range(0, len(text), 3):
        guard.write(text[at : at + 3])
    guard.flush()
    return stream.getvalue()


def error_said(text):
    error = StageError(text, where=text, hint=text)
    return " ".join([str(error), repr(error), json.dumps(error.to_json()), str(error.args)])


def error_carried(text):
    """From a worker to the driver, and through the event log."""
    error = pickle.loads(pickle.dumps(RaymlError(text, where=text)))
    again = error_from_json(json.loads(json.dumps(error.to_json())))
    return f"{error} {again} {pickle.dumps(error).decode('latin-1')}"


def spec_error_said(text):
    error = SpecError([Problem(f"{text}.yaml", 3, text, text)])
    return f"{error} {json.dumps(error.to_json())} {pickle.dumps(error).decode('latin-1')}"


def shown(text):
    """Cut in the middle, in the sentence about a wrong value."""
    return f"{show(text)} {harmless(text)} {show({'a': [text]})}"


CHANNELS = {
    "redacted": redacted,
    "twice": lambda text: redacted(redacted(text)),
    "logger": logged,
    "traceback": traced,
    "pieces": in_pieces,
    "error": error_said,
    "error in pickle and JSON": error_carried,
    "problem of a file": spec_error_said,
    "sentence about a value": shown,
    "document": lambda text: json.dumps(cleaned({"a": [text, {"b": (text,)}], text: 1})),
    "metric labels": lambda text: str(cleaned({"run": text, "node": text, "path": text})),
    "tracker parameters": lambda text: str(cleaned({"data.source.args.where": text, "note": text, "lr": 0.1})),
}


@pytest.mark.parametrize("channel", CHANNELS)
def test_nothing_of_a_secret_comes_out(channel):
    assert leaking(CHANNELS[channel]) == {}


def test_events_and_what_is_read_from_them(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for number, (text, _) in enumerate(CASES.values()):
        log.emit("note", step="train", text=text, fields={"n": number, text: [text]})
    log.emit(
        "run_done", status="failed", exit_code=4, error={"what": next(iter(CASES.values()))[0], "where": ""}, seconds=1
    )
    log.close()
    said = (tmp_path / "events.jsonl").read_text()
    assert leaking(lambda _: said) == {}
    assert '"n": 17' in said


def test_a_value_beside_a_secret_name_in_an_event(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.emit(
        "decided",
        values={"db_password": "correct horse", "token": "hunter2", "max_new_tokens": 5, "pad_token": "<pad>"},
    )
    values = json.loads((tmp_path / "events.jsonl").read_text())["values"]
    assert values == {"db_password": "(hidden)", "token": "(hidden)", "max_new_tokens": 5, "pad_token": "<pad>"}


def test_status_and_report_of_a_run(tmp_path, monkeypatch):
    from secret_run import failed_run

    texts = [text for text, _ in CASES.values()]
    run, kept, store = failed_run(tmp_path, texts)
    from rayml.report.page import write_report
    from rayml.run.result import summarize

    page = write_report(run.path, store)
    said = json.dumps([summary(run, kept), summarize(run, store, page)])
    said += page.read_text() + (run.path / "report.json").read_text()
    assert leaking(lambda _: said) == {}


def test_a_driver_and_its_log(tmp_path):
    """A process as rayml.run.entry starts it: output, warnings, loggers and the exception that it dies of."""
    (tmp_path / "texts.json").write_text(json.dumps([text for text, _ in CASES.values()]))
    program = (
        "from rayml.redact.streams import guard_output\nguard_output()\n"
        "import json, logging, sys, warnings\n"
        "logging.basicConfig(level=logging.INFO)\n"
        f"texts = json.load(open({str(tmp_path / 'texts.json')!r}))\n"
        "for text in texts:\n    print(text)\n    logging.info(text)\n"
        "    warnings.warn(text)\n    sys.stderr.write(text)\n"
        "    print(file=sys.stderr)\n"
        "raise ValueError('\\n'.join(texts))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "ValueError" in done.stderr
    assert leaking(lambda _: done.stdout + done.stderr) == {}
    assert done.stdout.count("(hidden)") >= len(KINDS)


def test_a_rank_and_its_log(tmp_path):
    """A rank whose user code fails: its own log has the traceback, without what the code was given."""
    (tmp_path / "texts.json").write_text(json.dumps([text for text, _ in CASES.values()]))
    program = (
        "import json, pathlib, traceback\nfrom rayml.stages.train.rank import log_to_file\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\nlog_to_file(folder, 0)\n"
        "for text in json.loads((folder / 'texts.json').read_text()):\n    print(text)\n"
        "    try:\n        raise ValueError(text)\n    except ValueError:\n        traceback.print_exc()\n"
    )
    subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120, check=True)
    said = (tmp_path / "train-rank-0.log").read_text()
    assert said.count("ValueError") >= len(CASES)
    assert leaking(lambda _: said) == {}


def test_the_tail_of_a_ranks_log_in_an_error(tmp_path):
    from rayml.stages.train.failures import explain

    def say(text):
        (tmp_path / "train-rank-0.log").write_text(f"{text}\n")
        return str(explain({0: ValueError(text)}, 1, tmp_path))

    assert leaking(say) == {}


def test_a_private_key_that_never_ends_does_not_silence_a_process():
    stream = io.StringIO()
    guard = Guarded(stream)
    guard.write("before\n-----BEGIN RSA PRIVATE KEY-----\n")
    for _ in range(400):
        guard.write("MIIEow" * 10 + "\n")
    guard.write("after\n")
    said = stream.getvalue()
    assert said.startswith("before\n(hidden)")
    assert said.endswith("after\n")


def test_a_token_of_a_file_is_hidden_once_it_was_read(tmp_path):
    token = "plain-words-only-as-a-token"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(token)
    assert token in redacted(f"a {token} b")
    assert find_token({}, tmp_path) == token
    assert redacted(f"a {token} b") == "a (hidden) b"


def test_a_head_that_answers_with_the_token_does_not_get_it_into_an_error(monkeypatch):
    """A proxy that shows the request in its error page."""
    client = JobsClient("http://head.example.org:8265", RAY_TOKEN)
    monkeypatch.setattr(client, "_ask", lambda *_: (502, f"bad gateway: Authorization: Bearer {RAY_TOKEN}".encode()))
    with pytest.raises(BackendError, match="answered with 502") as caught:
        client.jobs()
    assert RAY_TOKEN[:12] not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MY_PASSWORD", "tr0ub4dor&3-horse", "value tr0ub4dor&3-horse"),
        ("MY_PASSWORD", "tr0ub4dor&3-horse", "value tr0ub4dor%263-horse in a URL"),
        ("MY_PASSWORD", 'quoted"secret\\value', 'json "quoted\\"secret\\\\value"'),
        ("MY_PASSWORD", "größe-und-länge", 'json "gr\\u00f6\\u00dfe-und-l\\u00e4nge"'),
        ("MY_PASSWORD", "tr0ub4dor&3-horse", "base64 dHIwdWI0ZG9yJjMtaG9yc2U="),
        ("DATABASE", "postgres://app:onlyletters@db/x", "the password is onlyletters"),
        ("S3_SECRET_KEY", "onlyletters", "the password is onlyletters"),
    ],
    ids=range(7),  # pytest puts the id of a test into the environment
)
def test_what_the_environment_holds_is_hidden_in_every_form(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    assert "(hidden)" in redacted(said)
    monkeypatch.delenv(name)
    assert redacted(said) == said


def test_short_and_ordinary_values_are_left_alone(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "digits")
    monkeypatch.setenv("API_TOKEN", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/user/.ray/auth_token")
    remember("short")
    remember(None)
    text = "digits is disabled, see /home/user/.ray/auth_token, in short"
    assert redacted(text) == text


def test_the_table_has_each_kind_once_with_anchors_that_fit():
    assert len({shape.pattern for shape in SHAPES}) == len(SHAPES) >= 50
    for shape in SHAPES:
        assert shape.anchors and all(anchor == anchor.lower() for anchor in shape.anchors)
