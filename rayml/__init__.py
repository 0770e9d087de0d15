"""rayml: one job file becomes a trained, evaluated and served model on a Ray cluster."""

__version__ = "0.1.0"
