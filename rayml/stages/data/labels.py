"""From labels as text to classes: their names, their order, and each row's index into them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayml.errors import StageError
from rayml.stages.data.rows import Integers

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d+")


def encode_labels(
    codes: Integers, texts: Sequence[str], *, text_labels: bool, name: str, place: Callable[[NDArray[Any]], str]
) -> tuple[tuple[str, ...], Integers]:
    """Class names in order (numbers by value, other text by code point) and the class of each row.

    Args:
        codes: `[rows] int64`, index of each row's label in `texts`.
        texts: labels as text; one may stand there more than once.
        text_labels: the source has no types. Where all its labels are numbers, 1.0 is the class `1`, and 1.5 is none.
        name: of the label column.
        place: names rows, given their positions `[n]`.

    Returns:
        Names, and `[rows] int64` indices into them.

    Raises:
        StageError: there is one class only, or a number that is not whole.
    """
    if text_labels and all(_NUMBER.fullmatch(text) for text in texts) and not all(map(_WHOLE.fullmatch, texts)):
        texts = _whole_numbers(codes, texts, name, place)
    classes = sorted(set(texts))
    if all(map(_WHOLE.fullmatch, classes)):
        classes.sort(key=lambda text: (int(text), text))
    if len(classes) == 1:
        raise StageError(
            f"all {len(codes)} rows have the label `{name}` = {classes[0]}; a classifier needs two classes or more"
        )
    index = {text: number for number, text in enumerate(classes)}
    return tuple(classes), np.array([index[text] for text in texts], np.int64)[codes]


def _whole_numbers(codes: Integers, texts: Sequence[str], name: str, place: Callable[[NDArray[Any]], str]) -> list[str]:
    wrong = [number for number, text in enumerate(texts) if not float(text).is_integer()]
    if wrong:
        rows = np.flatnonzero(np.isin(codes, wrong))
        raise StageError(
            f"label `{name}` is {texts[wrong[0]]}, not a whole number; {len(rows)} rows are like it", where=place(rows)
        )
    return [str(int(float(text))) for text in texts]
