"""What a secret looks like, and texts in which none is left.

The shapes are those that their issuers document: the prefixes of AWS, Hugging Face, OpenAI, GitHub, GitLab, Slack,
Google, Stripe, PyPI, npm and others; JSON Web Tokens (RFC 7519), PEM (RFC 7468) and passwords in URLs (RFC 3986). No
pattern starts twice inside a run of the characters that it repeats, so a text of a mebibyte is searched in one pass.
"""

from __future__ import annotations

import re

HIDDEN = "(hidden)"

SHAPES: dict[str, str] = {
    "a key of AWS": r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[A-Z0-9]{16}\b",
    "a token of Hugging Face": r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}",
    "a key that starts with sk-": r"\bsk-[A-Za-z0-9_-]{16,}",
    "a JSON Web Token": r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{5,}\.eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?",
    "a private key": r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]+-----|\Z)",
    "a password in a URL": r"(?<=://)[^\s/@:?#]{0,200}:[^\s/@?#]{1,200}(?=@)",
    "a token of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})",
    "a token of GitLab": r"\bgl(?:pat|dt|rt|ptt|cbt)-[A-Za-z0-9_-]{16,}",
    "a token of Slack": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
    "a key of Google": r"\bAIza[A-Za-z0-9_-]{30,}|\bya29\.[A-Za-z0-9_-]{20,}|\bGOCSPX-[A-Za-z0-9_-]{20,}",
    "a key of Stripe": r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{10,}|\bwhsec_[A-Za-z0-9]{16,}",
    "a token of PyPI": r"\bpypi-[A-Za-z0-9_-]{16,}",
    "a token of npm": r"\bnpm_[A-Za-z0-9]{20,}",
    "a key of SendGrid": r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    "a key of Azure": r"\b(?:AccountKey|SharedAccessKey|sig)=[A-Za-z0-9+/%]{20,}={0,2}",
    "a token of Databricks": r"\bdapi[a-f0-9]{32}\b",
    "a token of DigitalOcean": r"\bdo[opr]_v1_[a-f0-9]{40,}",
    "a token of Docker": r"\bdckr_pat_[A-Za-z0-9_-]{16,}",
    "a token of Vault": r"\bhv[bsr]\.[A-Za-z0-9_-]{20,}",
    "a key of age": r"\bAGE-SECRET-KEY-1[A-Z0-9]{20,}",
    "a key of NVIDIA": r"\bnvapi-[A-Za-z0-9_-]{20,}",
    "a token of Grafana": r"\bgl(?:c|sa)_[A-Za-z0-9_+/=]{20,}",
    "a token in a header": r"\b(?:Bearer|Basic|Token)\s+[A-Za-z0-9._~+/=-]{16,}",
}
"""What a secret looks like, by the words that tell of it."""

_SHAPES = {name: re.compile(pattern) for name, pattern in SHAPES.items()}
_ANY = re.compile("|".join(f"(?:{pattern})" for pattern in SHAPES.values()))


def redacted(text: str) -> str:
    """A text in which every secret shape is replaced."""
    return _ANY.sub(HIDDEN, text)


def shape_of(text: str) -> str | None:
    """What the text looks like, None where it looks like no secret."""
    return next((name for name, pattern in _SHAPES.items() if pattern.search(text)), None)
