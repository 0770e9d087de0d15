"""S11: a secret that is written out in a source file does not travel, and ordinary code does."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from secret_table import JWT, KINDS, RAY_TOKEN, leaks

from rayml.backends.ray.packing import SEARCHED, pack
from rayml.errors import SpecError
from rayml.redact.shapes import ISSUED, WHOLE
from rayml.redact.sources import secrets_in_source

ROOT = Path(__file__).parents[2]
ALONE = {
    kind: (text, secrets)
    for kind, (text, secrets) in KINDS.items()
    if any(shape.compiled.search(text) for shape in (*WHOLE, *ISSUED))
}
"""Kinds that are known without the name beside them."""
HF = KINDS["hugging face"][0]


def refused(folder):
    with pytest.raises(SpecError) as caught:
        pack("{}", folder)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_most_kinds_are_known_alone():
    assert len(ALONE) >= 35


@pytest.mark.parametrize("kind", ALONE)
def test_a_secret_in_code_is_refused_at_its_line(tmp_path, kind):
    text, secrets = ALONE[kind]
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "net.py").write_text(f'"""Ümlaut."""\nimport os\n\nKEY = """{text}"""\n')
    said = refused(tmp_path)
    assert f"{tmp_path / 'part' / 'net.py'}:4: code: " in said
    assert "is written out" in said and 'os.environ["NAME"]' in said and ".rayignore" in said
    assert leaks(said, secrets) == []


def test_every_secret_is_named_at_once(tmp_path):
    (tmp_path / "a.py").write_text(f"x = 1\na = '{HF}'\n\nb = '{KINDS['github classic'][0]}'; c = '{HF}'\n")
    (tmp_path / "b.yaml").write_text(f"token: {JWT}\n")
    lines = refused(tmp_path).splitlines()
    assert [line.partition(" is written")[0].rpartition("/")[2] for line in lines] == [
        "a.py:2: code: a token of Hugging Face",
        "a.py:4: code: a token of GitHub",
        "a.py:4: code: a token of Hugging Face",
        "b.yaml:1: code: a JSON Web Token",
    ]


def test_a_value_that_this_environment_knows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", RAY_TOKEN)
    (tmp_path / "net.py").write_text(f"\ntoken = '{RAY_TOKEN}'\n")
    said = refused(tmp_path)
    assert "net.py:2: code: a secret of this environment is written out" in said
    assert RAY_TOKEN not in said


def test_a_password_that_is_a_plain_word_is_no_reason(tmp_path, monkeypatch):
    """PGPASSWORD=postgres is on many a developer's machine, and `postgresql://` in the code."""
    monkeypatch.setenv("PGPASSWORD", "postgres")
    (tmp_path / "net.py").write_text("url = 'postgresql://localhost'\n")
    pack("{}", tmp_path)


def test_a_file_that_is_ignored_is_no_reason(tmp_path):
    (tmp_path / "keys.py").write_text(f"KEY = '{HF}'\n")
    refused(tmp_path)
    (tmp_path / ".rayignore").write_text("keys.py\n")
    assert pack("{}", tmp_path).files() == ["plan.json", "code/.rayignore"]


ORDINARY = [
    "password = os.environ['DB_PASSWORD']",
    "client = connect(password=password, api_key=settings.api_key)",
    "url = f'https://{user}:{token}@{host}/{path}'",
    "url = 'postgresql://user:password@localhost:5432/test'",
    "headers = {'Authorization': f'Bearer {load_token_of_user_1234567890()}'}",
    "parser.add_argument('--api-key', help='or HF_TOKEN')",
    "sig=computeTheSignatureOfTheRequest(body)",
    "KEY = 'AKIAIOSFODNN7EXAMPLE'",
    "SECRET = 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY'",
    "KEY = 'sk_test_4eC39HqLyjWDarjtT1zdp7dc'",
    "TOKEN = 'hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'",
    "TOKEN = 'ghp_************************************'",
    "if text.startswith('-----BEGIN RSA PRIVATE KEY-----'): raise ValueError('a key')",
    "PEM = re.compile(r'-----BEGIN [A-Z ]*PRIVATE KEY-----[\\s\\S]*?-----END [A-Z ]*PRIVATE KEY-----')",
    "SHAPE = re.compile(r'ghp_[A-Za-z0-9]{36}|AKIA[A-Z0-9]{16}|sk-[A-Za-z0-9]{48}')",
    "digest = '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'",
    "BASE = 'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIn0.SflKxwRJSMeK'",
]


@pytest.mark.parametrize("line", ORDINARY)
def test_ordinary_code_travels(line):
    assert list(secrets_in_source(f"import re\n{line}\nx = 1\n")) == []


def test_the_source_of_rayml_and_of_its_libraries_holds_none():
    site = Path(pytest.__file__).parents[1]
    folders = [ROOT / "rayml", ROOT / "jobs", site / "sklearn" / "utils", site / "huggingface_hub", site / "requests"]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".yaml", ".md")]
    assert len(files) > 500
    found = [(path, *each) for path in files for each in secrets_in_source(path.read_text(errors="ignore"))]
    assert found == []


def test_what_is_no_text_or_is_data_by_its_size_is_not_searched(tmp_path):
    (tmp_path / "picture.bin").write_bytes(b"\xff\xfe" + HF.encode())
    (tmp_path / "rows.csv").write_text(f"{HF}\n" + "1,2\n" * (SEARCHED // 4))
    pack("{}", tmp_path)


@pytest.mark.parametrize("content", ["a" * 2**20, "hf_" * 349_000, "-----BEGIN " * 95_000, "eyJa.eyJ" * 131_000])
def test_a_hostile_file_is_searched_quickly(content):
    start = time.process_time()
    list(secrets_in_source(content))
    assert time.process_time() - start < 5


def test_five_hundred_files_are_searched_in_a_moment():
    body = "\n".join(f"def function_{n}(argument):\n    return compute_something(argument, {n})\n" for n in range(80))
    start = time.process_time()
    for _ in range(500):
        list(secrets_in_source(body))
    assert time.process_time() - start < 1, "0.1 s for 500 files of 6 KB on a laptop"


CLUSTERS = {
    "ray": "kind: ray\naddress: http://127.0.0.1:1\nstorage: /tmp/x\ncpus: 4\n",
    "kuberay": (ROOT / "cluster" / "cpu-sweep.yaml").read_text(),
}


@pytest.mark.parametrize("kind", CLUSTERS)
def test_a_dry_run_refuses_too(tmp_path, kind):
    (tmp_path / "rows.py").write_text(f"def rows():\n    return []\nKEY = '{HF}'\n")
    (tmp_path / "cluster.yaml").write_text(CLUSTERS[kind])
    (tmp_path / "job.yaml").write_text(
        'name: x\nseed: 7\ndata:\n  source: {kind: callable, function: "rows:rows"}\n  label: y\n'
        "task: {kind: tabular_classification}\nmodel: {kind: mlp}\ntrain: {workers: 1}\ncode: .\n"
    )
    argv = ["submit", "job.yaml", "--dry-run", "--cluster", "cluster.yaml"]
    program = Path(sys.executable).with_name("rayml")
    done = subprocess.run([str(program), *argv], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert "rows.py:3: code: a token of Hugging Face is written out" in done.stderr + done.stdout
    assert HF not in done.stderr + done.stdout
