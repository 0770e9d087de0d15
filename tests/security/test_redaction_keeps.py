"""What is no secret stays as it is: digests, names, dates, paths and sentences; and looking for secrets is cheap."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayml.redact.named import without_named
from rayml.redact.shapes import without_shapes
from rayml.redact.text import cleaned, redacted

ROOT = Path(__file__).parents[2]
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
ORDINARY = [
    SHA256,
    f"sha256:{SHA256}",
    f"registry.example.org:5000/rayml/rayml@sha256:{SHA256}",
    f"docker://ghcr.io/ray-project/ray@sha256:{SHA256}",
    f"model.safetensors {SHA256} 1,203,112 bytes",
    f"_ray_pkg_{SHA256[:32]}.zip",
    f"gcs://_ray_pkg_{SHA256[:32]}.zip",
    "415193d0f7c1a9e0d1c2b3a4958671605f4e3d2c",
    "415193d A cluster's nodes are read in one place",
    "digits-20261126-191157-3fa2",
    "digits-a81bc81bde",
    "data-5d41402abc4b2a76b9719d911017c592",
    "step-000000120-3fa2c81b",
    "raysubmit_V4UZPSYwxHQNJyjB",
    "2026-11-26T19:11:57.123456+00:00",
    "2026-11-26 19:11:57,123 INFO worker.py:1234 -- Started a local Ray instance.",
    "epoch 3/15: train/loss 0.2312, val/loss 0.1999, val/accuracy 0.9722, 12,345 samples/s",
    "lr=0.0001234567890123, weight_decay=1e-05, betas=[0.9, 0.999]",
    "trial 7 done after 15 of 15 epochs in 12.3 s: val/accuracy 0.9722, lr=0.00212, width=16",
    "max_new_tokens=512 pad_token=<pad> eos_token: </s> num_tokens: 1048576",
    '{"pad_token": "[PAD]", "sep_token": "[SEP]", "tokenizer_class": "BertTokenizer"}',
    "TOKENIZERS_PARALLELISM=false",
    "sentence-transformers/all-MiniLM-L6-v2",
    "meta-llama/Llama-3.2-11B-Vision-Instruct",
    "resnet18.IMAGENET1K_V1",
    "sk-learn-digits-classifier-of-2026",
    "s3://bucket/sk-learn/model-2026-11-26",
    "risk-assessment-of-something-2026",
    "hf_internal_testing/tiny_random_bert",
    "hf_hub_download",
    "task-sk-resnet50-imagenet1k",
    "s3://my-bucket/runs/digits/artifacts/train/model.safetensors",
    "/home/user/.ray/auth_token",
    "/var/run/secrets/kubernetes.io/serviceaccount/token",
    "RAY_AUTH_TOKEN_PATH names this file",
    "RAY_AUTH_MODE=token",
    "put the cluster's token into RAY_AUTH_TOKEN, or into the file ~/.ray/auth_token",
    "the cluster refuses the token that was found here",
    "the token cannot be read: Permission denied",
    "jobs/gpt.yaml:14: train.strategy.zero_stage: 4 is not 0, 1, 2 or 3",
    "jobs/gpt.yaml:9: train.token: no such field; did you mean `tune`?",
    "cluster/gpu.yaml:3: redis.password: missing; write lower case letters, digits and dashes",
    "module `tokens_of_words:load_v2` has no attribute",
    "models.secret_santa:build",
    "function: token_data:rows",
    "password=$DB_PASSWORD",
    "token: ${env:NAME}",
    "--token $(cat token)",
    "api_key=None, token=None, password=''",
    "connect(token=token, password=self.password)",
    "token = find_token(home)",
    "valueFrom: {secretKeyRef: {name: rayml-ray-token, key: auth_token}}",
    "secretName: rayml-ray-token",
    "automountServiceAccountToken: false",
    "imagePullSecrets:\n  - name: regcred",
    "secrets: [wandb, hugging-face]",
    'curl -H "Authorization: Bearer $KEY" -d @rows.json http://127.0.0.1:8000/predict',
    "this endpoint asks for its key: Authorization: Bearer KEY",
    "docker run -u 1000:1000 --user 1000:1000 ray",
    "http://127.0.0.1:8265/api/jobs/",
    "https://user@git.example.org/x.git",
    "git@github.com:ray-project/ray.git",
    "mailto:someone@example.org, team@sub.example.org",
    "https://example.org/a:b@c?next=1&page=2&sort_key=name",
    "p50 1.2 ms, p99 3.4 ms at 0.0.0.0:8000",
    "192.168.0.1:6379 10.0.0.12:10001",
    "550e8400-e29b-41d4-a716-446655440000",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
    "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUY\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0B\n-----END PUBLIC KEY-----",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8Zf3 user@host",
    "Größe der Schlüsseldatei: 12 kB, Bärbel's Läufe",
    "Basic internationalization and Bearer authentication are described below",
    "key 5d41402abc4b2a76b9719d911017c592, cached, same key as run digits-20261126-191157-3fa2",
    "worker 3 of 8 failed: its process ended, killed by signal 9 (out of memory?)",
    "",
    "\n\t ",
]


def test_there_are_sixty_of_them():
    assert len(set(ORDINARY)) == len(ORDINARY) >= 60


@pytest.mark.parametrize("text", ORDINARY)
def test_it_stays_as_it_is(text):
    assert redacted(text) == text
    assert cleaned({"text": text, "list": [text]}) == {"text": text, "list": [text]}


@pytest.mark.parametrize(
    "pattern", ["tests/golden/kuberay/*/*.yaml", "jobs/*.yaml", "cluster/*.yaml", "k8s/**/*.yaml", "docs/adr/*.md"]
)
def test_what_the_project_ships_stays_as_it_is(pattern):
    """Manifests and job files name secrets in many ways, and hold none."""
    paths = sorted(ROOT.glob(pattern))
    assert paths
    assert [str(path) for path in paths if redacted(text := path.read_text()) != text] == []


def test_a_document_keeps_its_numbers_and_its_form():
    document = {"loss": 0.25, "n": 3, "none": None, "yes": True, "nested": [[1, 2], {"a": []}]}
    assert cleaned(document) == document
    assert cleaned({"shape": (1, 2)}) == {"shape": [1, 2]}


def microseconds(text, times=2000):
    redacted(text)
    start = time.process_time()
    for _ in range(times):
        redacted(text)
    return (time.process_time() - start) / times * 1e6


def test_a_line_of_a_log_costs_little():
    """13 us for a line of an epoch, 25 for one that speaks of keys, on a machine that is not in use."""
    assert microseconds("epoch 3/15: train/loss 0.2312, val/loss 0.1999, val/accuracy 0.9722, 12,345 samples/s") < 150
    assert (
        microseconds(f"step train: key {SHA256}, cached from run digits-20261126-191157-3fa2, token of the head") < 300
    )


STUFF = [
    *(
        "-eyJaaaaa",
        "-----BEGIN A",
        "-----BEGIN PRIVATE KEY-----",
        "://a:",
        "://",
        "SG.",
        "Bearer ",
        "sk-",
        "sk-a1",
        "xoxb-",
    ),
    *(
        "AKIA",
        "hf_ ",
        "token=",
        'token="',
        "token: ",
        "password:",
        '\\"token\\": \\"',
        "\\",
        "a",
        "a.",
        "a=",
        "'",
        '"token"',
    ),
    *(
        "login a password ",
        "--token ",
        "-u a:",
        "Authorization: ",
        "cookie: a=",
        "1//0",
        "8Q~",
        "pat",
        "dp.pt.",
        "fm2_",
    ),
    *(
        "github_pat_",
        "1234567890:AA",
        "key-",
        "0123456789abcdef",
        "AccountKey=",
        "discord.com/api/webhooks/1/",
        "x_token",
    ),
    *("\n", "token\n", "Private-Lines: 1\n", " ", "--a-", "glpat-.", "-us1", "NRAL", "AZDO", ".atlasv1.", '"auth": "'),
]


@pytest.mark.parametrize("text", STUFF)
def test_a_mebibyte_is_searched_in_one_pass(text):
    whole = (text * (2**20 // len(text) + 1))[: 2**20]
    start = time.process_time()
    without_named(without_shapes(whole))
    assert time.process_time() - start < 4


def test_nothing_is_compiled_before_it_is_needed():
    program = (
        "import time; start = time.perf_counter(); import rayml.redact.text; spent = time.perf_counter() - start\n"
        "import sys; print(spent, any('torch' in name or name == 'ray' for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    seconds, heavy = done.stdout.split()
    assert float(seconds) < 0.2
    assert heavy == "False"
