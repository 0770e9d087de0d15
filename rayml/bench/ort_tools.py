"""onnxruntime.quantization as a user's script calls it: the alternative of `against ort tools`."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from rayml.ml.onnx_session import first_line

DEFAULTS = "defaults"
UINT8 = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
SETTINGS: dict[str, dict[str, Any]] = {
    DEFAULTS: {},
    "per channel": {"per_channel": True},
    "uint8": UINT8,
    "uint8 per channel": {**UINT8, "per_channel": True},
    "uint8 per channel, entropy": {**UINT8, "per_channel": True, "calibrate_method": CalibrationMethod.Entropy},
    "uint8 per channel, percentile": {**UINT8, "per_channel": True, "calibrate_method": CalibrationMethod.Percentile},
}
"""What a user tries: other types of activations, a scale for each channel, ranges that leave the outliers out."""
BATCH = 32


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Batches of the calibration rows."""

    def __init__(self, feature: str, records: NDArray[Any]) -> None:
        parts = (records[first : first + BATCH] for first in range(0, len(records), BATCH))
        self.batches = iter([{feature: part} for part in parts])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next batch `[rows, *shape]`; None at the end."""
        return next(self.batches, None)


def calibration_rows(rows: int, there: int) -> NDArray[np.int64]:
    """Places of the rows that rayml's int8_static finds ranges on, so that both sides use the same ones."""
    return np.linspace(0, there - 1, num=min(rows, there), dtype=np.int64)


def quantize_by_hand(
    source: Path, feature: str, records: NDArray[Any], folder: Path, say: Callable[[str], None]
) -> dict[str, Path]:
    """The file of each of SETTINGS that onnxruntime can make.

    Args:
        source: the ONNX file in float32.
        records: raw records `[n, *shape]` to calibrate on.
    """
    folder.mkdir(parents=True)
    prepared = prepare(source, folder / "prepared.onnx", say)
    made = {}
    for number, (name, options) in enumerate(SETTINGS.items()):
        path = folder / f"{number}.onnx"
        try:
            # What the calibrators print would stand in the bench's JSON.
            with contextlib.redirect_stdout(io.StringIO()):
                quantize_static(prepared, path, Reader(feature, records), quant_format=QuantFormat.QDQ, **options)
        except Exception as error:  # onnxruntime's errors share no base class
            say(f"onnxruntime.quantization, {name}: {first_line(error)}")
            continue
        made[name] = path
    return made


def prepare(source: Path, path: Path, say: Callable[[str], None]) -> Path:
    """What the documentation asks for first; without symbolic shapes where these cannot be found."""
    try:
        quant_pre_process(source, path)
    except Exception as error:  # onnxruntime's errors share no base class
        say(f"quant_pre_process: {first_line(error)}; without symbolic shapes then")
        quant_pre_process(source, path, skip_symbolic_shape=True)
    return path
