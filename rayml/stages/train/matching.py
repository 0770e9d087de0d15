"""Layers of the student that are held to layers of the teacher: their activations, or where these are large.

The student's activations are caught by hooks, and the frozen teacher runs over the same rows. How far each row is from
the teacher becomes one more column behind the logits, so that it takes the same way through DistributedDataParallel,
sharding and gradient accumulation as they do; the loss adds it up. Nothing of this happens in evaluation.

Projections from the student's width to the teacher's are trained with the model, as its submodule `matching`, and are
left out of the artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayml.errors import StageError
from rayml.ml.models import Classifier
from rayml.ml.networks import head_name
from rayml.ml.schema import Schema
from rayml.spec.words import count, listed, nearest

MATCHING = "matching"
"""Name of the projections in the model that is trained."""
KINDS = ("features", "attention")
FITTING = ("local", "ddp", "fsdp")
"""Strategies in which the whole network is called on every rank."""
WHERE = "distill"
NO_LAYER = (
    nn.LayerNorm,
    nn.Flatten,
    nn.Identity,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
"""What `auto` does not take: they hold what the layer before them has made, or less of it."""

Caught = dict[str, Tensor]
"""Name of a module to what it has made."""


@dataclass(frozen=True)
class Match:
    """A layer of the teacher and one of the student."""

    kind: str
    """features or attention."""
    teacher: str
    student: str
    weight: float


class Matching(nn.Module):
    """How far the student's layers are from the teacher's. Holds the projections.

    Args:
        matches: what is held to what.
        shapes: of one row of each match, in the teacher and in the student.
    """

    def __init__(self, matches: list[Match], shapes: list[tuple[torch.Size, torch.Size]]) -> None:
        super().__init__()
        self.matches = matches
        self.projections = nn.ModuleList(
            make_projection(match, *each) for match, each in zip(matches, shapes, strict=True)
        )

    def forward(self, taught: list[Tensor], learned: list[Tensor]) -> Tensor:
        """`[rows] float32`, the distances times their weights, of activations `[rows, ...]` in the order of matches."""
        distances = [
            match.weight * DISTANCES[match.kind](theirs, project(mine))
            for match, project, theirs, mine in zip(self.matches, self.projections, taught, learned, strict=True)
        ]
        return torch.stack(distances).sum(0)


def make_projection(match: Match, taught: torch.Size, learned: torch.Size) -> nn.Module:
    """From the student's width to the teacher's. StageError where the two cannot be held to each other.

    Shapes are of one row: `[channels, height, width]`, `[tokens, width]` or `[width]`.
    """
    between = f"`{match.student}` of the student makes {list(learned)} of a row, and `{match.teacher}` of the teacher"
    if len(taught) != len(learned) or len(taught) not in {1, 2, 3}:
        raise StageError(
            f"{between} {list(taught)}: they cannot be held to each other",
            where=f"{WHERE}.{match.kind}",
            hint="name layers of the same kind, such as two convolutions or two blocks of a transformer",
        )
    if len(taught) == 2 and taught[0] != learned[0]:
        raise StageError(
            f"{between} {list(taught)}: the tokens are not the same",
            where=f"{WHERE}.{match.kind}",
            hint="give the student the teacher's patch and resize, or leave this out",
        )
    if match.kind == "attention":
        if len(taught) == 1:
            raise StageError(
                f"{between} {list(taught)}: there is no place to attend to",
                where=f"{WHERE}.{match.kind}",
                hint="name a convolution or a block of a transformer, or match features",
            )
        return nn.Identity()
    if len(taught) == 3:
        return nn.Identity() if taught[0] == learned[0] else nn.Conv2d(learned[0], taught[0], kernel_size=1)
    return nn.Identity() if taught[-1] == learned[-1] else nn.Linear(learned[-1], taught[-1])


def feature_distance(taught: Tensor, learned: Tensor) -> Tensor:
    """Mean squared error of each row, `[rows] float32` (hints of FitNets, arXiv 1412.6550)."""
    taught, learned = same_places(taught.float(), learned.float())
    return (learned - taught).square().flatten(1).mean(1)


def attention_distance(taught: Tensor, learned: Tensor) -> Tensor:
    """Squared 2-norm between attention maps, `[rows] float32`, between 0 and 2.

    A map is the mean over the channels of the squared activations, divided by its norm (arXiv 1612.03928, equation 2).
    The norm between two maps is squared, as in the authors' code: its root has no gradient where they are equal.
    """
    taught, learned = same_places(taught.float(), learned.float())
    return (attention_map(learned) - attention_map(taught)).square().sum(1)


def attention_map(activations: Tensor) -> Tensor:
    """`[rows, channels, height, width]` or `[rows, tokens, width]` to `[rows, places]` of norm 1."""
    width = 1 if activations.dim() == 4 else 2
    return functional.normalize(activations.square().mean(width).flatten(1), dim=1)


def same_places(taught: Tensor, learned: Tensor) -> tuple[Tensor, Tensor]:
    """Images of different sizes brought to the smaller height and width."""
    if taught.dim() != 4 or taught.shape[2:] == learned.shape[2:]:
        return taught, learned
    size = (min(taught.shape[2], learned.shape[2]), min(taught.shape[3], learned.shape[3]))
    return functional.adaptive_avg_pool2d(taught, size), functional.adaptive_avg_pool2d(learned, size)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "features": feature_distance,
    "attention": attention_distance,
}


def has_matches(distill: dict[str, Any] | None) -> bool:
    """Whether a `distill` configuration asks for more than the teacher's answers."""
    return distill is not None and any(distill[kind] for kind in KINDS)


