"""Pickles that leave a file where they are read, in the forms that data and models travel in."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import torch
from ray import cloudpickle


class Touch:
    """What a pickle runs when it is read: it leaves a file."""

    def __init__(self, path, how="exec"):
        self.path, self.how = str(path), how

    def __reduce__(self):
        code = f"open({self.path!r}, 'w').close()"
        return {
            "exec": (exec, (code,)),
            "system": (os.system, (f"touch {self.path}",)),
            "eval": (eval, (f"exec({code!r})",)),
        }[self.how]


def torch_file(evil):
    buffer = io.BytesIO()
    torch.save({"weight": evil}, buffer)
    return buffer.getvalue()


def npy(evil):
    buffer = io.BytesIO()
    np.save(buffer, np.array([evil], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def npz(evil):
    """With the names of an export's frozen rows."""
    buffer = io.BytesIO()
    names = ("sample_ids", "inputs", "probabilities", "labels")
    np.savez(buffer, **{name: np.array([evil], dtype=object) for name in names}, allow_pickle=True)
    return buffer.getvalue()


def hidden_in_json(evil):
    """As Ray Tune writes what is no JSON (ray/tune/utils/serialization.py)."""
    value = cloudpickle.dumps(evil).hex()
    return b'{"_type": "CLOUDPICKLE_FALLBACK", "value": "%s"}\n' % value.encode()


EVIL = {
    "pickle 0": lambda evil: pickle.dumps(evil, 0),
    "pickle 2": lambda evil: pickle.dumps(evil, 2),
    "pickle 5": lambda evil: pickle.dumps({"a": [evil]}, 5),
    "cloudpickle": cloudpickle.dumps,
    "torch": torch_file,
    "npy": npy,
    "npz": npz,
    "json": hidden_in_json,
}


def unpickle(form, content):
    """What a careless reader of each form does."""
    if form == "torch":
        torch.load(io.BytesIO(content), weights_only=False)
    elif form == "npy":
        np.load(io.BytesIO(content), allow_pickle=True)
    elif form == "npz":
        np.load(io.BytesIO(content), allow_pickle=True)["labels"]
    elif form == "json":
        from ray.tune.utils.serialization import TuneFunctionDecoder

        TuneFunctionDecoder(allow_cloudpickle=True).decode(content.decode())
    else:
        pickle.loads(content)
