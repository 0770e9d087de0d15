"""Numbers, times, sizes and digests as a person reads them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

MISSING = "\N{EN DASH}"
VALUE_CHARS = 300
"""A longer value in a table of settings is cut; the JSON record has it whole."""

SHOWN_DIGITS = 12

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_COMPARISONS = {">=": "≥", "<=": "≤"}


def number(value: float | None, digits: int = 4) -> str:
    """Up to so many digits after the point; a power of ten where that would show nothing."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    if abs(value) < 10**-digits * 5 or abs(value) >= 1e7:
        return power(value)
    return f"{value:,.{digits}f}"


def power(value: float | None) -> str:
    """Mantissa and power of ten, such as 1.2 times 10⁻⁷; 0 stays 0."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    mantissa = f"{value / 10.0**exponent:.1f}"
    if mantissa in ("10.0", "-10.0"):
        mantissa, exponent = mantissa.replace("10.0", "1.0"), exponent + 1
    tens = f"10{str(exponent).translate(_SUPERSCRIPTS)}"
    return tens if mantissa == "1.0" else f"{mantissa.removesuffix('.0')} \N{MULTIPLICATION SIGN} {tens}"


def percent(share: float | None, digits: int = 1) -> str:
    """`98.3 %`; nothing but 0 and 1 themselves looks like them: `> 99.9 %`, `< 0.1 %`."""
    if share is None:
        return MISSING
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    least = 10.0**-digits
    if 100 * share < least / 2:
        return f"< {least:.{digits}f} %"
    if 100 * (1 - share) < least / 2:
        return f"> {100 - least:.{digits}f} %"
    return f"{100 * share:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """`0.42 s`, `48.1 s`, `3 min 12 s`, `2 h 05 min`."""
    if seconds is None:
        return MISSING
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def size(count: float | None) -> str:
    """Bytes in decimal units, as job files write them: `94.2 kB`."""
    if count is None:
        return MISSING
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def moment(seconds: float | None) -> str:
    """Unix seconds as `21 Nov 2026, 23:26 UTC`."""
    if seconds is None:
        return MISSING
    time = datetime.fromtimestamp(seconds, UTC)
    return f"{time.day} {time:%b %Y, %H:%M} UTC"


def stamp(created: str) -> str:
    """The time of a manifest, ISO 8601, as `moment` writes it. Any other text stays: others can write to a storage."""
    try:
        return moment(datetime.fromisoformat(created).timestamp())
    except (ValueError, OverflowError):
        return created


def short(digest: str) -> str:
    """The beginning of a digest; that of an image after the last part of its name. Any other text stays."""
    name, at, digits = digest.rpartition("@sha256:")
    if not _SHA256.fullmatch(digits):
        return digest
    return f"{name.rpartition('/')[2]}{'@' if at else ''}{digits[:SHOWN_DIGITS]}"


def count(amount: int, noun: str) -> str:
    """`1 row`, `1,437 rows`, `2 classes`."""
    plural = noun + ("es" if noun.endswith(("s", "x", "ch")) else "s")
    return f"{amount:,} {noun if amount == 1 else plural}"


def bound(text: str) -> str:
    """A gate as it is read: `≥ 0.95`, `≤ 10⁻⁴`."""
    limit = text.strip().lstrip("<>=")
    comparison, limit = text.strip().removesuffix(limit), limit.strip()
    return f"{_COMPARISONS.get(comparison, comparison)} {power(float(limit)) if 'e' in limit else limit}"


def metric_name(name: str) -> str:
    """`f1_macro` as `F1, macro`."""
    known = {
        "roc_auc": "ROC AUC",
        "f1": "F1",
        "parity_max_abs_diff": "Largest difference",
        "parity_label_mismatches": "Labels that differ",
    }
    stem, _, average = name.rpartition("_")
    if average in ("macro", "weighted"):
        return f"{known.get(stem, stem.capitalize())}, {average}"
    return known.get(name, name.replace("_", " ").capitalize())


def flatten(tree: Any, path: str = "") -> list[tuple[str, str]]:
    """Settings as (dotted path, value), the way that `--set` takes them."""
    if isinstance(tree, dict) and tree:
        return [row for name, value in tree.items() for row in flatten(value, f"{path}.{name}" if path else str(name))]
    if isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        return [row for index, value in enumerate(tree) for row in flatten(value, f"{path}[{index}]")]
    text = _scalar(tree)
    return [(path, text if len(text) <= VALUE_CHARS else text[: VALUE_CHARS - 1] + "…")]


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
