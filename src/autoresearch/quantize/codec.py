"""Our own methods as a Codec: a whole checkpoint under one scheme, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch.quantize import turboquant
from autoresearch.quantize.measuring import TensorFacts, Tensors
from autoresearch.quantize.models import kept_row, quantized_row
from autoresearch.quantize.scheme import METHODS, Scheme

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TurboCoded:
    """A quantized model with the table that reports of it need."""

    model: turboquant.QuantizedModel

    @property
    def table(self) -> Sequence[TensorFacts]:
        """What became of each tensor."""
        return [TensorFacts(row.name, row.shape, row.method, row.code_bits, row.bytes) for row in self.model.table]

    def dequantized(self) -> dict[str, torch.Tensor]:
        """Every tensor by name, float32."""
        import torch

        return self.model.dequantized(torch.float32)


@dataclass(frozen=True)
class TurboCodec:
    """All matrices of a checkpoint under one scheme. metadata: texts for the file's header, such as the model's config."""

    scheme: Scheme
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)
    device: str = "cpu"

    def encode(self, tensors: Tensors, hessians: Tensors | None) -> TurboCoded:
        """The checkpoint quantized. A tensor without a Hessian (an embedding) takes the scheme's form without feedback."""
        if not self.scheme.is_whole:
            return TurboCoded(
                turboquant.quantize_model(tensors, lambda _name: self.scheme, hessians, metadata=self.metadata)
            )
        # As quantize_model does it, less its comparison with the originals, which is no part of encoding and would be timed.
        quantized, kept, table = {}, {}, []
        for name, tensor in tensors.items():
            if reason := turboquant.reason_to_keep(tensor):
                kept[name] = tensor.detach()
                table.append(kept_row(name, tensor, reason))
                continue
            hessian = (hessians or {}).get(name)
            scheme = self.scheme if hessian is not None else without_feedback(self.scheme)
            quantized[name] = turboquant.quantize_tensor(tensor, scheme, hessian, name=name)
            table.append(quantized_row(quantized[name]))
        return TurboCoded(turboquant.QuantizedModel(tuple(tensors), quantized, kept, tuple(table), dict(self.metadata)))

    def write(self, coded: TurboCoded, path: Path) -> None:
        """Raises DiskError."""
        turboquant.save(coded.model, path)

    def read(self, path: Path) -> TurboCoded:
        """What `write` wrote."""
        return TurboCoded(turboquant.load(path, self.device))


def without_feedback(scheme: Scheme) -> Scheme:
    """The scheme of the same grid that needs no Hessian; itself where it needs none."""
    if not METHODS[scheme.method].feedback:
        return scheme
    return replace(scheme, method={"gptq": "rtn_asymmetric"}.get(scheme.method, scheme.method.removesuffix("_ldlq")))
