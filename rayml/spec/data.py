"""The `data` section: where rows come from, what they are, and how they are split."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rayml.spec.base import Auto, CodeReference, Location, Spec, Text


class SklearnSource(Spec):
    """One of the data sets that scikit-learn ships; nothing is downloaded."""

    kind: Literal["sklearn"]
    name: Literal["digits", "breast_cancer", "wine", "iris"]
    """digits holds images of 8x8 pixels, the others tables of numbers."""


class ParquetSource(Spec):
    """Parquet files: one file, a folder or a glob, on a disk or in a bucket."""

    kind: Literal["parquet"]
    path: Location
    """Relative to the job file, or `s3://BUCKET/PATH`."""


class CsvSource(Spec):
    """CSV files with a header line: one file, a folder or a glob, on a disk or in a bucket."""

    kind: Literal["csv"]
    path: Location
    """Relative to the job file, or `s3://BUCKET/PATH`."""


class ImageFolderSource(Spec):
    """A folder with one sub-folder of images per class: `path/CLASS/file.png`."""

    kind: Literal["image_folder"]
    path: Location
    """Relative to the job file, or `s3://BUCKET/PATH`."""


class CallableSource(Spec):
    """A function of the user's that yields tables: `def rows(**args) -> Iterable[pyarrow.Table]`."""

    kind: Literal["callable"]
    function: CodeReference
    """Called where the job runs."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""


Source = Annotated[
    SklearnSource | ParquetSource | CsvSource | ImageFolderSource | CallableSource, Field(discriminator="kind")
]


class ImageSpec(Spec):
    """What an image becomes before it is stored."""

    size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | Auto = "auto"
    """Height and width in pixels. `auto` takes the size that all images share."""
    channels: Literal[1, 3] | Auto = "auto"
    """1 is gray, 3 is RGB. `auto` takes what the images have."""


class SplitSpec(Spec):
    """Shares of the rows. They sum to 1."""

    train: float = Field(default=0.8, gt=0, lt=1)
    """What the model learns from."""
    val: float = Field(default=0.1, gt=0, lt=1)
    """What the best checkpoint is chosen by."""
    test: float = Field(default=0.1, gt=0, lt=1)
    """What the result is measured on, once."""
    stratify: Literal["label", "none"] = "label"
    """`label` keeps the share of each class equal in every split."""

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> SplitSpec:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + val + test is {total:g}; the shares must sum to 1")
        return self


class DataSpec(Spec):
    """From a source to canonical shards."""

    source: Source
    """Where the rows come from."""
    label: Text = "label"
    """The column that holds the class of a row."""
    image: ImageSpec = ImageSpec()
    """Used where rows hold images."""
    columns: Annotated[tuple[Text, ...], Field(min_length=1)] | Auto = "auto"
    """The columns that the model sees, for tables. `auto` takes every column of numbers but the label."""
    normalize: Literal["standard", "minmax", "none"] = "standard"
    """Fitted on the training split only, and part of the exported model."""
    missing: Literal["error", "mean", "median"] = "error"
    """What an empty number becomes: the mean or median of the training split, or an error that names the rows."""
    split: SplitSpec = SplitSpec()
    shard_rows: Annotated[int, Field(gt=0)] | Auto = "auto"
    """Rows of one canonical shard."""
