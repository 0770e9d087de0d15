"""How the GPUs of a machine are joined, as `nvidia-smi topo -m` draws it."""

from __future__ import annotations

import re

from rayml.doctor.finding import Finding, ok, warning
from rayml.spec.words import count

WORDS = {
    "PIX": "one PCIe bridge",
    "PXB": "several PCIe bridges",
    "PHB": "the CPU's PCIe host bridge",
    "NODE": "PCIe host bridges of one NUMA node",
    "SYS": "the link between CPU sockets",
}
"""From the near to the far (legend of `nvidia-smi topo -m`)."""
ORDER = ("NV", *WORDS)
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
SLOW = ("PHB", "NODE", "SYS")
LINK = re.compile(r"NV\d+|PIX|PXB|PHB|NODE|SYS|X")


def parse(text: str) -> dict[tuple[int, int], str]:
    """Links between pairs of GPUs: `{(0, 1): "NV18"}`. Columns of network cards are left out."""
    lines = [ESCAPES.sub("", line).split() for line in text.splitlines()]
    rows = {int(words[0][3:]): words[1:] for words in lines if _is_row(words)}
    return {
        (one, other): rows[one][place]
        for one in rows
        for place, other in enumerate(sorted(rows))
        if one < other and place < len(rows[one])
    }


def _is_row(words: list[str]) -> bool:
    return len(words) > 1 and re.fullmatch(r"GPU\d+", words[0]) is not None and LINK.fullmatch(words[1]) is not None


def topology(links: dict[tuple[int, int], str]) -> Finding:
    """Whether gradients travel by NVLink."""
    if not links:
        hint = "nvidia-smi topo -m, which has to draw a line for each GPU"
        return warning("topology", "nvidia-smi does not say how the GPUs are joined", hint)
    if all(link.startswith("NV") for link in links.values()):
        widths = sorted({int(link[2:]) for link in links.values()})
        return ok("topology", f"all {count(len(links), 'pair')} joined by NVLink ({widths[0]} links or more)")
    pair, worst = max(links.items(), key=lambda each: ORDER.index(re.sub(r"\d+", "", each[1])))
    found = f"GPU {pair[0]} and GPU {pair[1]} are joined by {WORDS[worst]} ({worst})"
    if worst in SLOW:
        hint = "let a job take GPUs that are near each other: export CUDA_VISIBLE_DEVICES=..., by nvidia-smi topo -m"
        return warning("topology", f"{found}, the slowest of {count(len(links), 'pair')}", hint)
    return ok("topology", found)
