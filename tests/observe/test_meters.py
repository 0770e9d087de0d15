"""A training's metrics reach the page that Prometheus scrapes, under the names that alerts and dashboards use."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from s3 import free_ports

from rayml.observe.meters import Meters

K8S = Path(__file__).parents[2] / "k8s"
SCRIPT = """
import sys, time
import ray
ray.init(num_cpus=1, object_store_memory=80 * 2**20, include_dashboard=False, _metrics_export_port=int(sys.argv[1]))
from rayml.observe.meters import Meters
meters = Meters("wine-1", "wine")
meters.show({"kind": "step_started", "step": "train"})
meters.show({"kind": "progress", "epoch": 3, "batches": 10, "batch": 4, "loss": 0.5})
meters.show({"kind": "progress", "epoch": 3, "batches": 10, "batch": 9, "loss": 0.375})
meters.show({"kind": "progress", "epoch": 3, "batches": 10, "batch": 7, "loss": 0.375})
meters.show({"kind": "epoch", "step_index": 30, "train/loss": 0.25})
print("ready", flush=True)
sys.stdin.read()
"""


def metrics_of_a_node(patience_s: float) -> dict[str, str]:
    """What the page of a one-node cluster has of ours, whose driver counts steps."""
    port = free_ports(1)[0]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, str] = {}
    try:
        deadline = time.monotonic() + patience_s
        while len(found) < 2 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.5)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    page = answer.read().decode()
            except OSError:
                continue
            found = dict(re.findall(r'^ray_(rayml_\w+){[^}]*run="wine-1"[^}]*} (\S+)$', page, re.MULTILINE))
    finally:
        process.communicate("", timeout=60)
    return found


@pytest.mark.ray
def test_steps_and_loss_are_on_the_page_of_the_node():
    # On a starved machine a driver of Ray gives up its exporter after 30 s, and a raylet itself after 15: once more.
    found = metrics_of_a_node(100) or metrics_of_a_node(100)
    # From 24 to 29, and after a failure from 27 to 30.
    assert found == {"rayml_train_steps_total": "8.0", "rayml_train_loss": "0.25"}


def test_what_alerts_and_dashboards_read_of_ours_is_what_we_export():
    texts = [path.read_text() for path in (K8S / "components" / "monitoring").rglob("*") if path.is_file()]
    used = {name for text in texts for name in re.findall(r"\brayml_train_\w+", text)}
    assert used == {"rayml_train_steps_total", "rayml_train_loss"}


def test_nothing_is_counted_outside_of_a_cluster():
    Meters("wine-1", "wine").show({"kind": "progress", "epoch": 1, "batches": 10, "batch": 4, "loss": 0.5})
