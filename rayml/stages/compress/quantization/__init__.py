"""Parts of the pass `quantize`, one scheme or one subject a file."""
