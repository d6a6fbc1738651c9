"""The handful of verbs that differ between array libraries, on the candidate's side of a trial.

The library is the one the experiment file has imported; numpy serves files that need none (tests, tables, counts).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Runtime(Protocol):
    """What the channel needs of an array library. Shapes: B rows, T positions, V tokens."""

    def place(self, tokens: NDArray[np.integer]) -> Any:
        """Token ids [B, T] of any integer type as int64 on the device, in storage of their own."""

    def pace(self) -> None:
        """Let at most two steps be in flight, so that queued work cannot outlive the budget."""

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""

    def pack(self, state: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
        """A state dict as safetensors bytes; `metadata` goes into the file's header."""

    def unpack(self, weights: bytes) -> dict[str, Any]:
        """What `pack` packed, name by name, on the device."""

    def logits(self, model: Any, inputs: NDArray[np.int64]) -> Any:
        """model(inputs) without gradients: logits [B, T, V] on the device."""

    def pick(self, logits: Any, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logit rows at (rows[k], columns[k]): float32 [K, V]."""

    def nll(self, logits: Any, targets: NDArray[np.int64]) -> NDArray[np.float32]:
        """Negative log-likelihood of each target in nats: float32 [B, T]."""


class TorchRuntime:
    """PyTorch on CUDA, ROCm, MPS or CPU."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        if torch.cuda.is_available():
            self.device = torch.device("cuda")
        elif torch.backends.mps.is_available():
            self.device = torch.device("mps")
        else:
            self.device = torch.device("cpu")
        self._in_flight: deque[Any] = deque()

    def place(self, tokens: NDArray[np.integer]) -> Any:
        # Widened straight into the memory that is copied from, which torch keeps until the copy is done, or into the
        # tensor itself on the CPU: one pass over the tokens.
        is_pinned = self.device.type == "cuda"
        host = self._torch.empty(tokens.shape, dtype=self._torch.int64, pin_memory=is_pinned)
        host.numpy()[...] = tokens
        return host.to(self.device, non_blocking=is_pinned)

    def pace(self) -> None:
        if self.device.type == "cuda":
            event = self._torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._in_flight.append(event)
            if len(self._in_flight) > 2:
                self._in_flight.popleft().synchronize()
        elif self.device.type == "mps":
            self._in_flight.append(None)
            if len(self._in_flight) > 2:
                self._in_flight.clear()
                self._torch.mps.synchronize()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            self._torch.cuda.synchronize()
        elif self.device.type == "mps":
            self._torch.mps.synchronize()

    def pack(self, state: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
        from safetensors.torch import save

        # clones: safetensors refuses tensors that share storage (tied weights), and the referee wants each by name
        plain = {name: value.detach().to("cpu").contiguous().clone() for name, value in state.items()}
        return bytes(save(plain, dict(metadata) if metadata else None))

    def unpack(self, weights: bytes) -> dict[str, Any]:
        from safetensors.torch import load

        return {name: value.to(self.device) for name, value in load(weights).items()}

    def logits(self, model: Any, inputs: NDArray[np.int64]) -> Any:
        with self._torch.no_grad():
            answer = model(self.place(inputs))
        return answer.detach().float()

    def pick(self, logits: Any, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        picked = logits[self.place(rows), self.place(columns)]
        result: NDArray[np.float32] = picked.cpu().numpy()
        return result

    def nll(self, logits: Any, targets: NDArray[np.int64]) -> NDArray[np.float32]:
        loss = self._torch.nn.functional.cross_entropy(
            logits.flatten(0, -2), self.place(targets).flatten(), reduction="none"
        )
        result: NDArray[np.float32] = loss.view(targets.shape).cpu().numpy()
        return result


class NumpyRuntime:
    """Plain arrays on the CPU."""

    def place(self, tokens: NDArray[np.integer]) -> NDArray[np.int64]:
        return np.array(tokens, dtype=np.int64)

    def pace(self) -> None:
        """Nothing is ever in flight."""

    def synchronize(self) -> None:
        """Nothing is ever in flight."""

    def pack(self, state: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
        from safetensors.numpy import save

        plain = {name: np.ascontiguousarray(value) for name, value in state.items()}
        return bytes(save(plain, dict(metadata) if metadata else None))

    def unpack(self, weights: bytes) -> dict[str, Any]:
        from safetensors.numpy import load

        return dict(load(weights))

    def logits(self, model: Any, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(model(np.array(inputs)), dtype=np.float32)

    def pick(self, logits: Any, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(logits[rows, columns], dtype=np.float32)

    def nll(self, logits: Any, targets: NDArray[np.int64]) -> NDArray[np.float32]:
        wide = np.asarray(logits, dtype=np.float64)
        shifted = wide - wide.max(axis=-1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=-1))
        at_target = np.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
        loss: NDArray[np.float32] = (log_sum - at_target).astype(np.float32)
        return loss


def runtime_in_use() -> Runtime:
    """The runtime of the array library that the experiment file has imported; torch where it imported both."""
    if "torch" in sys.modules:
        return TorchRuntime()
    if "mlx.core" in sys.modules:
        from autoresearch.backends.mlx_runtime import MlxRuntime

        return MlxRuntime()
    return NumpyRuntime()
