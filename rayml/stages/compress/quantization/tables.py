"""Lookup tables, such as the vectors of a vocabulary: each row in 8 bits with a scale of its own.

Plain operators, so that any runtime reads the file, and only the rows that are looked up are turned into floats.
"""

from __future__ import annotations

from collections.abc import Collection
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FEWEST = 2**16
"""Numbers of a table that is worth two more nodes."""


def in_8_bits(model: onnx.ModelProto, keep: Collection[str] = ()) -> list[str]:
    """Change the large float tables of a model in place, but for those that are read by a node of `keep`.

    Returns:
        The names of the nodes that look up in 8 bits.
    """
    names = [name for name in lookups(model) if name not in keep]
    others = {name for node in model.graph.node if node.name not in names for name in node.input}
    tables = {each.name: each for each in model.graph.initializer if is_table(each) and each.name not in others}
    for name, table in tables.items():
        numbers, scales = rounded(numpy_helper.to_array(table))
        model.graph.initializer.remove(table)
        model.graph.initializer.append(numpy_helper.from_array(numbers, f"{name}_int8"))
        model.graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scale"))
    nodes = [
        each
        for node in model.graph.node
        for each in (looking_up(node) if node.name in names and node.input[0] in tables else [node])
    ]
    done = [node.name for node in model.graph.node if node.name in names and node.input[0] in tables]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return done


def lookups(model: onnx.ModelProto) -> list[str]:
    """The names of the nodes that look up rows of a large table."""
    tables = {each.name for each in model.graph.initializer if is_table(each)}
    read = [node for node in model.graph.node if node.op_type == "Gather" and node.input[0] in tables]
    return [node.name for node in read if axis_of(node) == 0]


def is_table(tensor: onnx.TensorProto) -> bool:
    """Whether it is a matrix of floats that is large enough."""
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and prod(tensor.dims) >= FEWEST


def axis_of(node: onnx.NodeProto) -> int:
    """Along which axis a Gather takes."""
    found: int = next((each.i for each in node.attribute if each.name == "axis"), 0)
    return found


def rounded(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """`[rows, width]` as int8, and the scale of each row `[rows, 1]`; a row of zeros has scale 1."""
    scales = (np.abs(table).max(axis=1, keepdims=True) / 127).astype(np.float32)
    scales[scales == 0] = 1
    return np.round(table / scales).astype(np.int8), scales


def looking_up(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes that take the place of a Gather."""
    table, places = node.input
    [result] = node.output
    names = [f"{result}_{part}" for part in ("int8", "float", "scale")]
    return [
        helper.make_node("Gather", [f"{table}_int8", places], [names[0]], f"{node.name}_int8", axis=0),
        helper.make_node("Cast", [names[0]], [names[1]], f"{node.name}_float", to=TensorProto.FLOAT),
        helper.make_node("Gather", [f"{table}_scale", places], [names[2]], f"{node.name}_scale", axis=0),
        helper.make_node("Mul", [names[1], names[2]], [result], node.name),
    ]
