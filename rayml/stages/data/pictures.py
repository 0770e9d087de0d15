"""Images: the rule that brings them to one shape, and the reading of folders of image files by class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayml.errors import StageError
from rayml.ml.images import Pixels, decode_upright, resize_image
from rayml.ml.schema import ImageFeature
from rayml.plan.listing import Listing
from rayml.stages.data.columns import describe_columns
from rayml.stages.data.config import DataConfig
from rayml.stages.data.files import grouped, read_files
from rayml.stages.data.rows import BLOCK_BYTES, Origin, Reading, make_block

MAX_FILES = 2048
"""Files of one reading task, so that a folder of small images is still read by several processes."""
TOGETHER = 64
"""Files that are held in memory before they are decoded, unless they are larger than BLOCK_BYTES."""


@dataclass(frozen=True)
class ImageRule:
    """What every image of a source becomes, and what it has to be."""

    feature: ImageFeature
    same_size: bool
    """`image.size` is auto: an image of another size than the first is an error."""
    same_channels: bool
    """`image.channels` is auto: likewise."""
    first: str
    """The image that decided."""

    def decode(self, data: bytes | None, shown: str) -> Pixels:
        """`[height, width, channels] uint8` from the bytes of a file; a StageError names `shown`."""
        if data is None:
            raise StageError(f"the image `{self.feature.name}` is missing", where=shown)
        pixels = _decode(data, shown)
        self._compare(pixels.shape, shown)
        return resize_image(pixels, self.feature.height, self.feature.width, self.feature.channels)

    def fit(self, pixels: Pixels, shown: str) -> Pixels:
        """The same for `[images, h, w, c] uint8` that needs no decoding."""
        self._compare(pixels.shape[1:], shown)
        if pixels.shape[1:] == self.feature.shape:
            return pixels
        height, width, channels = self.feature.shape
        return np.stack([resize_image(image, height, width, channels) for image in pixels])

    def _compare(self, shape: tuple[int, ...], shown: str) -> None:
        height, width, channels = shape
        if self.same_size and (height, width) != (self.feature.height, self.feature.width):
            raise StageError(
                f"the image has {height} x {width} pixels, and {self.first} has "
                f"{self.feature.height} x {self.feature.width}",
                where=shown,
                hint="set data.image.size: [height, width] to bring all images to one size",
            )
        if self.same_channels and channels != self.feature.channels:
            names = {1: "gray", 3: "in color"}
            raise StageError(
                f"the image is {names[channels]}, and {self.first} is {names[self.feature.channels]}",
                where=shown,
                hint="set data.image.channels to 1 or 3 to bring all images to one form",
            )


def image_rule(name: str, config: DataConfig, first_shape: Callable[[], tuple[int, int, int]], first: str) -> ImageRule:
    """The rule for a source.

    Args:
        name: of the feature.
        config: of the step.
        first_shape: height, width and channels of the first image; only asked where the job says auto.
        first: where the first image is, for errors.
    """
    size, channels = config.image.size, config.image.channels
    height, width, depth = first_shape() if "auto" in (size, channels) else (0, 0, 0)
    if size != "auto":
        height, width = size
    if channels != "auto":
        depth = channels
    feature = ImageFeature.model_validate({"name": name, "height": height, "width": width, "channels": depth})
    return ImageRule(feature, size == "auto", channels == "auto", first)


def file_shape(data: bytes | None, shown: str) -> tuple[int, int, int]:
    """Height, width and channels of an image file; a StageError names `shown`."""
    if data is None:
        raise StageError("the image is missing", where=shown)
    height, width, channels = _decode(data, shown).shape
    return height, width, channels


def _decode(data: bytes, shown: str) -> Pixels:
    try:
        return decode_upright(data)
    except ValueError as error:
        raise StageError(str(error), where=shown) from None


def read_image_folder(listing: Listing, config: DataConfig) -> Reading:
    """Files `CLASS/.../file.png` below a folder."""
    if config.task != "image_classification":
        raise StageError(f"a folder of images is no table; the task {config.task} needs numbers", where=listing.shown)
    origins = tuple(Origin(number, listing.show(file.name), counted=False) for number, file in enumerate(listing.files))
    first, shown = listing.locate(listing.files[0].name), origins[0].shown
    rule = image_rule("image", config, lambda: file_shape(read_files([first], [shown])[0], shown), shown)
    count = max(1, min(MAX_FILES, BLOCK_BYTES // int(np.prod(rule.feature.shape))))
    tasks = tuple(
        partial(_read_images, replace(listing, files=listing.files[start : start + count], ignored=()), start, rule)
        for start in range(0, len(listing.files), count)
    )
    names = tuple(file.name for file in listing.files)
    return Reading(rule.feature, names, origins, tasks, ignored=listing.ignored)


def image_column(columns: Mapping[str, pa.DataType], config: DataConfig, shown: str) -> str:
    """The one column that holds images.

    Raises:
        StageError: there is none, or several and the job does not name one.
    """
    found = [name for name, kind in columns.items() if name != config.label and holds_images(kind)]
    if config.columns != "auto":
        named = [name for name in found if name in config.columns]
        if len(named) != 1 or len(config.columns) != 1:
            raise StageError(
                f"data.columns is {list(config.columns)}; one column of images fits, of {found}", where=shown
            )
        return named[0]
    if not found:
        raise StageError(
            f"the task image_classification needs a column of image files (binary); found {describe_columns(columns)}",
            where=shown,
        )
    if len(found) > 1:
        raise StageError(
            f"the columns {found} hold images; a model sees one", where=shown, hint=f"set data.columns: [{found[0]}]"
        )
    return found[0]


def holds_images(kind: pa.DataType) -> bool:
    """Bytes of files, bare or as the `bytes` of a struct (the form of Hugging Face data sets), or tensors of uint8."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if isinstance(kind, pa.FixedShapeTensorType):
        return bool(kind.value_type == pa.uint8() and len(kind.shape) in (2, 3))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def decode_column(column: pa.ChunkedArray, rule: ImageRule, place: Callable[[int], str]) -> Pixels:
    """A column of images as `[rows, height, width, channels] uint8`; `place` names a row of it."""
    if isinstance(column.type, pa.FixedShapeTensorType):
        return rule.fit(tensor_pixels(column), place(0))
    pixels = np.empty((len(column), *rule.feature.shape), np.uint8)
    for row, value in enumerate(image_files(column)):
        pixels[row] = rule.decode(value, place(row))
    return pixels


