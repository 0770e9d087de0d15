"""The page: whole for every fate of a run, self-contained, escaped, and readable by a machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from rayml.artifacts.manifest import digest
from rayml.report import view
from rayml.report.page import SECTIONS, render, write_report
from rayml.report.record import collect

TIMES = "\N{MULTIPLICATION SIGN}"
HEAVY = {"ray", "torch", "onnx", "onnxruntime", "sklearn", "numpy", "pyarrow", "pandas", "PIL"}
VOID = {"meta", "img", "br", "rect", "line", "path", "circle"}


class Page(HTMLParser):
    """What a test asks of a page: its elements, their attributes, the text of sections, and whether tags close."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.unclosed, self.texts = [], [], [], {}
        self.section = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.elements.append((tag, named))
        if tag in ("section", "header"):
            self.section = named["id"]
            self.texts[self.section] = ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data):
        if self.section and "style" not in self.open:
            self.texts[self.section] += f" {data.strip()}" if data.strip() else ""

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


FATES = {
    "passed": {},
    "tabular": {"classes": ("ja", "nein"), "tabular": True},
    "thirty": {"classes": tuple(f"Straße {index}" for index in range(30))},
    "hundred": {"classes": tuple(f"Käfer {index}" for index in range(100))},
    "one epoch": {"epochs": 1},
    "failed in data": {"fate": "failed", "stop_in": "data"},
    "failed in train": {"fate": "failed", "stop_in": "train"},
    "gate not met": {"fate": "gate", "stop_in": "evaluate"},
    "parity not met": {"fate": "gate", "stop_in": "export"},
    "interrupted": {"fate": "interrupted", "stop_in": "serve"},
    "killed": {"fate": "killed", "stop_in": "train"},
}


def page_of(runs, **made):
    return Page(write_report(runs.make(**made), runs.store).read_text(encoding="utf-8"))


@pytest.fixture(params=FATES, ids=lambda name: name.replace(" ", "-"))
def any_page(request, runs):
    return write_report(runs.make(**FATES[request.param]), runs.store).read_text(encoding="utf-8")


def test_every_section_is_there_once_and_says_something(any_page):
    page = Page(any_page)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"summary", *SECTIONS} <= set(ids)
    for name, title in SECTIONS.items():
        text = page.texts[name].strip()
        assert text.startswith(title)
        assert len(text) > len(title), name


def test_tags_close_in_order(any_page):
    page = Page(any_page)
    assert page.unclosed == []
    assert page.open == []


def test_nothing_is_fetched_and_nothing_runs(any_page):
    page = Page(any_page)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert "http://" not in any_page and "https://" not in any_page and "@import" not in any_page
    assert re.findall(r"url\((?!#)", any_page) == []
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for tag, attributes in page.elements:
        if "href" in attributes:
            assert tag == "a"
            assert attributes["href"][0] == "#" and attributes["href"][1:] in ids
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/png;base64,")
        assert not [name for name in attributes if name.startswith("on")]