def add_matching(model: Classifier, teacher: Classifier, distill: dict[str, Any], strategy: str, schema: Schema) -> str:
    """Let the model in training make the distances beside its logits. Returns what is matched, as a sentence.

    Args:
        model: the student on the CPU, with all that is done to its layers; it gets a submodule `matching`.
        teacher: in evaluation mode; its weights are not the model's, and stay as they are.
        distill: with `features` and `attention`, each None or `layers` (pairs of teacher and student, or auto) and
            `weight`.
        strategy: kind of the strategy.

    Raises:
        StageError: a layer is not there or is never called, two layers do not fit, or the strategy cuts the network.
    """
    if strategy not in FITTING:
        raise StageError(
            f"{strategy} does not run the whole network on a rank, so no layers can be matched",
            where=f"{WHERE}.{' and '.join(kind for kind in KINDS if distill[kind])}",
            hint=f"write one of the strategies {listed(list(FITTING))}, or leave it out: the answers suffice",
        )
    rows = torch.zeros((2, *schema.feature.shape), dtype=getattr(torch, schema.feature.dtype))
    matches = [each for kind in KINDS if distill[kind] for each in matches_of(kind, distill, teacher, model, rows)]
    taught = run_once(teacher, [match.teacher for match in matches], rows)
    learned = run_once(model, [match.student for match in matches], rows)
    shapes = [(taught[each.teacher].shape[1:], learned[each.student].shape[1:]) for each in matches]
    beside = Beside(model, teacher, matches)
    model.add_module(MATCHING, Matching(matches, shapes))
    model.register_forward_hook(beside.add_distance)
    parts = ", ".join(f"{each.kind} of {each.student} to {each.teacher}" for each in matches)
    return f"{count(len(matches), 'layer')} matched to the teacher: {parts}"


def matches_of(
    kind: str, distill: dict[str, Any], teacher: Classifier, model: Classifier, rows: Tensor
) -> Iterator[Match]:
    """The pairs of the `features` or the `attention` section."""
    layers = distill[kind]["layers"]
    if layers == "auto":
        layers = [[last_layer(network, kind, rows) for network in (teacher, model)]]
    for theirs, mine in layers:
        require_layer(teacher, theirs, f"{WHERE}.{kind}: the teacher")
        require_layer(model, mine, f"{WHERE}.{kind}: the student")
        yield Match(kind, theirs, mine, distill[kind]["weight"])


def require_layer(model: nn.Module, name: str, where: str) -> None:
    """StageError where a network has no module of a name."""
    names = [each for each, _ in model.named_modules() if each]
    if name not in names:
        near = nearest(name, names, likeness=0.4)
        found = f"; did you mean `{near}`?" if near else f"; they go from `{names[0]}` to `{names[-1]}`"
        raise StageError(f"there is no layer `{name}`{found}", where=where, hint="write the whole name of a module")


