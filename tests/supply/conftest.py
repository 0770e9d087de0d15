"""Lets the tests of this folder import the programs of cluster/image and what tests of stores share."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "cluster" / "image"), str(ROOT / "tests")]
