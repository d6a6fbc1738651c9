"""Quantized models of ours (storage.py) opened to be run, and carried by a GGUF: codes and scales as they are packed.

GGUF has no type for these codes, so each stored array lies in the file as bytes (I8) under the architecture `autoresearch`, and
`autoresearch.packed` says in JSON what it is. Only our own loader runs such a file; it is as small as the codes are.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoresearch.contract.description import CONFIG_KEY
from autoresearch.contract.file_facts import file_sha256
from autoresearch.files import writing_whole
from autoresearch.quantize import storage
from autoresearch.quantize.architecture import ModelConfig, check_tensors
from autoresearch.quantize.checkpoint import Checkpoint, tokenizer_for
from autoresearch.quantize.gguf_file import OWN, Written, add_fields, export_error, fields_of, library
from autoresearch.quantize.token_table import gguf_fields
from autoresearch.vocabulary import DataCorrupt, DataMissing

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

KEY = "autoresearch.packed"
KIND = "packed"  # what a GGUF of this kind is called where its architecture would be
_DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "bool")
_AGAIN = "autoresearch export QUANTIZED.safetensors --format gguf"


def is_quantized(path: Path) -> bool:
    """Whether this file is a quantized model of ours. False for what is no safetensors file at all."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file() or path.suffix != ".safetensors":
        return False
    try:
        with safe_open(str(path), framework="pt") as opened:
            return bool((opened.metadata() or {}).get("format") == storage.FORMAT)
    except (SafetensorError, OSError):
        return False


def open_quantized(path: Path, tokenizer: Path | None = None) -> Checkpoint:
    """A quantized model as the checkpoint of its decoded weights, float32.

    Raises:
        DataMissing, DataCorrupt: as `storage.load`; or it does not say what model it is.
    """
    import torch

    model = storage.load(path)
    tensors = model.dequantized(torch.float32)
    text = model.metadata.get(CONFIG_KEY)
    if text is None:
        raise DataMissing(f"{path} does not say what model it is", hint="autoresearch quantize CHECKPOINT")
    return Checkpoint(tensors, text, tokenizer_for(path, tokenizer), path, file_sha256(path))


def write_packed_gguf(source: Path, opened: Checkpoint, path: Path, *, title: str = "") -> tuple[Written, ...]:
    """Write a quantized model as one GGUF, whole or not at all; its arrays byte for byte.

    opened: `open_quantized(source)`.

    Raises:
        DataMissing, DataCorrupt, ArchitectureEdited: no tokenizer, or another model. LibraryMissing: no gguf. DiskError.
    """
    import numpy as np
    import torch
    from safetensors import safe_open

    gguf = library()
    config = opened.config
    with safe_open(str(source), framework="pt") as stream:
        metadata = dict(stream.metadata() or {})
        arrays = {name: stream.get_tensor(name) for name in sorted(stream.keys())}
    described = [
        {"name": name, "dtype": str(array.dtype).removeprefix("torch."), "shape": list(array.shape)}
        for name, array in arrays.items()
    ]
    packed = json.dumps({"metadata": metadata, "arrays": described}, sort_keys=True)
    fields = [*fields_of(opened, config, OWN, "f32", title), *gguf_fields(opened.needed_tokenizer)]
    fields = [field for field in fields if field[0] != "general.file_type"]  # no llama_ftype says this
    table = []
    try:
        with writing_whole(path) as out:
            writer = gguf.GGUFWriter(out.name, OWN)
            try:
                add_fields(writer, [*fields, (KEY, "string", packed)])
                for name, array in arrays.items():
                    if not array.numel():
                        continue  # its shape is in the JSON
                    content = array.contiguous().reshape(-1).view(torch.uint8).numpy().view(np.int8)
                    writer.add_tensor(name, content)
                    table.append(Written(name, "i8", tuple(content.shape), int(content.nbytes)))
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.write_tensors_to_file()
            finally:
                writer.close()
    except OSError as error:
        raise export_error(error, path) from error
    return tuple(table)


def unpacked(
    path: Path, config: ModelConfig, fields: Mapping[str, Any], arrays: Mapping[str, NDArray[np.generic]]
) -> dict[str, torch.Tensor]:
    """The decoded weights of such a file under the names of train.py, float32. Nothing in it is trusted.

    Raises:
        DataCorrupt: the description and the arrays disagree. ArchitectureEdited: it is another model.
    """
    import torch
    from safetensors.torch import save_file

    try:
        body = json.loads(fields[KEY])
        metadata = {str(key): str(value) for key, value in body["metadata"].items()}
        stored = {}
        for entry in body["arrays"]:
            name, shape = str(entry["name"]), [int(size) for size in entry["shape"]]
            if entry["dtype"] not in _DTYPES or min(shape, default=0) < 0:
                raise ValueError(f"{name[:80]} has dtype {entry['dtype']!r:.40} and shape {shape}")
            kind = getattr(torch, entry["dtype"])
            empty = torch.empty(shape, dtype=kind)
            if empty.numel():
                empty = torch.frombuffer(bytearray(arrays[name].tobytes()), dtype=kind).reshape(shape)
            stored[name] = empty
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError, OverflowError) as error:
        raise DataCorrupt(
            f"{path}: what it says of its packed arrays is damaged: {error!r:.120}", hint=_AGAIN
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / "packed.safetensors"
        save_file(stored, str(again), metadata)
        tensors = storage.load(again).dequantized(torch.float32)
    check_tensors(config, tensors)
    return tensors
