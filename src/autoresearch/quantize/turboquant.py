"""The quantizer's door: TurboQuant (arXiv 2504.19874) and the methods it is compared with and improved by.

    scheme = Scheme("turboquant", bits=4)
    model = quantize_model(state_dict, lambda name: scheme)
    for row in model.table: ...
    size = save(model, path)
    model.compression(size)
    load(path).dequantized()

For weights the plain method is what HIGGS (arXiv 2411.17525) does with a scalar grid, and EDEN/DRIVE (ICML 2022, NeurIPS
2021) with its scale held at the norm, as arXiv 2604.18555 points out. What helps beyond it: error feedback from calibration
inputs (`turboquant_ldlq`), a trellis code (`trellis`, `trellis_ldlq`), entropy-coded uniform cells (`entropy_uniform`).
"""

from __future__ import annotations

from autoresearch.quantize.allocation import allocate
from autoresearch.quantize.models import (
    Compression,
    QuantizedModel,
    TensorRow,
    quantize_model,
    reason_to_keep,
    similarity,
)
from autoresearch.quantize.scheme import METHODS, Method, Scheme
from autoresearch.quantize.storage import load, save, to_bytes
from autoresearch.quantize.tensors import QuantizedTensor, quantize_tensor

__all__ = [
    "METHODS",
    "Compression",
    "Method",
    "QuantizedModel",
    "QuantizedTensor",
    "Scheme",
    "TensorRow",
    "allocate",
    "load",
    "quantize_model",
    "quantize_tensor",
    "reason_to_keep",
    "save",
    "similarity",
    "to_bytes",
]
