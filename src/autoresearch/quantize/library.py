"""A maintained library's method beside ours: HQQ (half-quadratic quantization; Badri and Shaji 2023; `pip install hqq`).

Data-free, asymmetric, scale and zero in float16 per group, fitted to a sparse error by a proximal solver. Calls the library's
own quantizer and packing, so what is measured is the library's.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoresearch.files import disk_error
from autoresearch.quantize.measuring import TensorFacts, Tensors
from autoresearch.quantize.models import reason_to_keep
from autoresearch.vocabulary import AutoresearchError

if TYPE_CHECKING:
    import torch

METHOD = "hqq"
# Widths that the library packs, each with how many groups it packs into one (3 bits: it pads by itself). 5 and 6 bits it stores in 8.
_TOGETHER = {1: 8, 2: 4, 3: 1, 4: 2, 8: 1}
WIDTHS = tuple(_TOGETHER)
INSTALL = "pip install hqq"
_GROUP = 128  # as our own methods


def why_not_here() -> str:
    """Why the library cannot be used here, or nothing."""
    try:
        _quantizer()
    except AutoresearchError as error:
        return f"{error.message} ({error.hint})"
    return ""


def _quantizer() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its import compiles with a deprecated part of torch
            from hqq.core.quantize import Quantizer
    except ImportError as error:
        raise AutoresearchError(f"the library hqq is not installed: {error}", hint=INSTALL) from error
    return Quantizer


@dataclass(frozen=True)
class _Packed:
    """One tensor as the library packs it: codes, and float16 scale and zero per group."""

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    shape: tuple[int, ...]


@dataclass(frozen=True)
class HqqCoded:
    """A checkpoint whose large matrices are packed by the library."""

    bits: int
    packed: Mapping[str, _Packed]
    kept: Mapping[str, torch.Tensor]

    @property
    def table(self) -> Sequence[TensorFacts]:
        """What became of each tensor, the packed ones first."""
        packed = [
            TensorFacts(
                name,
                part.shape,
                METHOD,
                self.bits,
                sum(t.numel() * t.element_size() for t in (part.codes, part.scale, part.zero)),
            )
            for name, part in self.packed.items()
        ]
        kept = [
            TensorFacts(name, tuple(tensor.shape), "kept", None, tensor.numel() * tensor.element_size())
            for name, tensor in self.kept.items()
        ]
        return [*packed, *kept]

    def dequantized(self) -> dict[str, torch.Tensor]:
        """Every tensor in float32, the kept ones as they are."""
        return {**{name: self._unpack(part) for name, part in self.packed.items()}, **self.kept}

    def _unpack(self, part: _Packed) -> torch.Tensor:
        import torch

        quantizer = _quantizer()
        meta = {
            "nbits": self.bits,
            "group_size": _GROUP,
            "axis": 1,
            "packing": quantizer.bit_to_packing[self.bits],
            "unpack_view_dtype": quantizer.unpack_view_dtype[quantizer.bit_to_packing[self.bits]],
            "view_as_float": False,
            "compute_dtype": torch.float32,
            "scale": part.scale.float(),
            "zero": part.zero.float(),
            "shape": (len(part.scale), _GROUP),
        }
        groups: torch.Tensor = quantizer.dequantize(part.codes, meta)
        count = 1
        for size in part.shape:
            count *= size
        return groups.flatten()[:count].view(part.shape)


@dataclass(frozen=True)
class HqqCodec:
    """The library's method as a Codec. `bits` is one of WIDTHS; files are read to the torch device `device`."""

    bits: int
    device: str = "cpu"

    def encode(self, tensors: Tensors, _hessians: Tensors | None) -> HqqCoded:
        """The checkpoint quantized; groups run along rows, and on from one row to the next.

        Raises:
            AutoresearchError: the library is not installed.
        """
        quantizer = _quantizer()
        packed, kept = {}, {}
        for name, tensor in tensors.items():
            if reason_to_keep(tensor):
                kept[name] = tensor.detach().clone()
                continue
            packed[name] = replace(self._pack(quantizer, tensor), shape=tuple(tensor.shape))
        return HqqCoded(self.bits, packed, kept)

    def _pack(self, quantizer: Any, tensor: torch.Tensor) -> _Packed:
        import torch

        flat = tensor.detach().float().flatten()
        size = _GROUP * _TOGETHER[self.bits]
        padded = torch.nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, _GROUP)
        codes, meta = quantizer.quantize(
            padded, nbits=self.bits, group_size=_GROUP, axis=1, device=str(tensor.device), compute_dtype=torch.float32
        )
        return _Packed(codes, meta["scale"].half(), meta["zero"].half(), tuple(tensor.shape))

    def write(self, coded: HqqCoded, path: Path) -> None:
        """A safetensors file: NAME.codes, NAME.scale, NAME.zero, and the kept tensors by their names."""
        from safetensors.torch import save_file

        parts = {
            f"{name}.{field}": getattr(part, field).cpu().contiguous()
            for name, part in coded.packed.items()
            for field in ("codes", "scale", "zero")
        }
        kept = {name: tensor.cpu().contiguous() for name, tensor in coded.kept.items()}
        shapes = json.dumps({name: list(part.shape) for name, part in coded.packed.items()})
        try:
            save_file({**parts, **kept}, path, metadata={"bits": str(coded.bits), "shapes": shapes})
        except OSError as error:
            raise disk_error(error, path) from error

    def read(self, path: Path) -> HqqCoded:
        """What `write` wrote."""
        from safetensors import safe_open

        with safe_open(path, "pt", device=self.device) as file:
            about = file.metadata()
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        packed = {
            name: _Packed(
                found.pop(f"{name}.codes"), found.pop(f"{name}.scale"), found.pop(f"{name}.zero"), tuple(shape)
            )
            for name, shape in json.loads(about["shapes"]).items()
        }
        return HqqCoded(int(about["bits"]), packed, found)
