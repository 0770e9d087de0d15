"""Whether this processor adds int8 products without saturating, which decides how many bits weights may have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
EXACT = ("avx512_vnni", "avx_vnni", "asimddp")
"""Any of these multiplies int8 into int32 sums."""
SHOWN = (*EXACT, "amx_int8", "avx2", "avx512bw")


def processor(path: Path = CPUINFO) -> dict[str, Any]:
    """`{"vnni": bool, "flags": [...]}`: what of this processor matters for int8. Nothing known counts as no VNNI."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    flags = set(found.group(1).split()) if found else set()
    return {"vnni": any(flag in flags for flag in EXACT), "flags": [flag for flag in SHOWN if flag in flags]}
