"""What an image has to bring."""

from __future__ import annotations

import pytest

from rayml.doctor import image

KEY = "AKIA" + "Q3EGVWXYZ2345678"


def test_users():
    assert image.user(10_001).status == "ok"
    found = image.user(0)
    assert found.status == "wrong" and found.hint == "USER 10001:10001 in the Dockerfile"


def test_the_root_of_this_machine_can_be_written_to(tmp_path):
    found = image.root(tmp_path)
    assert found.status == "warning" and "readOnlyRootFilesystem: true" in found.hint
    assert image.root(image.Path("/sys")).status in ("ok", "warning")


@pytest.mark.parametrize(("home", "says"), [("", "HOME is not set"), ("/proc", "HOME (/proc) cannot be written to")])
def test_a_home_that_does_not_fit(home, says):
    found = image.folders({"HOME": home})
    assert found.status == "wrong" and says in found.found and "emptyDir" in found.hint


def test_a_good_home(tmp_path):
    assert image.folders({"HOME": str(tmp_path / "home")}).status == "ok"
    assert not list((tmp_path / "home").iterdir())


def test_secrets_are_named_and_not_shown():
    values = {
        "HF_TOKEN": "hf_abcdefghijklmnop",
        "SETTING": KEY,
        "HF_TOKEN_PATH": "/run/t",
        "RAY_AUTH_TOKEN": "by-the-pod",
    }
    found = image.secrets_in_environment(values)
    assert found.status == "wrong" and found.found == "the environment holds HF_TOKEN, SETTING"
    assert "`secrets:` in the cluster file" in found.hint
    assert image.secrets_in_environment({"PATH": "/bin", "RAY_AUTH_TOKEN": "by-the-pod"}).status == "ok"


def test_imports(tmp_path, monkeypatch):
    assert image.imports().status == "ok"
    (tmp_path / "ray.py").write_text("raise ImportError('libfoo.so')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = image.imports()
    assert found.status == "wrong" and "libfoo.so" in found.found and "requirements.lock" in found.hint


def test_modules_that_are_not_compiled(tmp_path, monkeypatch):
    (tmp_path / "not_compiled.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = image.compiled(("json.decoder", "not_compiled"))
    assert found.status == "warning" and "not compiled: not_compiled" in found.found and "compileall" in found.hint
