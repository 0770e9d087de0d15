"""What is left to do after a run: Ray's logs are kept where there is room for them, its folder goes in any case."""

from __future__ import annotations

import json
import shutil

import pytest

from rayml.run import session


@pytest.mark.parametrize("disk", ["free", "full"])
def test_rays_folder_is_removed_and_its_logs_are_kept_if_they_fit(tmp_path, monkeypatch, disk):
    run, temporary = tmp_path / "run", tmp_path / "rayml-x"
    logs = temporary / "ray" / "session_2026" / "logs"
    logs.mkdir(parents=True)
    run.mkdir()
    (logs / "raylet.out").write_text("grüße")
    record = {"temporary": str(temporary), "session": 2**22 + 1, "boot": "another start of this machine"}
    (run / session.RECORD).write_text(json.dumps(record))
    if disk == "full":

        def refuse(*_, **__):
            raise shutil.Error([("a", "b", "No space left on device")])

        monkeypatch.setattr(shutil, "copytree", refuse)
    session.clean(run)
    assert not temporary.exists()
    assert not (run / session.RECORD).exists()
    assert (run / "logs" / "ray" / "session_2026" / "raylet.out").exists() == (disk == "free")
