"""One weight matrix quantized: its codes packed, its groups' numbers in fp16, and the way back.

TurboQuant (arXiv 2504.19874) turns each group at random, so that whatever the weights are, their coordinates follow one
known law, and rounds each coordinate with the best codebook of that law. The mean-squared-error form is EDEN/DRIVE with the
scale held at the norm (arXiv 2604.18555); for weights, HIGGS (arXiv 2411.17525) did the same before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoresearch.quantize import entropy, feedback, trellis
from autoresearch.quantize.grids import grid_for, half, least_squares, num_symbols, placed, scaled
from autoresearch.quantize.packing import pack, packed_bytes, unpack
from autoresearch.quantize.rotation import Layout, Rotation, gaussian_matrix
from autoresearch.quantize.scheme import Scheme
from autoresearch.vocabulary import DataCorrupt, UsageError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
# The largest weight is brought to 64..128 by a power of two, which costs one number a tensor: then fp16 holds the scale of
# every group within 2^-21 of the largest at full precision, and none overflows.
LARGEST_EXPONENT = 7
CHUNK_WEIGHTS = 1 << 20  # encoded and decoded at a time: bounds memory, and fits a cache


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """What is stored of one tensor [rows, cols].

    dtype: of the weights, and of what `dequantize` gives back. exponent: weights were multiplied by 2**-exponent.
    arrays: "codes" uint8, or "stream" and "counts" where they are entropy-coded; "scales" fp16 [rows, groups], "offsets"
        and "residuals" of the same shape for the methods that have them; "signs" uint8 of QJL.
    """

    name: str
    scheme: Scheme
    shape: tuple[int, int]
    dtype: str
    exponent: int
    arrays: Mapping[str, torch.Tensor]

    @property
    def num_weights(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def num_bytes(self) -> int:
        """Bytes of all stored arrays."""
        return sum(array.numel() * array.element_size() for array in self.arrays.values())

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.num_bytes / self.num_weights

    @property
    def layout(self) -> Layout:
        return Layout(self.shape[1], self.scheme.group)

    def codes(self) -> torch.Tensor:
        """The integer codes: [rows, cols], or [sequences, SEQUENCE] of a trellis."""
        rows, cols = self.shape
        shape = (
            (trellis.num_sequences(rows, cols), trellis.SEQUENCE) if self.scheme.how.grid == "trellis" else self.shape
        )
        count = shape[0] * shape[1]
        if "stream" in self.arrays:
            return entropy.expand(self.arrays["stream"], self.arrays["counts"], count).view(shape)
        return unpack(self.arrays["codes"], self.scheme.code_bits, count).view(shape)

    def dequantize(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The weights [rows, cols] on the device of the arrays, in their own dtype unless another is asked for."""
        import torch

        target = dtype or getattr(torch, self.dtype)
        values = torch.empty(self.shape, dtype=target, device=self.arrays["scales"].device)
        rotation = Rotation(self.layout, self.name, self.scheme.seed)
        limit = torch.finfo(target).max
        for rows, y in self._rotated_values():
            w = rotation.inverse(y) if self.scheme.how.rotated else y
            values[rows] = _shifted(w, self.exponent).clamp_(-limit, limit).to(target)
        return values

    def _rotated_values(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """(rows, values float32 [rows, cols] before the rotation is undone), chunk by chunk."""
        import torch

        whole, codes = None, None
        if self.scheme.how.grid == "trellis":
            whole = trellis.untiled(
                trellis.decode(self.codes(), self.scheme.code_bits, self.scheme.memory_bits), self.shape
            )
        elif "codes" in self.arrays or "stream" in self.arrays:
            codes = self.codes()
        for rows in _row_chunks(self.shape):
            parts = []
            for columns, groups, d in self.layout.spans():
                shape = (rows.stop - rows.start, groups.stop - groups.start, d)
                if whole is not None:
                    levels = whole[rows, columns].reshape(shape)
                elif codes is not None:
                    grid = grid_for(self.scheme, d)
                    assert grid is not None
                    levels = grid.decode(codes[rows, columns].reshape(shape))
                else:
                    levels = torch.zeros(shape, device=self.arrays["scales"].device)
                part = levels.mul_(self.arrays["scales"][rows, groups].float().unsqueeze(-1))
                if "offsets" in self.arrays:
                    part += self.arrays["offsets"][rows, groups].float().unsqueeze(-1)
                if "signs" in self.arrays:
                    part += self._from_signs(rows, columns, groups, d)
                parts.append(part.flatten(1))
            yield rows, parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _from_signs(self, rows: slice, columns: slice, groups: slice, d: int) -> torch.Tensor:
        """QJL's estimate of the residual: sqrt(pi / 2) / d * |r| * S^T sign(S r), float32 [rows, groups, d]."""
        signs = unpack(self.arrays["signs"], 1, self.num_weights).view(self.shape)[rows, columns]
        signed = signs.reshape(rows.stop - rows.start, -1, d).float() * 2 - 1
        norms = self.arrays["residuals"][rows, groups].float().unsqueeze(-1)
        projected = signed @ gaussian_matrix(d, self.scheme.seed).to(signed.device)
        return projected * (norms * (math.sqrt(math.pi / 2) / d))

    def packed(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """(JSON values, arrays): all that `from_packed` needs besides the name."""
        about = {
            "scheme": self.scheme.as_json(),
            "shape": list(self.shape),
            "dtype": self.dtype,
            "exponent": self.exponent,
        }
        return about, dict(self.arrays)

    @classmethod
    def from_packed(cls, name: str, about: Any, arrays: Mapping[str, torch.Tensor]) -> QuantizedTensor:
        """What `packed` gave. Nothing is trusted: kinds, ranges and shapes are checked against each other.

        Raises:
            DataCorrupt: they do not describe a quantized tensor.
        """
        if not isinstance(about, dict) or set(about) != {"scheme", "shape", "dtype", "exponent"}:
            raise _corrupt(name, "its description has other fields than ours")
        try:
            scheme = Scheme(**about["scheme"])
        except (TypeError, UsageError) as error:
            raise _corrupt(name, f"no scheme of ours ({error})") from error
        shape, exponent = about["shape"], about["exponent"]
        if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and 0 < n < 2**31 for n in shape)):
            raise _corrupt(name, f"its shape is {shape!r}")
        if about["dtype"] not in DTYPES or type(exponent) is not int or not -200 <= exponent <= 200:
            raise _corrupt(name, f"dtype {about['dtype']!r}, exponent {exponent!r}")
        if not scheme.is_whole:
            raise _corrupt(name, f"{scheme.bits} bits a code")
        tensor = cls(name, scheme, (shape[0], shape[1]), about["dtype"], exponent, dict(arrays))
        _check_arrays(tensor)
        return tensor


