"""Counts the bytes of all tensors while a program runs on tensors without values: how high memory would rise."""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COMMUNICATION = ("c10d", "_c10d_functional", "fsdp")
"""Namespaces of the operators that make buffers for what travels."""

GLOO_COPIES = 2
"""gloo scatters sums from a copy of its own, and so many of them were seen to wait for its threads at a time."""


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Live bytes of one kind of device by purpose, and what they were when all together were most.

    Use it inside torch's FakeTensorMode. A number that the program asks a tensor for is 1: there is none.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device.type
        self.purpose = "activations"
        """What a tensor is for that is made from now on."""
        self.live: Counter[str] = Counter()
        self.peak: dict[str, int] = {}
        self._most = 0
        self._held: dict[int, tuple[str, int]] = {}
        self._sent: deque[Tensor] = deque(maxlen=GLOO_COPIES)
        self._resize = torch.UntypedStorage.resize_

    def __enter__(self) -> Ledger:
        ledger, resize = self, self._resize

        def counted(storage: torch.UntypedStorage, size: int) -> None:
            """FSDP2 gives memory back and takes it again by this, which no dispatch mode sees."""
            resize(storage, size)
            if storage._cdata in ledger._held:
                ledger._change(storage._cdata, "communication", size)

        torch.UntypedStorage.resize_ = counted  # type: ignore[method-assign, assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0
        made = func(*args, **(kwargs or {}))
        purpose = "communication" if func.namespace in COMMUNICATION else self.purpose
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.note(tensor, purpose)
        if self._device == "cpu":
            self._note_copies(func, args, made)
        return made

    def _note_copies(self, func: Any, args: tuple[Any, ...], made: Any) -> None:
        """What is copied inside an operator, as far as it is large."""
        if func is torch.ops.c10d._reduce_scatter_base_.default:
            self._sent.append(torch.empty_like(args[1]))
            self.note(self._sent[-1], "communication")
        elif func is torch.ops.aten.convolution_backward.default and made[1] is not None:
            self.note(
                torch.empty_like(made[1]), self.purpose
            )  # oneDNN's gradient of the weights, before its reordering

    def note(self, tensor: Tensor, purpose: str) -> None:
        """Count a tensor's memory if it is not counted yet."""
        storage = memory_of(tensor)
        if storage._cdata not in self._held and tensor.device.type == self._device:
            weakref.finalize(storage, self._forget, storage._cdata)
            self._change(storage._cdata, purpose, storage.nbytes())

    def rename(self, tensor: Tensor, purpose: str) -> None:
        """Say what a tensor's memory is for."""
        storage = memory_of(tensor)
        if storage._cdata in self._held:
            size = self._held[storage._cdata][1]
            self._change(storage._cdata, purpose, 0)
            self._change(storage._cdata, purpose, size)

    def _change(self, key: int, purpose: str, size: int) -> None:
        before = self._held.get(key, (purpose, 0))
        self.live[before[0]] -= before[1]
        self.live[purpose] += size
        self._held[key] = (purpose, size)
        total = self.live.total()
        if total > self._most:
            self._most, self.peak = total, dict(self.live)

    def _forget(self, key: int) -> None:
        purpose, size = self._held.pop(key)
        self.live[purpose] -= size


def memory_of(tensor: Tensor) -> torch.UntypedStorage:
    """What a tensor, or this rank's part of it, lies in."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.untyped_storage()
