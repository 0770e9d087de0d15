"""Opening an exported model in ONNX Runtime, the same way wherever it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rayml.errors import StageError

SESSION = "rayml.session"
"""Where a file says with which settings it was fastest."""


Execution = Literal["sequential", "parallel"]


class SessionNote(BaseModel):
    """The settings that the pass `optimize` found fastest on the machine that compressed the model."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    threads: int = Field(ge=1, le=1024)
    arena: bool
    execution: Execution


def open_session(
    path: Path,
    *,
    threads: int,
    spinning: bool = True,
    arena: bool = True,
    execution: Execution = "sequential",
) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    Args:
        threads: what one inference may use at a time.
        spinning: whether idle threads wait actively; off where other processes need the processors.
        arena: whether memory is kept from call to call.
        execution: whether nodes that do not need each other run one after the other.

    Raises:
        StageError: the file is missing, or ONNX Runtime cannot load it.
    """
    import onnxruntime

    if not path.is_file():
        raise StageError("there is no model file", where=str(path), hint="export the model again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = threads if execution == "parallel" else 1
    options.enable_cpu_mem_arena = arena
    options.execution_mode = getattr(onnxruntime.ExecutionMode, f"ORT_{execution.upper()}")
    options.log_severity_level = 3
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise StageError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the model: {first_line(error)}",
            where=str(path),
            hint="`rayml verify` tells whether the file is still what was exported",
        ) from error


def first_line(error: Exception) -> str:
    """What an exception says, as one line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
