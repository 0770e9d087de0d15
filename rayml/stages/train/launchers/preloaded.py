"""Imported by the process that ranks are forked from: what every rank needs, and no thread that a fork could harm.

(numpy's OpenBLAS and pyarrow's jemalloc have one each; both make a fork safe by handlers of their own.)
"""

import torch._dynamo  # noqa: F401  torch's first optimizer imports it, which takes a second

import rayml.stages.train.rank
import rayml.stages.train.strategies.ddp  # noqa: F401
