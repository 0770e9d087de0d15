"""Fifty kinds of secrets, made up, and the contexts that they are met in: more than two hundred texts.

`KINDS` maps a kind to `(text, secrets)`: what is written, and the parts of it that must be nowhere afterwards.
"""

from __future__ import annotations

import base64
import hashlib
import json
from urllib.parse import quote


def letters(kind: str, length: int, alphabet: str = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789") -> str:
    """Characters that look random and are the same at each run."""
    found, number = "", 0
    while len(found) < length:
        block = hashlib.sha256(f"{kind} {number}".encode()).digest()
        found += "".join(alphabet[byte % len(alphabet)] for byte in block)
        number += 1
    return found[: length - 1] + "7"


def digits(kind: str, length: int) -> str:
    return letters(kind, length, "0123456789")


def hexes(kind: str, length: int) -> str:
    return letters(kind, length, "0123456789abcdef")


def upper(kind: str, length: int) -> str:
    return letters(kind, length, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def bare(*tokens: str) -> tuple[str, tuple[str, ...]]:
    """A secret that is known by its own shape."""
    return " ".join(tokens), tokens


def beside(before: str, secret: str, after: str = "") -> tuple[str, tuple[str, ...]]:
    """A secret that is known by what stands beside it."""
    return f"{before}{secret}{after}", (secret,)


def pem(kind: str, header: str) -> tuple[str, tuple[str, ...]]:
    lines = [letters(f"{kind} {number}", 64) for number in range(4)]
    return f"-----BEGIN {header}-----\n" + "\n".join(lines) + f"\n-----END {header}-----", tuple(lines)


JWT = f"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ{letters('jwt', 40)}.{letters('jwt signature', 43)}"
RAY_TOKEN = hexes("ray", 64)
"""Known by value: the tests put it into RAY_AUTH_TOKEN."""
SERVE_KEY = letters("serve", 43)
"""Known by value: RAYML_KEY."""

KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "aws key id": bare(f"AKIA{upper('akia', 16)}"),
    "aws session key id": bare(f"ASIA{upper('asia', 16)}"),
    "aws secret key": beside("aws_secret_access_key = ", letters("aws", 40)),
    "aws session token": beside("AWS_SESSION_TOKEN=", letters("session", 200)),
    "github classic": bare(f"ghp_{letters('ghp', 36)}"),
    "github oauth": bare(f"gho_{letters('gho', 36)}"),
    "github app": bare(f"ghs_{letters('ghs', 36)}"),
    "github fine": bare(f"github_pat_{letters('pat', 22)}_{letters('pat 2', 59)}"),
    "gitlab": bare(f"glpat-{letters('gitlab', 20)}"),
    "hugging face": bare(f"hf_{letters('hf', 34)}"),
    "openai": bare(f"sk-{letters('openai', 48)}"),
    "openai project": bare(f"sk-proj-{letters('proj', 60)}_{letters('proj 2', 40)}-{letters('proj 3', 40)}"),
    "anthropic": bare(f"sk-ant-api03-{letters('ant', 93)}-{letters('ant 2', 4)}AA"),
    "slack bot": bare(f"xoxb-{digits('slack', 12)}-{digits('slack 2', 12)}-{letters('slack 3', 24)}"),
    "slack user": bare(f"xoxp-{digits('slack', 12)}-{digits('slack 2', 12)}-{letters('slack 4', 32)}"),
    "slack hook": beside("https://", f"hooks.slack.com/services/T{upper('t', 9)}/B{upper('b', 9)}/{letters('h', 24)}"),
    "stripe": bare(f"sk_live_{letters('stripe', 24)}"),
    "stripe restricted": bare(f"rk_live_{letters('stripe r', 24)}"),
    "google api": bare(f"AIza{letters('aiza', 35)}"),
    "google oauth": bare(f"ya29.{letters('ya29', 120)}"),
    "azure storage": beside(
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=", letters("azure", 86) + "==", ";EndpointSuffix=core"
    ),
    "azure sas": beside("https://a.blob.core.windows.net/c?sv=2025-01-05&sr=b&sig=", quote(letters("sas", 43) + "=")),
    "jwt": bare(JWT),
    "pem": pem("pem", "PRIVATE KEY"),
    "pem rsa": pem("rsa", "RSA PRIVATE KEY"),
    "ssh": pem("ssh", "OPENSSH PRIVATE KEY"),
    "postgres url": beside("postgres://app:", letters("pg", 20), "@db.example.org:5432/app"),
    "https url": beside("https://oauth2:", letters("git", 20), "@git.example.org/x.git"),
    "redis url": beside("redis://:", letters("redis", 20), "@redis:6379/0"),
    "token as user": beside("https://", letters("user", 40), "@git.example.org/x.git"),
    "bearer": beside("Authorization: Bearer ", letters("bearer", 40)),
    "basic": beside("Authorization: Basic ", b64(f"app:{letters('basic', 16)}")),
    "npm": bare(f"npm_{letters('npm', 36)}"),
    "npmrc": beside("//registry.npmjs.org/:_authToken=", letters("npmrc", 36)),
    "pypi": bare(f"pypi-AgEIcHlwaS5vcmc{letters('pypi', 150)}"),
    "docker": bare(f"dckr_pat_{letters('docker', 27)}"),
    "docker config": beside('{"auths": {"ghcr.io": {"auth": "', b64(f"app:{letters('auths', 20)}"), '"}}}'),
    "sendgrid": bare(f"SG.{letters('sg', 22)}.{letters('sg 2', 43)}"),
    "twilio": bare(f"SK{hexes('twilio', 32)}"),
    "datadog": beside("DD_API_KEY=", hexes("datadog", 32)),
    "new relic": bare(f"NRAK-{upper('nr', 27)}"),
    "wandb": beside("WANDB_API_KEY=", hexes("wandb", 40)),
    "mlflow": beside("MLFLOW_TRACKING_PASSWORD=", letters("mlflow", 18)),
    "ray token": bare(RAY_TOKEN),
    "serve key": bare(SERVE_KEY),
    "kubeconfig token": beside("    token: ", letters("kube", 60)),
    "kubeconfig key": beside("    client-key-data: ", b64(letters("key data", 90))),
    "netrc": beside("machine git.example.org login app password ", letters("netrc", 18)),
    "env assignment": beside("export DB_PASSWORD='", letters("env", 18), "'"),
    "json": beside('{"user": "app", "token": "', letters("json", 24), '"}'),
    "json in json": beside('{\\"password\\": \\"', letters("json 2", 24), '\\"}'),
    "yaml": beside("- password: ", letters("yaml", 14)),
    "kubernetes secret": beside("  password: ", b64(letters("k8s", 21))),
    "python argument": beside("connect(host='db', password='", letters("python", 16), "')"),
    "flag": beside("curl -u app:", letters("curl", 16), " https://example.org"),
    "long flag": beside("tool --api-key ", letters("flag", 24)),
    "query": beside("https://example.org/v1?user=a&access_token=", letters("query", 30), "&x=1"),
    "vault": bare(f"hvs.{letters('vault', 90)}"),
    "databricks": bare(f"dapi{hexes('dapi', 32)}"),
    "nvidia": bare(f"nvapi-{letters('nvapi', 64)}"),
    "grafana": bare(f"glsa_{letters('glsa', 32)}_{hexes('glsa', 8)}"),
    "age": bare(f"AGE-SECRET-KEY-1{upper('age', 58)}"),
    "telegram": bare(f"{digits('tg', 10)}:AA{letters('tg', 33)}"),
}

CONTEXTS = {
    "bare": lambda text: text,
    "sentence": lambda text: (
        f"the step could not be finished: {text} was refused by the server, try it again"
        if "\n" not in text and not text.startswith(("- ", " "))
        else f"the step could not be finished:\n{text}\nwas refused"
    ),
    "json": lambda text: json.dumps({"event": "note", "text": text, "n": 3}),
    "query": lambda text: f"GET https://example.org/get?next=1&value={text}",
    "traceback": lambda text: (
        f'Traceback (most recent call last):\n  File "net.py", line 7, in f\n    raise E(x)\nE: {text}\n'
        if not text.startswith(("- ", " "))
        else f'Traceback (most recent call last):\n  File "net.py", line 7, in f\n    raise E(x)\nE: config:\n{text}\n'
    ),
}
CASES = {
    f"{kind} in {context}": (put(text), secrets)
    for kind, (text, secrets) in KINDS.items()
    for context, put in CONTEXTS.items()
}


def leaks(said: str, secrets: tuple[str, ...]) -> list[str]:
    """Parts of secrets that are long enough to tell of them: the middle of each, ten characters at a time."""
    pieces = [secret[at : at + 10] for secret in secrets for at in range(len(secret) // 3, max(len(secret) - 9, 1))]
    return [piece for piece in pieces if piece in said]