def last_layer(model: Classifier, kind: str, rows: Tensor) -> str:
    """The last module before the head that makes something of its own: an image or tokens where there are any.

    small_cnn: the ReLU before the pooling; mlp: the last hidden layer's ReLU; transformer: its blocks; torchvision:
    what stands before the pooling.
    """
    order: list[str] = []
    caught = run_once(model, [name for name, _ in model.network.named_modules(prefix="network")], rows, order)
    head, modules = head_name(model), dict(model.named_modules())
    before = order[: order.index(head)] if head in order else order[:-1]
    made = [each for each in before if each in caught and not isinstance(modules[each], NO_LAYER)]
    placed = [name for name in made if caught[name].dim() > 2]
    if not placed and (kind == "attention" or not made):
        raise StageError(
            "no layer of the network makes an image or tokens" if made else "the network has a single layer",
            where=f"{WHERE}.{kind}",
            hint=f"leave {kind} out",
        )
    return (placed or made)[-1]


def run_once(model: nn.Module, names: list[str], rows: Tensor, order: list[str] | None = None) -> Caught:
    """What modules make of some rows in evaluation. StageError where one that was asked for by name makes no tensor.

    With `order` the names are only candidates, and are appended to it in the order in which they finish.
    """
    was_training = model.training
    with catching(model, names, order) as caught, torch.no_grad():
        model.eval()(rows)
    model.train(was_training)
    for name in names if order is None else ():
        if name not in caught:
            raise StageError(
                f"`{name}` is never called, or makes no tensor",
                where=WHERE,
                hint="name the module around it, whose result is one tensor",
            )
    return dict(caught)


@contextmanager
def catching(model: nn.Module, names: list[str], order: list[str] | None = None) -> Iterator[Caught]:
    """Modules of these names put what they make into the dictionary."""
    caught: Caught = {}
    hooks = catch(model, names, caught, order)
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()


def catch(model: nn.Module, names: list[str], caught: Caught, order: list[str] | None = None) -> list[Any]:
    """Hook the modules of these names."""
    modules = dict(model.named_modules())
    return [modules[name].register_forward_hook(Catcher(name, caught, order)) for name in dict.fromkeys(names)]


class Catcher:
    """A forward hook that keeps what its module has made."""

    def __init__(self, name: str, caught: Caught, order: list[str] | None) -> None:
        self._name, self._caught, self._order = name, caught, order

    def __call__(self, module: nn.Module, inputs: Any, made: object) -> None:
        if self._order is not None:
            self._order.append(self._name)
        if isinstance(made, Tensor):
            self._caught[self._name] = made


class Beside:
    """Runs the teacher beside the student. Not a module: what trains the student does not see the teacher."""

    def __init__(self, model: Classifier, teacher: Classifier, matches: list[Match]) -> None:
        self._teacher = teacher.eval().requires_grad_(False)
        self._matches = matches
        self._taught: Caught = {}
        self._learned: Caught = {}
        catch(teacher, [match.teacher for match in matches], self._taught)
        catch(model, [match.student for match in matches], self._learned)
        self._device = torch.device("cpu")

    def add_distance(self, model: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> Tensor | None:
        """Forward hook of the student: `[rows, classes]` logits become `[rows, classes + 1]` in training."""
        learned = self._learned.copy()
        self._learned.clear()
        if not model.training or not torch.is_grad_enabled():
            return None
        taught = self.ask(inputs[0])
        distance: Tensor = model.get_submodule(MATCHING)(
            [taught[match.teacher] for match in self._matches], [learned[match.student] for match in self._matches]
        )
        return torch.cat([logits, distance.unsqueeze(1).to(logits.dtype)], dim=1)

    def ask(self, rows: Tensor) -> Mapping[str, Tensor]:
        """What the teacher's layers make of raw records."""
        if rows.device != self._device:
            self._teacher.to(rows.device)
            self._device = rows.device
        with torch.no_grad():
            self._teacher(rows)
        taught = self._taught.copy()
        self._taught.clear()
        return taught
