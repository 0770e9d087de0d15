"""Parquet and Arrow files whose extension types carry pickles: CVE-2026-41486, and columns of pickled objects."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from evil import EVIL, Touch
from PIL import Image

OBJECT = "ray.data.arrow_pickled_object"
TENSORS = {
    "ray.data.arrow_tensor": pa.list_(pa.uint8()),
    "ray.data.arrow_tensor_v2": pa.large_list(pa.uint8()),
    "ray.data.arrow_variable_shaped_tensor": pa.struct(
        [("data", pa.large_list(pa.uint8())), ("shape", pa.list_(pa.int64()))]
    ),
}
"""The types of Ray Data whose metadata older versions wrote by cloudpickle, with how they are stored."""
VALUES = {
    "ray.data.arrow_tensor": [0, 1],
    "ray.data.arrow_tensor_v2": [0, 1],
    "ray.data.arrow_variable_shaped_tensor": {"data": [0, 1], "shape": [2]},
}
ROWS = 4


def extension(name, storage, told=b"", column="x"):
    """A field that a reader with Ray Data takes for that type."""
    return pa.field(column, storage, metadata={"ARROW:extension:name": name, "ARROW:extension:metadata": told})


def tensor_column(name, ran, column="x"):
    """A column of tensors whose metadata is a pickle."""
    told = EVIL["cloudpickle"](Touch(ran))
    return extension(name, TENSORS[name], told, column), pa.array([VALUES[name]] * ROWS, TENSORS[name])


def object_column(ran, column="x"):
    """A column whose values are pickles."""
    values = [EVIL["cloudpickle"](Touch(ran))] * ROWS
    return extension(OBJECT, pa.large_binary(), b"", column), pa.array(values, pa.large_binary())


def picture():
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def picture_with_object(ran, column="image"):
    """Images as Hugging Face keeps them, with a pickle in the place of the path."""
    field, values = object_column(ran, "path")
    kind = pa.struct([pa.field("bytes", pa.binary()), field])
    pictures = pa.array([picture()] * ROWS, pa.binary())
    return pa.field(column, kind), pa.StructArray.from_arrays([pictures, values], fields=list(kind))


def plain(name, values):
    array = pa.array(values)
    return pa.field(name, array.type), array


def table(*columns):
    fields, arrays = zip(*columns, strict=True)
    return pa.table(list(arrays), schema=pa.schema(fields))


LABEL = plain("label", ["a", "b"] * (ROWS // 2))
NUMBER = plain("number", np.arange(float(ROWS)))
IMAGE = plain("image", [picture()] * ROWS)
PAYLOADS = {
    **{f"{name} as the feature": lambda ran, name=name: (tensor_column(name, ran, "image"), LABEL) for name in TENSORS},
    **{f"{name} beside it": lambda ran, name=name: (IMAGE, LABEL, tensor_column(name, ran)) for name in TENSORS},
    **{f"{name} as the label": lambda ran, name=name: (IMAGE, tensor_column(name, ran, "label")) for name in TENSORS},
    "objects as the feature": lambda ran: (object_column(ran, "image"), LABEL),
    "objects as the label": lambda ran: (IMAGE, object_column(ran, "label")),
    "objects beside it": lambda ran: (IMAGE, LABEL, object_column(ran)),
    "objects within the image": lambda ran: (picture_with_object(ran), LABEL),
    "objects within a list": lambda ran: (
        IMAGE,
        LABEL,
        (
            pa.field("x", pa.list_(object_column(ran)[0])),
            pa.ListArray.from_arrays(pa.array(range(ROWS + 1), pa.int32()), object_column(ran)[1]),
        ),
    ),
}
"""What a hostile file holds, by where its payload stands; each takes the file that shows that it ran."""


def write(path, columns):
    pq.write_table(table(*columns), path)
