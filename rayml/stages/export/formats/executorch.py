"""`model.pte`: an ExecuTorch program for phones and small devices, its layers run by XNNPACK where it knows them.

A call takes one row: ExecuTorch plans its memory when the file is made, for the most rows that it will ever get, and
some of its operators do not take fewer than that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rayml.errors import StageError
from rayml.ml.onnx_export import quiet
from rayml.ml.schema import Schema
from rayml.stages.export.formats.api import RAYML, Answers, Format, Request, named, refused
from rayml.stages.export.formats.torch_export import traced

METHOD = "forward"


def write(request: Request, path: Path) -> None:
    """Lower the graph of torch.export; the metadata is a constant method, `rayml`, that returns UTF-8 bytes."""
    program = traced(request, single=True)
    about = torch.tensor(list(json.dumps(request.metadata, sort_keys=True).encode()), dtype=torch.uint8)
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            lowered = to_edge_transform_and_lower(
                program, partitioner=[XnnpackPartitioner()], constant_methods={RAYML: about}
            )
            made = lowered.to_executorch()
        except Exception as error:
            hint = "leave executorch out of export.formats, or replace the layer in the network"
            raise refused("ExecuTorch has no form for the model", error, request.code, hint) from error
    path.write_bytes(made.buffer)


def answers(path: Path, schema: Schema, records: NDArray[Any], code: str | None) -> Answers:
    """By ExecuTorch's runtime, a call for each row."""
    from executorch.runtime import Runtime, Verification

    program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
    method = program.load_method(METHOD)
    if method is None:
        raise StageError(f"the program has no method `{METHOD}`", where=str(path), hint="export the model again")
    rows = [torch.from_numpy(records[place : place + 1]) for place in range(len(records))]
    # The runtime hands out its own memory, which the next call overwrites.
    return named(np.concatenate([method.execute([row])[0].numpy().copy() for row in rows]), schema)


FORMAT = Format("model.pte", write, answers)
