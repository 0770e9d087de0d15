"""`python -m rayml.cli`."""

from rayml.cli import main

main()
