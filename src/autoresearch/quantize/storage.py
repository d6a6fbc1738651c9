"""Quantized models on disk: one safetensors file, all else as JSON in its header.

Metadata keys: `format` ("autoresearch-quantized"), `version` ("1"), `tensors` = {"names": [every tensor in order],
"quantized": {name: {"scheme": ..., "shape": [rows, cols], "dtype": ..., "exponent": ...}}}, and the caller's own. Array `key`
of tensor NAME is stored as NAME/key; a kept tensor as NAME. Bytes depend on the model alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoresearch.files import write_whole
from autoresearch.quantize.models import QuantizedModel, kept_row, quantized_row
from autoresearch.quantize.tensors import QuantizedTensor
from autoresearch.vocabulary import DataCorrupt, DataMissing, UsageError

if TYPE_CHECKING:
    import torch

FORMAT, VERSION = "autoresearch-quantized", "1"
OURS = ("format", "version", "tensors")
ARRAYS = ("codes", "stream", "counts", "scales", "offsets", "residuals", "signs")
MAX_DESCRIPTION = 1 << 26  # characters of JSON: a hundred thousand tensors


def to_bytes(model: QuantizedModel) -> bytes:
    """The whole file.

    Raises:
        UsageError: a tensor's or a metadata key's name is one that the format needs.
    """
    from safetensors.torch import save as serialize

    stored: dict[str, torch.Tensor] = {name: _plain(tensor) for name, tensor in model.kept.items()}
    described = {}
    for name, tensor in model.quantized.items():
        about, arrays = tensor.packed()
        described[name] = about
        for key, array in arrays.items():
            if f"{name}/{key}" in stored:
                raise UsageError(f"two tensors would be stored as {name}/{key}", hint="rename one of them")
            stored[f"{name}/{key}"] = _plain(array)
    if taken := [key for key in model.metadata if key in OURS]:
        raise UsageError(f"metadata {taken[0]!r} is the format's own", hint="use another key")
    tensors = json.dumps({"names": model.names, "quantized": described}, sort_keys=True, separators=(",", ":"))
    metadata = {"format": FORMAT, "version": VERSION, "tensors": tensors, **model.metadata}
    return _in_order(serialize(stored, metadata=metadata))


def save(model: QuantizedModel, path: Path) -> int:
    """Write the whole file or none; returns its bytes.

    Raises:
        DiskError: no space, or the folder cannot be written.
    """
    content = to_bytes(model)
    write_whole(path, content)
    return len(content)


def load(path: Path, device: str = "cpu") -> QuantizedModel:
    """What `save` wrote; its table has no cosine and no SQNR. The file is not trusted.

    Raises:
        DataMissing: no such file.
        DataCorrupt: truncated, of another format or version, or inconsistent.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataMissing(f"no quantized model at {path}", hint="autoresearch quantize")
    try:
        with safe_open(path, framework="pt", device=device) as stream:
            metadata = dict(stream.metadata() or {})
            names = list(stream.keys())
            stored = {name: stream.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise _corrupt(path, str(error)) from error
    if metadata.get("format") != FORMAT:
        raise _corrupt(path, "it is no quantized model of ours")
    if metadata.get("version") != VERSION:
        raise _corrupt(path, f"its version is {metadata.get('version')!r}, this program reads {VERSION}")
    order, described = _described(path, metadata.get("tensors", ""))
    quantized, kept = {}, {}
    for name in order:
        if name in described:
            arrays = {key: stored.pop(f"{name}/{key}") for key in ARRAYS if f"{name}/{key}" in stored}
            quantized[name] = QuantizedTensor.from_packed(name, described[name], arrays)
        elif name in stored:
            kept[name] = stored.pop(name)
        else:
            raise _corrupt(path, f"tensor {name!r} is not in it")
    if stored:
        raise _corrupt(path, f"it holds {sorted(stored)[0]!r}, which its description does not name")
    table = tuple(
        quantized_row(quantized[name]) if name in quantized else kept_row(name, kept[name], "as stored")
        for name in order
    )
    others = {key: value for key, value in metadata.items() if key not in OURS}
    return QuantizedModel(order, quantized, kept, table, others)


def _described(path: Path, text: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    try:
        value = json.loads(text) if len(text) <= MAX_DESCRIPTION else None
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, "its description is not JSON") from error
    if not isinstance(value, dict) or set(value) != {"names", "quantized"}:
        raise _corrupt(path, "its description has other fields than ours")
    names, quantized = value["names"], value["quantized"]
    is_named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_named or len(set(names)) != len(names) or not isinstance(quantized, dict) or set(quantized) - set(names):
        raise _corrupt(path, "its list of tensors is none")
    return tuple(names), quantized


def _in_order(content: bytes) -> bytes:
    """The same safetensors file with its header's keys sorted: the library writes metadata in an order of chance."""
    length = int.from_bytes(content[:8], "little")
    header: Mapping[str, Any] = json.loads(content[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes with spaces
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU, in storage of its own: safetensors refuses tensors that share memory."""
    return tensor.detach().to("cpu").contiguous().clone()


def _corrupt(path: Path, why: str) -> DataCorrupt:
    return DataCorrupt(f"{path} cannot be read as a quantized model: {why}", hint="quantize the checkpoint again")
