"""The runtime of MLX: Apple's GPU through Metal, or the CPU build of Linux."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# numpy has no bfloat16: its bits travel as 16-bit integers, and safetensors is told what they are.
_SAFE_NAMES = {"mlx.core.bfloat16": "bfloat16"}


class MlxRuntime:
    """`backends.runtime.Runtime` for MLX, whose arrays are promises until something asks for their values."""

    def __init__(self) -> None:
        import mlx.core

        self._mx: Any = mlx.core
        self._in_flight: deque[Any] = deque()

    def place(self, tokens: NDArray[np.integer]) -> Any:
        # mx.array copies: the rows that it is given may belong to a buffer of the wire
        return self._mx.array(np.asarray(tokens, dtype=np.int64))

    def pace(self) -> None:
        # A stream works in order, so a marker is done when all that was queued before it is. Waiting for the one of two
        # steps ago leaves two in the queue; mx.synchronize() would drain it.
        marker = self._mx.array(0) + 1
        self._mx.async_eval(marker)
        self._in_flight.append(marker)
        if len(self._in_flight) > 2:
            self._mx.eval(self._in_flight.popleft())

    def synchronize(self) -> None:
        self._in_flight.clear()
        self._mx.synchronize()

    def pack(self, state: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
        """A state dict as safetensors bytes, the ones that torch packs for equal values; `metadata` into their header.

        Not mx.save_safetensors: the order of its tensors changes from process to process, and trials are told apart by
        the hash of these bytes.
        """
        from safetensors import TensorSpec, serialize

        plain = {name: self._plain(value) for name, value in state.items()}
        specs = {
            name: TensorSpec(
                dtype=_SAFE_NAMES.get(str(state[name].dtype), array.dtype.name),
                shape=list(array.shape),
                data_ptr=array.ctypes.data,
                data_len=array.nbytes,
            )
            for name, array in plain.items()
        }
        return bytes(serialize(specs, metadata=dict(metadata) if metadata else None))

    def _plain(self, value: Any) -> NDArray[Any]:
        """Its numbers as a numpy array of its own, in the order of its indices; bfloat16 as 16-bit integers."""
        return np.array(value.view(self._mx.uint16) if value.dtype == self._mx.bfloat16 else value, order="C")

    def unpack(self, weights: bytes) -> dict[str, Any]:
        arrays: dict[str, Any] = self._mx.load(io.BytesIO(weights), format="safetensors")
        self._mx.eval(arrays)
        return arrays

    def logits(self, model: Any, inputs: NDArray[np.int64]) -> Any:
        answer = model(self.place(inputs)).astype(self._mx.float32)
        self._mx.eval(answer)
        return answer

    def pick(self, logits: Any, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.array(logits[self.place(rows), self.place(columns)])

    def nll(self, logits: Any, targets: NDArray[np.int64]) -> NDArray[np.float32]:
        at_target = self._mx.take_along_axis(logits, self.place(targets)[..., None], axis=-1)[..., 0]
        return np.array(self._mx.logsumexp(logits, axis=-1) - at_target)
