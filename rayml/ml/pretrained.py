"""The first weights of a model: which tensor of some weights goes where, and what was done with the others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayml.errors import StageError
from rayml.ml.names import require_matching
from rayml.ml.networks import head_name
from rayml.ml.weight_files import WHERE, read_safetensors, read_torchvision, short
from rayml.spec.words import count

PREFIX_PARTS = 3
PREFIX_SHARE = 0.1
"""A prefix that is tried out has at most so many parts and stands before at least this share of the names."""


@dataclass(frozen=True)
class Skipped:
    """A tensor of the weights that was not taken."""

    name: str
    why: str


@dataclass(frozen=True)
class StartReport:
    """What `load_start` has done."""

    source: str
    loaded: tuple[str, ...]
    """Names in the model."""
    adapted: tuple[str, ...]
    """Those of them that were brought to another shape."""
    skipped: tuple[Skipped, ...]
    new: tuple[str, ...]
    """Names in the model that keep their random first values."""

    def sentence(self) -> str:
        total = len(self.loaded) + len(self.new)
        parts = [f"started from {self.source}: {len(self.loaded)} of {count(total, 'tensor')} loaded"]
        if self.adapted:
            parts.append(f"{short(self.adapted)} summed over the colors")
        if self.new:
            parts.append(f"new: {short(self.new)}")
        for why in dict.fromkeys(each.why for each in self.skipped):
            parts.append(f"not used, {why}: {short([each.name for each in self.skipped if each.why == why])}")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def load_start(config: dict[str, Any], model: nn.Module, path: Path) -> StartReport:
    """Put weights into a model that is on one device and not sharded.

    A name is taken as `rename` says, or else as it is, or else with the one prefix put in place of another with which
    most names are the model's. A first convolution for colors serves gray images by the sum over its colors, which is
    what it would answer to an image of three equal colors.

    Args:
        config: a `start` section.
        model: the model as `build_model` makes it.
        path: a safetensors file, a folder with one, or torchvision's own file where `kind` is torchvision.

    Raises:
        StageError: the weights cannot be read, a shape differs, a rule or everything matches nothing, or two tensors
            would go to the same place.
    """
    source = read_torchvision(path) if config["kind"] == "torchvision" else read_safetensors(path)
    wanted: dict[str, Tensor] = model.state_dict()
    head = {name for name in wanted if name.rpartition(".")[0] == head_name(model)}
    skipped = []
    chosen: dict[str, Tensor] = {}
    adapted = []
    for name, target in destinations(list(source), config["rename"], wanted).items():
        if target not in wanted:
            skipped.append(Skipped(name, "the model has no such name"))
        elif target in head and config["head"] == "replace":
            skipped.append(Skipped(name, "the last layer is new"))
        else:
            chosen[target] = fit(name, source[name], target, wanted[target], target in head)
            if chosen[target].shape != source[name].shape:
                adapted.append(target)
    if not chosen:
        raise StageError(
            f"no tensor of {path.name} has a name of the model: there `{next(iter(source))}`, here "
            f"`{next(iter(wanted))}`",
            where=WHERE,
            hint='say which is which: rename: {"backbone.*": "network.*"}',
        )
    with torch.no_grad():
        for target, value in chosen.items():
            wanted[target].copy_(value)
    filled = {wanted[name].data_ptr() for name in chosen}
    new = [name for name, tensor in wanted.items() if name not in chosen and tensor.data_ptr() not in filled]
    return StartReport(describe(config, path), tuple(chosen), tuple(adapted), tuple(skipped), tuple(new))


def describe(config: dict[str, Any], path: Path) -> str:
    """The weights by the name that the job has for them; of the hub with the commit, which its cache is named after."""
    if config["kind"] == "hub":
        return f"{config['name']} at {path.name[:12]}"
    return str(config.get("run") or config.get("path") or path.name)


def destinations(names: list[str], rules: dict[str, str], wanted: Mapping[str, Tensor]) -> dict[str, str]:
    """Name of each tensor of the weights to its name in the model, which the model need not have."""
    for pattern in rules:
        require_matching(pattern, names, "tensor of the weights", f"{WHERE}.rename")
    renamed = {name: rename(name, rules) for name in names}
    old, new = best_prefixes(list(renamed.values()), wanted)
    placed: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name, target in renamed.items():
        shifted = new + target.removeprefix(old) if target.startswith(old) else target
        placed[name] = target if target in wanted else shifted
        first = taken.setdefault(placed[name], name)
        if first != name and placed[name] in wanted:
            what = f"`{first}` and `{name}` would both become `{placed[name]}`"
            raise StageError(what, where=WHERE, hint="give one of them another name in rename")
    return placed


def rename(name: str, rules: dict[str, str]) -> str:
    """The name after the first rule that matches it."""
    for pattern, replacement in rules.items():
        match = re.fullmatch("(.*)".join(map(re.escape, pattern.split("*"))), name)
        if match:
            texts = iter(match.groups())
            return re.sub(r"\*", lambda _: next(texts), replacement)  # noqa: B023 (called before the next round)
    return name


def best_prefixes(names: list[str], wanted: Iterable[str]) -> tuple[str, str]:
    """The prefix of the names, and the one to put in its place, with which most of them are wanted."""
    goals = set(wanted)
    best, most = ("", ""), sum(name in goals for name in names)
    for old in prefixes(names):
        rests = [name.removeprefix(old) for name in names if name.startswith(old)]
        for new in prefixes(goals):
            hits = sum(new + rest in goals for rest in rests)
            if hits > most:
                best, most = (old, new), hits
    return best


def prefixes(names: Iterable[str]) -> list[str]:
    """What many names have before a dot, the shortest first."""
    counts: dict[str, int] = {"": 0}
    total = 0
    for name in names:
        total += 1
        parts = name.split(".")[:-1]
        for end in range(1, min(len(parts), PREFIX_PARTS) + 1):
            prefix = ".".join(parts[:end]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    return sorted((each for each, number in counts.items() if not each or number >= PREFIX_SHARE * total), key=len)


def fit(name: str, value: Tensor, target: str, place: Tensor, is_head: bool) -> Tensor:
    """A tensor of the weights as the model takes it. StageError where it cannot be that."""
    if value.is_floating_point() != place.is_floating_point():
        raise StageError(
            f"`{name}` is {kind(value)}, and `{target}` is {kind(place)}", where=WHERE, hint="start from float weights"
        )
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise StageError(f"`{name}` holds numbers that are not finite", where=WHERE)
    if value.shape == place.shape:
        return value
    colors = value.ndim == 4 and value.shape[1] == 3 and place.shape == (value.shape[0], 1, *value.shape[2:])
    if colors:
        return value.float().sum(dim=1, keepdim=True)
    raise StageError(
        f"`{name}` is {list(value.shape)}, and `{target}` is {list(place.shape)}",
        where=WHERE,
        hint="for other classes, write head: replace" if is_head else "name the model that these weights are of",
    )


def kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
