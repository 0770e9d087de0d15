"""Whatever stands in a job file, the loader answers with a job or with a SpecError that a person can use."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayml.errors import SpecError
from rayml.spec.base import CODE_REFERENCE, Fits
from rayml.spec.check import check_job
from rayml.spec.compress import Factorize, Prune
from rayml.spec.data import SplitSpec
from rayml.spec.fits import Slot, is_spec, slots_of
from rayml.spec.job import NAME, JobSpec
from rayml.spec.load import load_job
from rayml.spec.schedule import MultiStep, Warmup
from rayml.spec.searching import search_problems, with_search_as_sweep
from rayml.spec.serve import ReplicasSpec
from rayml.spec.sweep import sweep_problems
from rayml.spec.tune import KEY_PATH, RangeSpec

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
TEXTS = [path.read_bytes() for path in JOBS]
NEVER_SAID = re.compile(r"pydantic|Traceback|Input should|Value error|validation error|errors\.", re.IGNORECASE)

quick = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def load_bytes(content: bytes, overrides: tuple[str, ...] = ()) -> JobSpec | None:
    """The job, or None after the error has been looked at."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_bytes(content)
        try:
            return load_job(path, overrides, {})
        except SpecError as error:
            lines = content.count(b"\n") + content.count(b"\r") + 1
            for problem in error.problems:
                assert problem.file == str(path) or problem.file.startswith("--set ")
                assert problem.line is None or 1 <= problem.line <= lines
                assert problem.what.strip()
                assert len(problem.what) < 1000
                assert "\n" not in problem.what
            said = str(error).replace(str(path), "").encode("utf-8", "backslashreplace").decode()
            assert not NEVER_SAID.search(re.sub(r'"[^"]*"|`[^`]*`', "", said)), said
            return None


SNIPPETS = [
    *(b"", b" ", b"\n", b"\t", b":", b": ", b"- ", b"[", b"]", b"{", b"}", b"'", b'"', b"&a ", b"*a", b"!", b"!!str "),
    *(b"<<: ", b"%", b"@", b"#", b"|", b">", b"?", b"---\n", b"...", b"null", b"~", b"true", b".nan", b"-1", b"1e999"),
    *(
        b"9" * 400,
        b"${env:X}",
        b"$${env:X}",
        b"${env:",
        b"\xff",
        b"\x00",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b"\\x",
        b"x" * 300,
    ),
]


@quick
@given(st.data())
def test_bytes_put_anywhere(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(TEXTS)))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        length = data.draw(st.sampled_from([0, 0, 1, 2, 20]))
        content[start : start + length] = data.draw(st.sampled_from(SNIPPETS) | st.binary(max_size=3))
    load_bytes(bytes(content))


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def changed(value: Any, path: tuple[str | int, ...], change: Callable[[Any, str | int], None]) -> None:
    for key in path[:-1]:
        value = value[key]
    change(value, path[-1])


ODD_VALUES = [
    *(None, True, False, 0, -1, 3, 1.5, -1e-9, 10**30, 1e308, "", "auto", "none", "\x07", "a\nb", "größe", "x" * 500),
    *("${env:X}", [], {}, [[]], [None], {"kind": "adamw"}, {"kind": 3}, {"kind": None}, {"kind": []}, {"": {}}),
    *({"kind": "ddp", "ddp": 1}, [1, 2, 3], {"a": {"b": {"c": [1]}}}, {"0": 1}),
]


def rename(name: str) -> Callable[[Any, str | int], None]:
    def change(parent: Any, key: str | int) -> None:
        parent[name if isinstance(parent, dict) else key] = parent.pop(key) if isinstance(parent, dict) else name

    return change


def swap(odd: Any) -> Callable[[Any, str | int], None]:
    return lambda parent, key: parent.__setitem__(key, copy.deepcopy(odd))


def drop(parent: Any, key: str | int) -> None:
    del parent[key]


def nest(parent: Any, key: str | int) -> None:
    parent[key] = {"kind": parent[key]}


CHANGES = st.one_of(
    st.just(drop),
    st.just(nest),
    st.sampled_from(ODD_VALUES).map(swap),
    st.sampled_from(["kind", "lr", "trian", "", "größe", "[key]", "auto", "int", "adamw", "__class__"]).map(rename),
)


@quick
@given(st.data())
def test_values_and_keys_changed(data: st.DataObject) -> None:
    document = yaml.safe_load(data.draw(st.sampled_from(TEXTS)))
    for _ in range(data.draw(st.integers(1, 4))):
        targets = places(document)[1:]
        if not targets:
            break
        changed(document, data.draw(st.sampled_from(targets)), data.draw(CHANGES))
    load_bytes(json.dumps(document).encode())


PATHS = [
    *("seed", "train", "train.optimizer", "train.optimizer.kind", "model.hidden.0", "export.formats.0"),
    *("data.source.x.y", "serve"),
]
TYPED = ["{", "[]", "{kind: sgd}", "null", "*a", "&a 1", "'", "${env:X}"]
OVERRIDES = st.text(max_size=12) | st.builds(
    "{}={}".format, st.sampled_from(PATHS), st.text(max_size=8) | st.sampled_from(TYPED)
)


@quick
@given(st.lists(OVERRIDES, max_size=4))
def test_any_overrides(overrides: list[str]) -> None:
    load_bytes(TEXTS[0], tuple(overrides))


