"""`model.ts`: TorchScript, for programs that embed libtorch. PyTorch keeps it alive and recommends torch.export."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from rayml.ml.onnx_export import WithProbabilities
from rayml.ml.schema import Schema
from rayml.stages.export.formats.api import RAYML, Answers, Format, Request, example, named, refused

FILE = "model.ts"


def write(request: Request, path: Path) -> None:
    """Trace the model, and save it with the metadata as an extra file inside."""
    with warnings.catch_warnings():
        # That TorchScript is deprecated is said in docs/export.md, where a user chooses it.
        warnings.simplefilter("ignore")
        try:
            module = WithProbabilities(request.model).eval()
            script: Any = torch.jit.trace(module, example(request.schema))  # type: ignore[no-untyped-call]
        except Exception as error:
            hint = "leave torchscript out of export.formats; torch_export is its successor"
            raise refused("TorchScript cannot trace the model", error, request.code, hint) from error
        buffer = io.BytesIO()
        torch.jit.save(script, buffer, _extra_files={RAYML: json.dumps(request.metadata, sort_keys=True)})
    without_notes(buffer, path)


def without_notes(buffer: io.BytesIO, path: Path) -> None:
    """Write the archive without the lines of source that each operator came from: they have paths of this machine."""
    with zipfile.ZipFile(buffer) as made, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as kept:
        for entry in made.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                kept.writestr(entry, made.read(entry))


@torch.no_grad()
def answers(path: Path, schema: Schema, records: NDArray[Any], code: str | None) -> Answers:
    """By the loaded script."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script: Any = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        return named(script(torch.from_numpy(records)).numpy(), schema)


FORMAT = Format(FILE, write, answers)
