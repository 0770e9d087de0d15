"""The version of the code behind a step: a digest of the source files that decide its result."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rayml.errors import PlanError

PACKAGE = Path(__file__).parents[1]

STAGE_CODE: dict[str, tuple[str, ...]] = {
    "data": ("stages/data", "plan/sources.py", "ml/schema.py", "ml/shards.py", "ml/images.py", "ml/usercode.py"),
    "tune": ("stages/tune", "ml/checkpoint.py", "ml/parts.py", "ml/usercode.py"),
    "train": (
        "stages/train",
        "ml/adapters.py",
        "ml/checkpoint.py",
        "ml/freezing.py",
        "ml/ledger.py",
        "ml/losses.py",
        "ml/models.py",
        "ml/names.py",
        "ml/networks.py",
        "ml/order.py",
        "ml/parts.py",
        "ml/pretrained.py",
        "ml/schema.py",
        "ml/shards.py",
        "ml/surgery.py",
        "ml/tasks.py",
        "ml/torchvision_models.py",
        "ml/trained.py",
        "ml/transformer.py",
        "ml/transforms.py",
        "ml/usercode.py",
        "ml/weight_files.py",
    ),
    "compress": (
        "stages/compress",
        "ml/checkpoint.py",
        "ml/divergence.py",
        "ml/models.py",
        "ml/networks.py",
        "ml/onnx_check.py",
        "ml/onnx_export.py",
        "ml/onnx_session.py",
        "ml/parts.py",
        "ml/schema.py",
        "ml/shards.py",
        "ml/surgery.py",
        "ml/tasks.py",
        "ml/torchvision_models.py",
        "ml/trained.py",
        "ml/transformer.py",
        "ml/transforms.py",
        "ml/usercode.py",
    ),
    "export": (
        "stages/export",
        "ml/checkpoint.py",
        "ml/divergence.py",
        "ml/models.py",
        "ml/onnx_export.py",
        "ml/onnx_session.py",
        "ml/parts.py",
        "ml/schema.py",
        "ml/shards.py",
        "ml/surgery.py",
        "ml/tasks.py",
        "ml/torchvision_models.py",
        "ml/trained.py",
        "ml/transformer.py",
        "ml/transforms.py",
        "ml/usercode.py",
    ),
    "evaluate": ("stages/evaluate", "ml/schema.py", "ml/shards.py", "ml/metrics.py", "ml/onnx_session.py"),
    "serve": ("stages/serve", "ml/schema.py", "ml/images.py", "ml/onnx_check.py", "ml/onnx_session.py"),
}
"""What each stage imports of rayml besides the ground floor; tests/plan/test_code.py holds it against the imports."""


def code_digest(stage: str, user_code: Path | None) -> str:
    """Hex sha256 over the names and bytes of the files that a stage runs, the user's folder with them where it does."""
    files = [path for entry in STAGE_CODE[stage] for path in _sources(PACKAGE / entry)]
    hasher = hashlib.sha256()
    for root, path in [(PACKAGE, path) for path in files] + [(user_code, path) for path in _user_sources(user_code)]:
        assert root is not None, "a file of the user's comes with its folder"
        hasher.update(path.relative_to(root).as_posix().encode() + b"\0")
        hasher.update(hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()


def _sources(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def _user_sources(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise PlanError(
            f"{folder} is not a folder", where="code", hint="write the folder of your modules, relative to the job file"
        )
    return _sources(folder)
