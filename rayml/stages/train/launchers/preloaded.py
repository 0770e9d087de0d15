"""Imported by the process that ranks are forked from: what every rank needs, and nothing that starts a thread."""

import rayml.stages.train.rank
import rayml.stages.train.strategies.ddp  # noqa: F401