def quantize_tensor(
    weight: torch.Tensor, scheme: Scheme, hessian: torch.Tensor | None = None, *, name: str = ""
) -> QuantizedTensor:
    """Quantize a matrix [rows, cols] of float32, bfloat16 or float16 on its own device.

    hessian: X^T X [cols, cols] of the inputs, for the methods with feedback. name: seeds the rotation with `scheme.seed`.

    Raises:
        UsageError: not such a matrix, a width between integers, or a Hessian missing or wrong.
        DataCorrupt: NaN or infinite weights.
    """
    weight = weight.detach()
    dtype = str(weight.dtype).removeprefix("torch.")
    if weight.ndim != 2 or weight.numel() == 0 or dtype not in DTYPES:
        raise UsageError(
            f"{name or 'the tensor'}: {dtype} {list(weight.shape)} is not a matrix to quantize",
            hint=f"give [rows, columns] of {', '.join(DTYPES)}",
        )
    if not scheme.is_whole:
        raise UsageError(f"one tensor cannot have {scheme.bits} bits", hint="use quantize_model, or a whole number")
    if scheme.how.feedback and hessian is None:
        raise UsageError(
            f"{name or 'the tensor'}: {scheme.method} needs a Hessian",
            hint=f"give X^T X of the layer's inputs, or use {scheme.method.removesuffix('_ldlq')}",
        )
    weight = weight.float()
    exponent = _exponent_of(weight, name)
    encoder = _Encoder(scheme, Layout(weight.size(1), scheme.group), name)
    arrays = (
        encoder.with_feedback(weight, exponent, hessian) if scheme.how.feedback else encoder.plain(weight, exponent)
    )
    return QuantizedTensor(name, scheme, (weight.size(0), weight.size(1)), dtype, exponent, arrays)