def tensor_pixels(column: pa.ChunkedArray) -> Pixels:
    """`[rows, h, w, c] uint8` of a column of tensors; gray images may leave out their channel."""
    array: Pixels = column.combine_chunks().to_numpy_ndarray()
    return array[..., None] if array.ndim == 3 else array


def first_shape(column: pa.ChunkedArray, shown: str) -> tuple[int, int, int]:
    """Height, width and channels of the first image of a column that has one."""
    if isinstance(column.type, pa.FixedShapeTensorType):
        height, width, channels = tensor_pixels(column.slice(0, 1)).shape[1:]
        return height, width, channels
    return file_shape(next(image_files(column)), shown)


def image_files(column: pa.ChunkedArray) -> Iterator[bytes | None]:
    """The bytes of each row's file.

    Of a struct no other field becomes an object of Python: to make one of Ray's type for pickled objects, which any
    Parquet file may name, is to run it.
    """
    files = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    for value in files:
        yield value.as_py()


def _read_images(listing: Listing, first: int, rule: ImageRule) -> Iterator[pa.Table]:
    """The images of some neighbouring files, the first of which is file number `first` of the source."""
    names = [file.name for file in listing.files]
    numbers = np.arange(first, first + len(names), dtype=np.int32)
    pixels = np.empty((len(names), *rule.feature.shape), np.uint8)
    decoded = 0
    for part in grouped(listing.files, BLOCK_BYTES, TOGETHER):
        shown = [listing.show(file.name) for file in part]
        contents = read_files([listing.locate(file.name) for file in part], shown)
        for content, name in zip(contents, shown, strict=True):
            pixels[decoded] = rule.decode(content, name)
            decoded += 1
    labels = pa.array([name.split("/", 1)[0] for name in names], pa.string())
    yield make_block(numbers, np.zeros(len(names), np.int64), labels, pixels)
