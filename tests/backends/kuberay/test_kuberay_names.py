"""Names fit DNS-1035 and the controller, whatever people type; two that differ stay two."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayml.backends.kuberay.names import LONGEST, percent_encoded, resource_name
from rayml.backends.kuberay.quantities import quantity, seconds

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
AWKWARD = [
    "digits-0123456789",
    "Größe überprüfen",
    "größe-uberprufen",
    "模型",
    "7-seven",
    "-",
    "",
    "x; rm -rf /",
    "$(id)",
    "`id`",
    "\"quoted\" and 'quoted'",
    "two\nlines",
    "a" * 300,
    "a" * 299 + "b",
    "a.b",
    "a-b",
    "A-B",
]


@pytest.mark.parametrize("kind", LONGEST)
@pytest.mark.parametrize("text", AWKWARD, ids=lambda text: text[:20])
def test_names_fit(text, kind):
    name = resource_name(text, kind)
    assert LABEL.fullmatch(name)
    assert len(name) <= LONGEST[kind]
    assert len(f"{name}-plan") <= 63


@pytest.mark.parametrize("kind", LONGEST)
def test_awkward_names_stay_apart(kind):
    assert len({resource_name(text, kind) for text in AWKWARD}) == len(AWKWARD)


@given(st.text(), st.text(), st.sampled_from(list(LONGEST)))
def test_any_text_is_a_name_and_two_are_two(one, other, kind):
    names = [resource_name(text, kind) for text in (one, other)]
    assert all(LABEL.fullmatch(name) and len(name) <= LONGEST[kind] for name in names)
    assert (names[0] == names[1]) == (one == other)


def test_a_name_stays_as_it_is():
    assert resource_name("digits-0123456789", "RayJob") == "digits-0123456789"
    assert re.fullmatch(r"gro-e-uberprufen-[0-9a-f]{8}", resource_name("Größe überprüfen", "RayJob"))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_percent_encoding_holds_nothing_that_a_shell_reads(text):
    assert re.fullmatch(r"[A-Za-z0-9%._~-]*", percent_encoded(text))
    assert unquote(percent_encoded(text)) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(8 * 2**30, "8Gi"), (512 * 2**20, "512Mi"), (3 * 2**10, "3Ki"), (1000, "1000"), (2**40, "1024Gi")],
)
def test_quantities(size, text):
    assert quantity(size) == text


def test_times_are_whole_seconds():
    assert [seconds(each) for each in (0.1, 1.4, 90.0)] == [1, 1, 90]