def test_pictures_have_words_and_tables_have_headers(any_page):
    page = Page(any_page)
    assert all(image["alt"] for image in page.all("img"))
    assert all(drawing.get("role") == "img" for drawing in page.all("svg"))
    assert len(page.all("title")) >= 1 + len(page.all("svg"))
    assert all(header.get("scope") in ("row", "col") for header in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def test_a_passed_run_shows_its_numbers(runs):
    page = page_of(runs)
    assert "passed" in page.texts["summary"] and "5 steps ran, 5 gates met" in page.texts["summary"]
    assert "95 % interval 96.1 % to 100 %" in page.texts["summary"]
    assert f"1.2 {TIMES} 10⁻⁷ at most 10⁻⁴" in page.texts["promises"]
    assert "same file" in page.texts["promises"] and f"1.8 {TIMES} 10⁻⁷" in page.texts["promises"]
    assert "evaluate Accuracy 0.9833 ≥ 0.9 met" in page.texts["metrics"]
    assert "best: epoch 14" in page.texts["curves"]
    assert "1 taken for 2 1 of 18 rows" in page.texts["confusion"]
    assert "optimizer.lr 0.002" in page.texts["plan"]
    assert "1,799 rows in 10 classes" in page.texts["data"]
    assert "AMD EPYC 7R13 <48 cores>" in page.texts["environment"]
    assert len(page.all("img")) == 15


def test_a_cached_run_shows_the_curves_of_the_run_that_trained(runs):
    first = page_of(runs)
    second = page_of(runs, run="ziffern-20261121-233001-9c0d")
    assert "5 steps cached, 5 gates met" in second.texts["summary"]
    for section in ("curves", "confusion", "classes", "samples", "data"):
        assert second.texts[section] == first.texts[section]
    assert "cached; took 9.60 s when it was made" in second.texts["times"]
    assert "ziffern-20261121-232618-4f1a" in second.texts["lineage"]


def test_a_failed_run_says_why_and_what_is_missing(runs):
    page = page_of(runs, fate="failed", stop_in="train")
    assert "train: worker 1 of 2 failed: ValueError: <b>größer</b> als erlaubt" in page.texts["summary"]
    assert "The run did not reach evaluate." in page.texts["confusion"]
    assert "best: epoch 6" in page.texts["curves"], "epochs of a step that failed come from its events"
    assert "not judged" in page.texts["metrics"]
    assert "failed after" in page.texts["times"] and "2 attempts" in page.texts["times"]
    assert "tried again: the worker died" in page.texts["plan"]


def test_a_gate_that_is_not_met_fails_the_run_and_keeps_its_results(runs):
    page = page_of(runs, fate="gate", stop_in="evaluate")
    assert "failed" in page.texts["summary"] and "accuracy is 0.9111" in page.texts["summary"]
    assert "0.9111 ≥ 0.9 not met" in page.texts["metrics"]
    assert "1 taken for 2" in page.texts["confusion"]


@pytest.mark.parametrize("fate", ["interrupted", "killed"])
def test_a_run_that_was_cut_off_says_where(runs, fate):
    page = page_of(runs, fate=fate, stop_in="train")
    assert "incomplete" in page.texts["summary"]
    assert "stopped in train, at epoch 7 of 15" in page.texts["summary"]
    assert "The run stopped in train." not in page.texts["curves"], "the epochs that were finished are shown"


def test_a_job_without_a_section_says_so(runs):
    folder = runs.make()
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    plan["steps"] = plan["steps"][:2]
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    page = Page(render(collect(folder, runs.store)))
    assert "The job has no evaluate section." in page.texts["confusion"]
    assert "The job exports nothing" in page.texts["promises"]
    assert "The job sets no gate." in page.texts["metrics"]


def test_what_a_step_was_made_with_is_short_and_whole_in_a_title(runs):
    runs.made_with = {"image": runs.IMAGE, "package_code": "a" * 64, "stage_code": "b" * 64, "user_code": "c" * 64}
    page = page_of(runs)
    said = f"Made with image rayml@{'1' * 12} , rayml {'a' * 12} , your code {'c' * 12}"
    assert page.texts["lineage"].count(said) == 5
    titles = [attributes.get("title") for attributes in page.all("abbr")]
    assert all(titles.count(whole) == 5 for whole in (runs.IMAGE, "a" * 64, "c" * 64))


def test_who_started_a_run_is_said_each_time(runs):
    folder = runs.make()
    runs.submit(folder, 1, user="anna", host="<b>old</b>", image=None, cluster="local")
    runs.submit(folder, 2)
    page = Page(write_report(folder, runs.store).read_text(encoding="utf-8"))
    assert page.unclosed == [] and "By jürgen at laptop-7, the last of 2 Machine" in page.texts["summary"]
    assert "21 Nov 2026, 21:20 UTC anna <b>old</b> local 0.1.0," in page.texts["lineage"]
    assert f"21 Nov 2026, 22:20 UTC jürgen laptop-7 kuberay, rayml@{'1' * 12} 0.1.0," in page.texts["lineage"]
    assert {runs.IMAGE, digest("plan")} <= {attributes.get("title") for attributes in page.all("abbr")}


def test_a_record_that_somebody_made_up_stays_text(runs):
    folder = runs.make()
    runs.submit(folder, 1, time="yesterday", plan="<script>", image="my-image:latest")
    (folder / "submitted" / "torn.json").write_text("{")
    page = Page(write_report(folder, runs.store).read_text(encoding="utf-8"))
    assert not page.all("script") and page.open == []
    assert "yesterday jürgen laptop-7 kuberay, my-image:latest" in page.texts["lineage"]
    assert "By jürgen at laptop-7 Machine" in page.texts["summary"], "there is no earlier start to speak of"


def test_nothing_is_said_of_an_origin_that_nobody_recorded(any_page):
    page = Page(any_page)
    assert "Made with" not in page.texts["lineage"] and "started this run" not in page.texts["lineage"]
    assert " By " not in page.texts["summary"]
    assert not [attributes for _, attributes in page.elements if attributes.get("id") == "starts"]


def test_names_from_outside_stay_text(runs):
    evil = ('<script>alert("1")</script>', "\"><img src=x onerror='y'>", "a & b", "Größe </title>", "{{ 7 * 7 }}")
    folder = runs.make(classes=evil)
    page = Page(write_report(folder, runs.store).read_text(encoding="utf-8"))
    assert page.unclosed == [] and page.open == [] and not page.all("script")
    assert all(name in page.texts[section] for name in evil for section in ("confusion", "classes", "data"))
    assert not [attributes for _, attributes in page.elements if "onerror" in attributes]


def test_names_from_outside_stay_text_in_the_map_of_many_classes(runs):
    classes = tuple(f"<script>{index}" for index in range(50))
    page = page_of(runs, classes=classes)
    assert page.unclosed == [] and not page.all("script")
    assert len(page.all("svg")) == 4
    assert "<script>1 → <script>2: 1 of 4" in page.texts["confusion"]


def test_a_picture_that_is_no_png_data_uri_is_left_out(runs):
    record = collect(runs.make(), runs.store)
    for uri in ("javascript:alert(1)", "data:image/svg+xml;base64,AAAA", 'data:image/png;base64,AA" onload="x'):
        record["evaluation"]["samples"] = [{**record["evaluation"]["samples"][0], "image": uri}]
        assert not Page(render(record)).all("img")


def test_a_matrix_of_few_classes_is_a_table_and_one_of_many_is_drawn(runs):
    few = page_of(runs, classes=tuple(f"Straße {index}" for index in range(view.TABLE_CLASSES)), run="a")
    many = page_of(runs, classes=tuple(f"Straße {index}" for index in range(view.TABLE_CLASSES + 1)), run="b")
    matrix = [attributes for attributes in few.all("table") if "matrix" in attributes.get("class", "")]
    assert len(matrix) == 1
    assert not [attributes for attributes in many.all("table") if "matrix" in attributes.get("class", "")]
    assert [attributes for attributes in many.all("svg") if attributes["class"] == "map"]


def test_the_report_needs_no_heavy_library():
    code = "import sys, rayml.report.page; print(*{name.partition('.')[0] for name in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "rayml" in found.stdout.split()
    assert HEAVY.isdisjoint(found.stdout.split())
