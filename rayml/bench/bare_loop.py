"""The limit of `rayml bench train`: forward, backward and step on tensors that are there already, and nothing else.

`python -m rayml.bench.bare_loop SETTINGS` says `ready`, waits for a line, then prints its samples per second. One
process per rank runs at the same time; they do not talk to each other.
"""

from __future__ import annotations

import sys
import time

import torch
from torch.nn import functional
from torch.optim import AdamW

from rayml.bench.train_settings import load_settings
from rayml.ml.models import build_model
from rayml.ml.shards import ShardSet, load_schema

SECONDS = 4.0
WARM_UP_S = 1.0


def main(path: str) -> None:
    """Measure for four seconds."""
    settings = load_settings(path)
    torch.set_num_threads(settings.threads)
    share = settings.batch_size // settings.ranks
    shards = ShardSet.open(settings.data, "train")
    images, labels = (torch.tensor(column) for column in shards.rows(0, share))
    model = build_model(settings.model, load_schema(settings.data), None)
    optimizer = AdamW(model.parameters(), lr=settings.lr, weight_decay=0.01, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    started = time.perf_counter()
    while time.perf_counter() - started < WARM_UP_S:
        step()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        step()
        steps += 1
    sys.stdout.write(f"{steps * share / (time.perf_counter() - started)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
