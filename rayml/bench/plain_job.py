"""The alternative of `main job`: what a user writes by hand for jobs/digits.yaml, with the libraries' own defaults.

`python -m rayml.bench.plain_job` reads the digits, splits them with Ray Data, trains on two Ray Train workers with a
checkpoint per epoch, exports the best one to ONNX, measures it, serves it with Ray Serve and asks the endpoint. It
prints what it did as one line of JSON. It keeps no record, has no key, and does everything again every time.
"""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import ray
import torch
from numpy.typing import NDArray
from ray import serve, train
from ray.train import Checkpoint, CheckpointConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from starlette.requests import Request
from torch import Tensor, nn

EPOCHS, BATCH_SIZE, WORKERS, LR, SEED = 15, 64, 2, 2e-3, 7
VAL_ROWS, TEST_ROWS = 180, 179


class Network(nn.Module):
    """`[batch, 8, 8] uint8` to `[batch, 10]` logits; layer by layer the small_cnn of the job."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, kernel_size=3, padding=1),
            nn.GroupNorm(4, 32),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),
            nn.GroupNorm(4, 64),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 10),
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers((image.to(torch.float32).unsqueeze(1) - self.mean) / self.std)
        return logits


def train_loop(config: dict[str, Any]) -> None:
    """What each worker runs."""
    torch.manual_seed(SEED)
    model = prepare_model(Network(config["mean"], config["std"]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    rows, val = train.get_dataset_shard("train"), train.get_dataset_shard("val")
    size = BATCH_SIZE // WORKERS
    for epoch in range(EPOCHS):
        model.train()
        seen = 0
        for batch in rows.iter_torch_batches(batch_size=size, local_shuffle_buffer_size=2000, local_shuffle_seed=epoch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(batch["image"]), batch["label"])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seen += len(batch["label"])
        model.eval()
        sums = torch.tensor([0.0, 0.0, seen])
        with torch.no_grad():
            for batch in val.iter_torch_batches(batch_size=size):
                sums[0] += nn.functional.cross_entropy(model(batch["image"]), batch["label"], reduction="sum")
                sums[1] += len(batch["label"])
        torch.distributed.all_reduce(sums)
        metrics = {"val_loss": (sums[0] / sums[1]).item(), "rows": int(sums[2])}
        with tempfile.TemporaryDirectory() as folder:
            if train.get_context().get_world_rank() == 0:
                torch.save(getattr(model, "module", model).state_dict(), Path(folder) / "model.pt")
                train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
            else:
                train.report(metrics)


@serve.deployment
class Endpoint:
    """Answers a JSON list of images with their labels and probabilities."""

    def __init__(self, model: bytes) -> None:
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    async def __call__(self, request: Request) -> list[dict[str, Any]]:
        images = np.asarray(await request.json(), dtype=np.uint8)
        (probabilities,) = self.session.run(None, {"image": images})
        return [{"label": int(row.argmax()), "probabilities": row.tolist()} for row in probabilities]


def main() -> None:
    """The whole way once."""
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    train_images, rest, train_labels, rest_labels = train_test_split(
        images, digits.target, test_size=VAL_ROWS + TEST_ROWS, stratify=digits.target, random_state=SEED
    )
    val_images, test_images, val_labels, test_labels = train_test_split(
        rest, rest_labels, test_size=TEST_ROWS, stratify=rest_labels, random_state=SEED
    )
    fitted = {"mean": float(train_images.mean()), "std": float(train_images.std())}

    with tempfile.TemporaryDirectory(prefix="plain-job-") as name:
        ray.init(address="local")
        folder = Path(name)
        datasets = {"train": as_dataset(train_images, train_labels), "val": as_dataset(val_images, val_labels)}
        checkpoint, history = fit(datasets, fitted, folder)
        model = Network(**fitted).eval()
        model.load_state_dict(torch.load(Path(checkpoint.path) / "model.pt", weights_only=True))
        with torch.no_grad():
            expected = torch.softmax(model(torch.from_numpy(test_images)), dim=1).numpy()
        exported = export(model, folder / "model.onnx")
        session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
        (probabilities,) = session.run(None, {"image": test_images})
        served = ask(exported, test_images)
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()

    answers = probabilities.argmax(axis=1)
    found = {
        "rows": [len(train_images), len(val_images), len(test_images)],
        "rows_seen": sum(record["rows"] for record in history),
        "epochs": len(history),
        "accuracy": float(accuracy_score(test_labels, answers)),
        "export_difference": float(np.abs(expected - probabilities).max()),
        "endpoint_difference": float(np.abs(expected - np.array([row["probabilities"] for row in served])).max()),
        "endpoint_mismatches": int((np.array([row["label"] for row in served]) != expected.argmax(axis=1)).sum()),
    }
    sys.stdout.write(json.dumps(found) + "\n")


def as_dataset(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> ray.data.Dataset:
    """Rows for Ray Data, in memory."""
    return ray.data.from_items([{"image": image, "label": label} for image, label in zip(images, labels, strict=True)])


def fit(
    datasets: dict[str, ray.data.Dataset], fitted: dict[str, float], folder: Path
) -> tuple[Checkpoint, list[dict[str, Any]]]:
    """The best checkpoint, and the metrics of each epoch."""
    # On two cores two workers leave Ray Data none: without this the first epoch never starts.
    in_memory = {name: dataset.materialize() for name, dataset in datasets.items()}
    result = TorchTrainer(
        train_loop,
        train_loop_config=fitted,
        datasets=in_memory,
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=RunConfig(
            storage_path=str(folder),
            name="digits",
            checkpoint_config=CheckpointConfig(checkpoint_score_attribute="val_loss", checkpoint_score_order="min"),
        ),
    ).fit()
    found = result.best_checkpoints
    assert found, "an epoch left a checkpoint"
    best, _ = min(found, key=lambda pair: float(pair[1]["val_loss"]))
    return best, [metrics for _, metrics in found]


def export(model: Network, path: Path) -> bytes:
    """The model as ONNX, with a dynamic batch."""
    example = (torch.zeros(2, 8, 8, dtype=torch.uint8),)
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        nn.Sequential(model, nn.Softmax(dim=1)).eval(),
        example,
        str(path),
        input_names=["image"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        external_data=False,
    )
    return path.read_bytes()


def ask(exported: bytes, images: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """What the endpoint answers; `serve.run` with what it does by default."""
    serve.run(Endpoint.bind(exported), name="digits")  # type: ignore[attr-defined]
    request = urllib.request.Request(
        "http://127.0.0.1:8000/", json.dumps(images.tolist()).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        answers: list[dict[str, Any]] = json.load(answer)
    return answers


if __name__ == "__main__":
    main()
