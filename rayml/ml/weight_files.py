"""Finding and reading published weights: safetensors, torchvision, the Hugging Face hub. Nothing is unpickled.

torchvision publishes pickled files; torch reads them with `weights_only=True`, which takes tensors and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rayml.artifacts.archives import refuse_compressed
from rayml.errors import StageError
from rayml.spec.words import nearest

WHERE = "train.start"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
INDEX = ".safetensors.index.json"
CONVERT = (
    'import torch, safetensors.torch as s; w = torch.load("FILE", weights_only=True); '
    's.save_file({name: w[name].clone().contiguous() for name in w}, "model.safetensors")'
)
SHOWN = 4
"""Names in a sentence."""


def locate_start(config: dict[str, Any], model: dict[str, Any], base: Path) -> Path:
    """The file or folder of a `start` section of kind folder, torchvision or hub, downloaded where it has to be.

    Args:
        config: the section.
        model: the job's `model` section.
        base: the folder of the job file.

    Raises:
        StageError: it is not there, or cannot be reached.
    """
    if config["kind"] == "torchvision":
        return torchvision_file(model["name"], config["weights"])
    if config["kind"] == "hub":
        return hub_folder(config["name"], config["revision"])
    path: Path = base / config["path"]
    if not path.exists():
        raise StageError(f"there is no {path}", where=f"{WHERE}.path", hint="the path is relative to the job file")
    return path


def torchvision_file(name: str, weights: str) -> Path:
    """torchvision's file in torch's cache (below TORCH_HOME)."""
    from torchvision import models

    choices = models.get_model_weights(name).__members__
    if weights not in choices:
        near = nearest(weights, choices) or "DEFAULT"
        what = f"{name} has no weights {weights!r}, but {', '.join(choices)}"
        raise StageError(what, where=f"{WHERE}.weights", hint=f"did you mean {near}?")
    url: str = choices[weights].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not path.exists():
        digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None, progress=False)
        except (OSError, RuntimeError) as error:
            hint = f"fetch it where there is a network, and put it at {path} (TORCH_HOME says where that is)"
            raise StageError(f"{url} cannot be downloaded: {error}", where=WHERE, hint=hint) from error
    return path


def hub_folder(name: str, revision: str) -> Path:
    """The folder of a model of the Hugging Face hub, in its cache."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        hint = "pip install 'rayml[finetune]'"
        raise StageError(f"the hub needs the huggingface_hub library: {error}", where=WHERE, hint=hint) from error
    patterns = ["*.safetensors", f"*{INDEX}", "config.json"]
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"])
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise StageError(
            f"{name} at {revision} cannot be fetched: {' '.join(str(error).split())}",
            where=WHERE,
            hint="with no network, fetch it before (`hf download`), set HF_HUB_OFFLINE=1, or use kind: folder",
        ) from error
    return Path(folder)


def read_torchvision(path: Path) -> dict[str, Tensor]:
    """torchvision's state dict, with the names of today."""
    refuse_compressed(path, WHERE, f"remove {path}: it is fetched anew")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything for bytes that are no weights
        hint = f"remove {path}: it is fetched anew"
        raise StageError(f"{path.name} is damaged: {first_line(error)}", where=WHERE, hint=hint) from error
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name): value for name, value in state.items()}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file or folder. They are mapped, so what is not used is not read."""
    tensors: dict[str, Tensor] = {}
    for file in safetensors_files(path):
        try:
            tensors.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise StageError(f"{file} cannot be read: {first_line(error)}", where=WHERE) from error
    if not tensors:
        raise StageError(f"{path} holds no tensor", where=WHERE)
    return tensors


def safetensors_files(path: Path) -> list[Path]:
    """The files that hold the weights of a folder: those of its index, or the only one."""
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file())
    indices = [each for each in files if each.name.endswith(INDEX)]
    if indices:
        return indexed_files(indices[0])
    weights = [each for each in files if each.suffix == ".safetensors"]
    model = [each for each in weights if each.name == "model.safetensors"]
    if len(weights) > 1 and not model:
        names = short(each.name for each in weights)
        raise StageError(f"{path} has several weights and no index: {names}", where=WHERE, hint="name one of the files")
    if not weights:
        refuse(path, [each for each in files if each.suffix in PICKLED])
    return model or weights


def indexed_files(index: Path) -> list[Path]:
    """The files that an index names, each of them in its own folder."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [index.parent / Path(name).name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(f"{index} is no index of safetensors: {first_line(error)}", where=WHERE) from error
    for name, file in zip(names, files, strict=True):
        if not file.is_file():
            raise StageError(f"{index.name} names {name}, which is not in {index.parent}", where=WHERE)
    return files


def refuse(path: Path, pickled: list[Path]) -> None:
    """StageError for a place without safetensors."""
    if not pickled:
        raise StageError(f"{path} has no .safetensors file", where=WHERE, hint="name the folder that holds one")
    raise StageError(
        f"{pickled[0]} is a pickle, which can run code when it is read; safetensors are read here",
        where=WHERE,
        hint=f"if it holds a state dict, convert it once: python -c '{CONVERT}'",
    )


def short(names: Iterable[str]) -> str:
    """The first of some names, and how many follow."""
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def first_line(error: BaseException) -> str:
    """The first line of what an exception says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
