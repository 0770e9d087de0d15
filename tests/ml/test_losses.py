"""The losses, held to torch's and torchvision's."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from rayml.errors import StageError
from rayml.ml import tasks
from rayml.ml.losses import build_loss, class_weights
from rayml.spec.loss import Loss

CLASSES = ("Äpfel", "Birnen", "Kürbisse")
COUNTS = [70, 20, 10]


def loss(kind="cross_entropy", *, classes=CLASSES, counts=COUNTS, code=None, **fields):
    section = TypeAdapter(Loss).validate_python({"kind": kind, **fields}).model_dump(mode="json")
    return build_loss(section, classes, counts, code)


def rows(count=11, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, classes, generator=generator)
    return logits.requires_grad_(), torch.randint(0, classes, (count,), generator=generator)


def test_without_options_it_is_the_loss_of_validation():
    logits, labels = rows()
    assert torch.equal(loss()(logits, labels), tasks.loss_sum(logits, labels))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("given", "weights"),
    [
        ("none", None),
        ("balanced", [100 / 210, 100 / 60, 100 / 30]),
        ({"Kürbisse": 3, "Äpfel": 0.5}, [0.5, 1.0, 3.0]),
    ],
)
def test_cross_entropy_is_that_of_torch(smoothing, given, weights):
    logits, labels = rows()
    found = loss(label_smoothing=smoothing, class_weights=given)(logits, labels)
    weight = None if weights is None else torch.tensor(weights)
    expected = functional.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(found, expected)
    assert found.shape == () and found.dtype == torch.float32


@pytest.mark.parametrize("counts", [[70, 20, 10], [1, 1, 1], [5, 0, 3]])
def test_a_row_counts_1_on_average_when_balanced(counts):
    weights = class_weights("balanced", CLASSES, counts)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    assert weights[labels].mean().item() == pytest.approx(1)
    present = [weight * count for weight, count in zip(weights.tolist(), counts, strict=True) if count]
    assert present == pytest.approx([present[0]] * len(present))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [-1, 0.25])
def test_focal_loss_of_two_classes_is_that_of_torchvision(gamma, alpha):
    """Softmax over (0, z) is the sigmoid of z; the paper's alpha weighs the second class and 1 - alpha the first."""
    logits, labels = rows(classes=2)
    logits = torch.stack([torch.zeros(len(logits)), logits[:, 1].detach()], dim=1).requires_grad_()
    weights = {"class_weights": {"nein": 1 - alpha, "ja": alpha}} if alpha > 0 else {}
    found = loss("focal", gamma=gamma, classes=("nein", "ja"), counts=None, **weights)(logits, labels)
    expected = sigmoid_focal_loss(logits[:, 1], labels.float(), alpha=alpha, gamma=gamma, reduction="sum")
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, logits, retain_graph=True)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient[:, 1], expected_gradient[:, 1])


def test_focal_loss_without_focus_is_cross_entropy():
    logits, labels = rows()
    found = loss("focal", gamma=0, class_weights="balanced")(logits, labels)
    torch.testing.assert_close(found, loss(class_weights="balanced")(logits, labels))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_of_rows_that_are_certain(gamma):
    logits = torch.tensor([[200.0, 0.0, -200.0], [0.0, 200.0, 0.0]], requires_grad=True)
    found = loss("focal", gamma=gamma)(logits, torch.tensor([0, 0]))
    found.backward()
    assert found.item() == pytest.approx(200)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("section", [{"kind": "cross_entropy", "class_weights": "balanced"}, {"kind": "focal"}])
def test_the_loss_of_half_precision_logits_is_a_float32(section):
    logits, labels = rows()
    found = loss(**section)(logits.bfloat16(), labels)
    assert found.dtype == torch.float32


def test_rows_can_be_summed_in_parts():
    logits, labels = rows(count=12)
    for made in (loss(class_weights="balanced", label_smoothing=0.1), loss("focal", class_weights="balanced")):
        parts = made(logits[:5], labels[:5]) + made(logits[5:], labels[5:])
        torch.testing.assert_close(parts, made(logits, labels))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Kurbisse", "there is no class `Kurbisse`; did you mean `Kürbisse`?"),
        ("7", "there is no class `7`; the classes are `Äpfel`, `Birnen` and `Kürbisse`"),
    ],
)
def test_a_weight_for_a_class_that_there_is_not(name, said):
    with pytest.raises(StageError) as found:
        loss(class_weights={name: 2})
    assert found.value.what == said


OWN = """
import torch
from torch.nn import functional

def poly(logits, labels, epsilon=1.0):
    p = torch.softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    return functional.cross_entropy(logits, labels, reduction="none") + epsilon * (1 - p)

def mean(logits, labels):
    return functional.cross_entropy(logits, labels)

def number(logits, labels):
    return 3.0

def cut_off(logits, labels):
    return functional.cross_entropy(logits.detach(), labels, reduction="none")

def broken(logits, labels):
    raise ValueError("zu groß")
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    (tmp_path / "verlust.py").write_text(OWN, encoding="utf-8")
    monkeypatch.setattr("sys.path", [str(tmp_path), *__import__("sys").path])
    yield str(tmp_path)
    __import__("sys").modules.pop("verlust", None)


def test_a_loss_of_the_users(code):
    logits, labels = rows()
    found = loss("callable", function="verlust:poly", args={"epsilon": 0.0}, code=code)(logits, labels)
    torch.testing.assert_close(found, tasks.loss_sum(logits, labels))
    assert loss("callable", function="verlust:poly", code=code)(logits, labels) > found


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("verlust:mean", r"returned the shape \[\] for 11 rows; \[11\] is wanted"),
        ("verlust:number", "returned a float for 11 rows"),
        ("verlust:cut_off", "it has no gradient"),
        ("verlust:broken", r"the loss raised ValueError: zu groß \(verlust.py line 19\)"),
        ("verlust:pily", "has no 'pily'"),
    ],
)
def test_a_loss_of_the_users_that_does_not_fit(code, function, said):
    with pytest.raises(StageError, match=said):
        loss("callable", function=function, code=code)(*rows())
