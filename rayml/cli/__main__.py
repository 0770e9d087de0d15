"""`python -m rayml.cli`."""

from rayml.cli import main

if __name__ == "__main__":
    main()
