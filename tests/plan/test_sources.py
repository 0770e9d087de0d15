from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from rayml.errors import PlanError
from rayml.plan.sources import fingerprint, list_files
from rayml.spec.data import Source


def source(kind: str, path: str = "daten", **more: object) -> Source:
    fields = {"kind": kind, **({"path": path} if "function" not in more and "name" not in more else {}), **more}
    return TypeAdapter(Source).validate_python(fields)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1234")


def test_a_folder_is_listed_by_name_whatever_lies_between(tmp_path: Path) -> None:
    touch(tmp_path / "daten", "b.csv", "Übung/a.CSV", "a/ü.csv", "a-b.csv", "LIESMICH.md", ".DS_Store", "_tmp/x.csv")
    listing = list_files(source("csv"), tmp_path)
    assert [file.name for file in listing.files] == ["a-b.csv", "a/ü.csv", "b.csv", "Übung/a.CSV"]
    assert listing.ignored == ("LIESMICH.md",)
    assert {file.bytes for file in listing.files} == {4}
    assert listing.show("a/ü.csv") == "daten/a/ü.csv"


@pytest.mark.parametrize(
    ("path", "names", "shown"),
    [
        ("daten/x.csv", ["x.csv"], "daten/x.csv"),
        ("daten/*.csv", ["x.csv", "y.csv"], "daten/x.csv"),
        ("daten/**/*.csv", ["unten/z.csv", "x.csv", "y.csv"], "daten/unten/z.csv"),
        ("./daten/unten/z.csv", ["z.csv"], "daten/unten/z.csv"),
        ("*/x.csv", ["daten/x.csv"], "daten/x.csv"),
    ],
)
def test_a_file_and_globs(tmp_path: Path, path: str, names: list[str], shown: str) -> None:
    touch(tmp_path, "daten/x.csv", "daten/y.csv", "daten/unten/z.csv")
    listing = list_files(source("csv", path), tmp_path)
    assert [file.name for file in listing.files] == names
    assert listing.show(names[0]) == shown


def test_an_absolute_path(tmp_path: Path) -> None:
    touch(tmp_path / "anderswo", "x.parquet")
    listing = list_files(source("parquet", str(tmp_path / "anderswo")), tmp_path / "job")
    assert [file.name for file in listing.files] == ["x.parquet"]


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "anderswo/1.png", "daten/hund/2.png")
    (tmp_path / "daten" / "katze").symlink_to(tmp_path / "anderswo")
    (tmp_path / "daten" / "hund" / "zurück").symlink_to(tmp_path / "daten")
    names = [file.name for file in list_files(source("image_folder"), tmp_path).files]
    assert names == ["hund/2.png", "katze/1.png"]


def test_folders_that_lead_to_each_other_are_listed_once(tmp_path: Path) -> None:
    touch(tmp_path, "daten/a/1.csv", "daten/b/2.csv")
    (tmp_path / "daten" / "a" / "x").symlink_to(tmp_path / "daten" / "b")
    (tmp_path / "daten" / "b" / "y").symlink_to(tmp_path / "daten" / "a")
    names = [file.name for file in list_files(source("csv"), tmp_path).files]
    assert names == ["a/1.csv", "a/x/2.csv", "b/2.csv", "b/y/1.csv"]


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        ("csv", "fehlt.csv", r"fehlt\.csv cannot be read: No such file or directory\n  .* holds daten, leer"),
        ("csv", "fehlt/tief/x.csv", r"holds daten, leer"),
        ("csv", "leer", r"leer holds no file that ends in \.csv; 0 others are there\n  the folder is empty"),
        ("csv", "daten", r"no file that ends in \.csv; 2 others are there\n  the first of them is hund/1\.png"),
        ("csv", "daten/*.csv", r"no file matches daten/\*\.csv below"),
        ("csv", "verweis.csv", r"verweis\.csv cannot be read: No such file"),
        ("csv", "x" * 300, r"xxx cannot be read: File name too long"),
        ("parquet", "daten", r"ends in \.parquet"),
        ("image_folder", "fehlt", r"fehlt does not exist; a folder is looked for here"),
        ("image_folder", "daten/hund/1.png", r"1\.png is a file; a folder is looked for here"),
        ("image_folder", "daten/hund", r"daten/hund/1\.png lies beside the class folders.*\n  move it and 0 others"),
    ],
)
def test_a_wrong_path_says_what_is_there(tmp_path: Path, kind: str, path: str, message: str) -> None:
    touch(tmp_path, "daten/hund/1.png", "daten/katze/2.jpg")
    (tmp_path / "leer").mkdir()
    (tmp_path / "verweis.csv").symlink_to(tmp_path / "weg.csv")
    with pytest.raises(PlanError, match=message) as raised:
        fingerprint(source(kind, path), tmp_path)
    assert raised.value.where == f"data.source.path {path}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    touch(tmp_path, "daten/zu/x.csv")
    (tmp_path / "daten" / "zu").chmod(0)
    with pytest.raises(PlanError, match="zu cannot be listed: Permission denied"):
        list_files(source("csv"), tmp_path)


def test_the_fingerprint_changes_with_the_files_and_with_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path, "daten/a.csv", "daten/b.csv")
    first = fingerprint(source("csv"), tmp_path)
    assert fingerprint(source("csv"), tmp_path) == first
    assert fingerprint(source("csv", "daten/*.csv"), tmp_path) == first
    (tmp_path / "daten").rename(tmp_path / "umgezogen")
    assert fingerprint(source("csv", "umgezogen"), tmp_path) == first
    seen = {first}

    def differs(change: object) -> None:
        found = fingerprint(source("csv", "umgezogen"), tmp_path)
        assert found not in seen, change
        seen.add(found)

    path = tmp_path / "umgezogen" / "a.csv"
    path.write_bytes(b"12345")
    differs("size")
    os.utime(path, ns=(1, 1))
    differs("time")
    path.rename(path.with_name("c.csv"))
    differs("name")
    touch(tmp_path, "umgezogen/d.csv")
    differs("another file")


def test_fingerprints_of_what_is_no_file(tmp_path: Path) -> None:
    sources = [
        source("sklearn", name="iris"),
        source("sklearn", name="wine"),
        source("callable", function="rows:f"),
        source("callable", function="rows:g"),
        source("callable", function="rows:f", args={"seed": 1}),
    ]
    assert len({fingerprint(each, tmp_path) for each in sources}) == len(sources)


def test_nothing_heavy_is_imported() -> None:
    heavy = ("ray", "torch", "pyarrow", "sklearn", "numpy")
    code = f"import sys, rayml.plan.sources; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