@dataclass(frozen=True)
class _Encoder:
    """Encodes matrices of one layout by one scheme."""

    scheme: Scheme
    layout: Layout
    name: str

    @property
    def rotation(self) -> Rotation:
        return Rotation(self.layout, self.name, self.scheme.seed)

    def plain(self, weight: torch.Tensor, exponent: int) -> dict[str, torch.Tensor]:
        """Without feedback, rows chunk by chunk: float32 weight -> arrays."""
        import torch

        rows_cols = (weight.size(0), weight.size(1))
        if self.scheme.how.grid == "trellis":
            return self._trellis(torch.cat([self._prepared(weight[rows], exponent) for rows in _row_chunks(rows_cols)]))
        chunks: dict[str, list[torch.Tensor]] = {}
        for rows in _row_chunks(rows_cols):
            for key, part in self._scalar_rows(self._prepared(weight[rows], exponent)).items():
                chunks.setdefault(key, []).append(part)
        found = {key: torch.cat(parts) for key, parts in chunks.items()}
        return self._stored(found.pop("codes", None), found)

    def with_feedback(
        self, weight: torch.Tensor, exponent: int, hessian: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """With the error of every column, or trellis tile of columns, answered by those that follow."""
        import torch

        assert hessian is not None
        turned = feedback.checked_hessian(hessian, self.layout.cols, self.name)
        if self.scheme.how.rotated:
            turned = self.rotation.conjugate(turned)
        factor = feedback.inverse_factor(turned, self.scheme.damping)
        y = self._prepared(weight, exponent)
        placements = [
            (groups, d, *placed(self.scheme, y[:, columns].reshape(y.size(0), -1, d), d))
            for columns, groups, d in self.layout.spans()
        ]
        scales = torch.cat([scale for _, _, scale, _ in placements], dim=1)
        offsets = (
            torch.cat([o for _, _, _, o in placements if o is not None], dim=1)
            if placements[0][3] is not None
            else None
        )
        group_of = self.layout.group_of_column()
        codes: list[torch.Tensor] = []

        def one_column(columns: slice, w: torch.Tensor) -> torch.Tensor:
            group = group_of[columns.start]
            scale = scales[:, group, None].float()
            offset = None if offsets is None else offsets[:, group, None].float()
            grid = grid_for(self.scheme, self.layout.last if group == self.layout.num_groups - 1 else self.layout.group)
            assert grid is not None
            code = grid.encode(scaled(w, scale, offset))
            codes.append(code)
            value = grid.decode(code) * scale
            return value if offset is None else value + offset

        def one_tile(columns: slice, w: torch.Tensor) -> torch.Tensor:
            places = torch.tensor(group_of[columns], device=w.device)
            scale = scales.float()[:, places]
            shape = (w.size(0), w.size(1))
            tile = trellis.encode(trellis.tiled(scaled(w, scale, None)), self.scheme.code_bits, self.scheme.memory_bits)
            codes.append(tile)
            return trellis.untiled(trellis.decode(tile, self.scheme.code_bits, self.scheme.memory_bits), shape) * scale

        is_trellis = self.scheme.how.grid == "trellis"
        feedback.with_feedback(y, factor, trellis.TILE if is_trellis else 1, one_tile if is_trellis else one_column)
        arrays = {"scales": scales} if offsets is None else {"scales": scales, "offsets": offsets}
        return self._stored(torch.cat(codes, dim=0 if is_trellis else 1), arrays)

    def _prepared(self, weight: torch.Tensor, exponent: int) -> torch.Tensor:
        y = _shifted(weight, -exponent)
        return self.rotation.forward(y) if self.scheme.how.rotated else y

    def _scalar_rows(self, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """Codes int16 [rows, cols] and the groups' numbers for prepared rows."""
        import torch

        found: dict[str, list[torch.Tensor]] = {}
        for columns, _, d in self.layout.spans():
            part = y[:, columns].reshape(y.size(0), -1, d)
            for key, value in self._scalar_groups(part, d).items():
                found.setdefault(key, []).append(value)
        return {key: parts[0] if len(parts) == 1 else torch.cat(parts, dim=1) for key, parts in found.items()}

    def _scalar_groups(self, y: torch.Tensor, d: int) -> dict[str, torch.Tensor]:
        """Groups y [rows, groups, d] of one length."""
        import torch

        scale, offset = placed(self.scheme, y, d)
        grid = grid_for(self.scheme, d)
        wide_offset = None if offset is None else offset.float().unsqueeze(-1)
        found, levels = {}, torch.zeros_like(y)
        if grid is not None:
            codes = grid.encode(scaled(y, scale.float().unsqueeze(-1), wide_offset))
            levels = grid.decode(codes)
            if self.scheme.least_squares:
                scale = least_squares(y if wide_offset is None else y - wide_offset, levels, scale)
            found["codes"] = codes.flatten(1)
        found["scales"] = scale
        if offset is not None:
            found["offsets"] = offset
        if self.scheme.how.residual_signs:
            residual = y - levels * scale.float().unsqueeze(-1)
            projected = residual @ gaussian_matrix(d, self.scheme.seed).to(y.device).T
            found["signs"] = (projected >= 0).to(torch.int16).flatten(1)
            found["residuals"] = half(residual.norm(dim=-1))
        return found

    def _trellis(self, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """The whole tensor at once, by sequences that run through tiles of 16 columns; scales fitted afterwards."""
        import torch

        scales, ready = [], []
        for columns, _, d in self.layout.spans():
            part = y[:, columns].reshape(y.size(0), -1, d)
            scales.append(placed(self.scheme, part, d)[0])
            ready.append(scaled(part, scales[-1].float().unsqueeze(-1), None).flatten(1))
        shape = (y.size(0), y.size(1))
        codes = trellis.encode(trellis.tiled(torch.cat(ready, dim=1)), self.scheme.code_bits, self.scheme.memory_bits)
        values = trellis.untiled(trellis.decode(codes, self.scheme.code_bits, self.scheme.memory_bits), shape)
        fitted = [
            least_squares(y[:, columns].reshape(y.size(0), -1, d), values[:, columns].reshape(y.size(0), -1, d), scale)
            for (columns, _, d), scale in zip(self.layout.spans(), scales, strict=True)
        ]
        return self._stored(codes, {"scales": torch.cat(fitted, dim=1)})

    def _stored(self, codes: torch.Tensor | None, arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The arrays as they are kept: signs packed, codes packed or entropy-coded, whichever is smaller."""
        arrays = {key: value.contiguous() for key, value in arrays.items()}
        if "signs" in arrays:
            arrays["signs"] = pack(arrays["signs"], 1)
        if codes is None:
            return arrays
        if self.scheme.how.grid != "uniform":
            arrays["codes"] = pack(codes, self.scheme.code_bits)
            if not self.scheme.entropy:
                return arrays
        coded = entropy.compress(codes, num_symbols(self.scheme, {d for _, _, d in self.layout.spans()}))
        size = coded["stream"].numel() + 4 * coded["counts"].numel()
        if "codes" in arrays and size >= arrays["codes"].numel():
            return arrays
        arrays.pop("codes", None)
        return {**arrays, **coded}


def _check_arrays(tensor: QuantizedTensor) -> None:
    """Every array that the scheme asks for, of its dtype and shape, and no other; finite numbers."""
    import torch

    scheme, (rows, cols) = tensor.scheme, tensor.shape
    per_group = (rows, tensor.layout.num_groups)
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {"scales": (torch.float16, per_group)}
    if scheme.how.grid == "asymmetric":
        expected["offsets"] = (torch.float16, per_group)
    if scheme.how.residual_signs:
        expected["residuals"] = (torch.float16, per_group)
        expected["signs"] = (torch.uint8, (packed_bytes(rows * cols, 1),))
    is_trellis = scheme.how.grid == "trellis"
    num_codes = trellis.num_sequences(rows, cols) * trellis.SEQUENCE if is_trellis else rows * cols
    stream = tensor.arrays.get("stream")
    if stream is not None:
        expected["stream"] = (torch.uint8, (stream.numel(),))
        expected["counts"] = (torch.int32, (num_symbols(scheme, {d for _, _, d in tensor.layout.spans()}),))
    elif scheme.how.grid == "uniform":
        raise _corrupt(tensor.name, "its codes are not entropy-coded")
    elif scheme.code_bits:
        expected["codes"] = (torch.uint8, (packed_bytes(num_codes, scheme.code_bits),))
    found = {key: (array.dtype, tuple(array.shape)) for key, array in tensor.arrays.items()}
    if found != expected:
        raise _corrupt(tensor.name, f"its arrays are {_shown(found)}, not {_shown(expected)}")
    if not all(bool(torch.isfinite(a.float()).all()) for a in tensor.arrays.values() if a.dtype == torch.float16):
        raise _corrupt(tensor.name, "a scale is NaN or infinite")
    if stream is not None and not (scheme.entropy or scheme.how.grid == "uniform"):
        raise _corrupt(tensor.name, "its codes are entropy-coded, its scheme says they are not")
    if scheme.how.grid == "symmetric" and stream is None:
        highest = num_symbols(scheme, {tensor.layout.last}) - 1  # the grid leaves the last code of b bits free
        if int(tensor.codes().max()) > highest:
            raise _corrupt(tensor.name, "a code lies outside the grid")


def _shown(arrays: Mapping[str, tuple[Any, tuple[int, ...]]]) -> str:
    return ", ".join(f"{key} {kind} {list(shape)}" for key, (kind, shape) in sorted(arrays.items()))


def _corrupt(name: str, why: str) -> DataCorrupt:
    return DataCorrupt(f"quantized tensor {name!r}: {why}", hint="quantize the checkpoint again")


def _exponent_of(weight: torch.Tensor, name: str) -> int:
    """e such that weight * 2**-e has its largest absolute value in [64, 128); 0 for a matrix of zeros."""
    largest = float(weight.abs().max())
    if not math.isfinite(largest):
        raise DataCorrupt(
            f"{name or 'the tensor'} holds NaN or infinite weights",
            hint="quantize the checkpoint of a run that did not diverge",
        )
    return math.frexp(largest)[1] - LARGEST_EXPONENT if largest else 0


def _shifted(x: torch.Tensor, exponent: int) -> torch.Tensor:
    """x * 2**exponent in float32, exact. In two steps: the power itself may lie outside float32."""
    first = exponent // 2
    return x * math.ldexp(1.0, first) * math.ldexp(1.0, exponent - first)


def _row_chunks(shape: tuple[int, int]) -> Iterator[slice]:
    step = max(1, CHUNK_WEIGHTS // shape[1])
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))
