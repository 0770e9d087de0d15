"""The formats by name. Nothing is imported before it is used."""

from __future__ import annotations

from importlib import import_module

from rayml.stages.export.formats.api import Format

FORMATS = {
    "onnx": "rayml.stages.export.formats.onnx_file",
    "torch_export": "rayml.stages.export.formats.torch_export",
    "safetensors": "rayml.stages.export.formats.safetensors_file",
    "executorch": "rayml.stages.export.formats.executorch",
    "torchscript": "rayml.stages.export.formats.torchscript",
}


def load_format(name: str) -> Format:
    """How a format is written and run."""
    found: Format = import_module(FORMATS[name]).FORMAT
    return found