def valid(slots: list[Slot]) -> st.SearchStrategy[Any]:
    """Values that fit a place, in the form in which JSON has them."""
    return st.one_of([_valid_one(slot) for slot in slots])


def _valid_one(slot: Slot) -> st.SearchStrategy[Any]:
    limits = {
        name: getattr(each, name)
        for each in slot.constraints
        for name in ("ge", "gt", "le", "lt")
        if hasattr(each, name)
    }
    multiple = next((each.multiple_of for each in slot.constraints if isinstance(each, annotated_types.MultipleOf)), 1)
    patterns = [each.pattern for each in slot.constraints if hasattr(each, "pattern")]
    words = [each for each in slot.constraints if isinstance(each, Fits)]
    arguments = get_args(slot.type)
    if slot.type is ReplicasSpec:
        return st.tuples(st.integers(1, 9), st.integers(0, 9)).map(lambda pair: {"min": pair[0], "max": sum(pair)})
    if slot.type is SplitSpec:
        return st.sampled_from([{"train": 0.5, "val": 0.25, "test": 0.25}, {"train": 0.8, "stratify": "none"}])
    if slot.type is Warmup:
        return st.sampled_from([{"epochs": 1.5}, {"steps": 3, "start_factor": 0.5}, {"fraction": 0.1}])
    if slot.type is Prune:
        ways = [{"structured": 0.4}, {"unstructured": 0.5}, {"pattern": "2:4", "keep": ["network.0"]}]
        return st.sampled_from([{"kind": "prune", **way} for way in ways])
    if slot.type is Factorize:
        return st.sampled_from([{"kind": "factorize", "energy": 0.9}, {"kind": "factorize", "rank": 0.5}])
    if slot.type is RangeSpec:
        return st.sampled_from([{"choice": [16, 32]}, {"uniform": [0.0, 0.5], "step": 0.1}, {"log_integer": [8, 64]}])
    if any(each.words == "a time such as `10m`" for each in words):
        return st.sampled_from(["90s", "10m", "1.5h"])
    if slot.type is MultiStep:
        return st.sampled_from([{"kind": "multi_step", "at_epochs": [2.0, 3.5]}])
    if is_spec(slot):
        fields = {
            name: valid(slots_of(field.annotation, field.metadata)) for name, field in slot.type.model_fields.items()
        }
        needed = {name for name, field in slot.type.model_fields.items() if field.is_required() or name == "kind"}
        return st.fixed_dictionaries(
            {name: fields[name] for name in fields if name in needed},
            optional={name: fields[name] for name in fields if name not in needed},
        )
    if get_origin(slot.type) is Literal:
        return st.sampled_from(arguments)
    if get_origin(slot.type) is dict:
        return st.dictionaries(valid(slots_of(arguments[0])), valid(slots_of(arguments[1])), min_size=1, max_size=3)
    if get_origin(slot.type) is tuple and arguments[-1] is Ellipsis:
        # Each word once, as `export.formats` asks for.
        words = get_origin(arguments[0]) is Literal
        return st.lists(valid(slots_of(arguments[0])), min_size=1, max_size=3, unique=words)
    if get_origin(slot.type) is tuple:
        return st.tuples(*[valid(slots_of(argument)) for argument in arguments]).map(list)
    if slot.type is bool:
        return st.booleans()
    if slot.type is int:
        low = limits.get("ge", limits.get("gt", -(10**6)) + 1)
        return st.integers(low, max(low, limits.get("le", limits.get("lt", low + 10**6 + 1) - 1))).map(
            lambda n: n // multiple * multiple
        )
    if slot.type is float:
        low, high = limits.get("ge", limits.get("gt", -1e6)), limits.get("le", limits.get("lt", 1e300))
        return st.floats(low, high, exclude_min="gt" in limits, exclude_max="lt" in limits)
    if patterns and words:
        return st.sampled_from(
            {
                NAME: ["a", "run-7"],
                CODE_REFERENCE: ["m:f", "a.b:größe_2"],
                KEY_PATH: ["model.width", "train.optimizer.lr", "train.nothing"],
            }.get(patterns[0], [">= 0.5", "<1e-3"])
        )
    text = st.text(min_size=1, max_size=8) | st.sampled_from(
        ["1e-3", "yes", "007", "null", "${env:X}", "$${env:X}", "a: b # c"]
    )
    return (
        text
        if slot.type is str
        else text | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
    )


def escaped(value: Any) -> Any:
    """The same with `${env:` written as `$${env:`, so that it stays text."""
    if isinstance(value, dict):
        return {key: escaped(child) for key, child in value.items()}
    if isinstance(value, list):
        return [escaped(child) for child in value]
    return value.replace("${env:", "$${env:") if isinstance(value, str) else value


class QuotingDumper(yaml.SafeDumper):
    """Quotes every text, as plain text is read by the YAML 1.2 core schema and PyYAML writes 1.1."""


QuotingDumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(document=valid([Slot(JobSpec)]))
def test_a_job_written_and_read_is_the_same_job(document: dict[str, Any]) -> None:
    job = JobSpec.model_validate(document)
    text = yaml.dump(escaped(job.model_dump(mode="json")), Dumper=QuotingDumper)
    loaded = load_bytes(text.encode())
    whole = with_search_as_sweep(job)
    refused = check_job(job) or search_problems(job) or sweep_problems(whole)
    assert loaded == (None if refused else whole)
