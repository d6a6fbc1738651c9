"""What every GGUF of ours is made of: metadata, the library that writes and reads it, and a reader that trusts no length."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoresearch import __version__
from autoresearch.files import DiskError, disk_error
from autoresearch.hostile_text import one_line
from autoresearch.quantize.architecture import RMS_EPS, ModelConfig
from autoresearch.vocabulary import AutoresearchError, DataCorrupt, DataMissing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autoresearch.quantize.checkpoint import Checkpoint

OWN, STOCK = "autoresearch", "apertus"
FORMAT_VERSION = 1  # of our own keys
MAX_FIELDS = 10_000
AGAIN = "autoresearch export CHECKPOINT --format gguf"  # what to type where a file is damaged

# xIELU is x^2 for x > 0 and 0 below it when softplus(alpha_p) = 1, softplus(alpha_n) = 0 and beta = 0 (arXiv 2411.13010).
XIELU_ALPHA_P = math.log(math.e - 1)
XIELU_ALPHA_N = -100.0  # softplus: 4e-44, which float32 rounds to nothing in any sum
XIELU_BETA = 0.0
XIELU_EPS = -1e-6  # its authors'


class LibraryMissing(AutoresearchError):
    """An export needs a package that is not installed."""


@dataclass(frozen=True)
class Written:
    """One tensor of the file: its name there, its type, what was meant (float32) and its bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    num_bytes: int


def library() -> Any:
    """The gguf package.

    Raises:
        LibraryMissing: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise LibraryMissing("no gguf package here", hint="pip install 'autoresearch[export]'") from error
    return gguf


def export_error(error: OSError, path: Path) -> DiskError:
    """Our error for one of the disk while exporting. numpy's writer reports a full disk without a number."""
    again = "free some space (df -h), then export again"
    if error.errno is None and "requested and" in str(error):
        free = shutil.disk_usage(path.parent).free
        return DiskError(f"disk full while writing {path} ({free / 1e6:.0f} MB are free)", hint=again)
    found = disk_error(error, path)
    return DiskError(
        found.message, hint=found.hint.replace("then run the same command with --resume", "then export again")
    )


def add_fields(writer: Any, fields: list[tuple[str, str, Any]]) -> None:
    for key, kind, value in fields:
        add = writer.add_array if kind.endswith("s") else getattr(writer, f"add_{kind}")
        add(key, value)


def fields_of(
    checkpoint: Checkpoint, config: ModelConfig, architecture: str, wanted: str, title: str
) -> Iterator[tuple[str, str, Any]]:
    file_types = {
        "f32": 0,
        "q4_0": 2,
        "q4_1": 3,
        "q8_0": 7,
        "q5_0": 8,
        "q5_1": 9,
        "bf16": 32,
    }  # llama.h, enum llama_ftype
    millions = sum(tensor.numel() for tensor in checkpoint.tensors.values()) / 1e6
    yield "general.name", "string", one_line(title or checkpoint.path.parent.name or "autoresearch", 100)
    yield "general.type", "string", "model"
    yield "general.size_label", "string", f"{millions:.1f}M"
    yield "general.description", "string", f"a GPT trained by autoresearch {__version__}, {', '.join(said_of(config))}"
    yield "general.file_type", "uint32", file_types[wanted]
    yield "general.quantization_version", "uint32", 2
    yield f"{architecture}.vocab_size", "uint32", config.vocab_size
    yield f"{architecture}.context_length", "uint32", config.sequence_len
    yield f"{architecture}.embedding_length", "uint32", config.n_embd
    yield f"{architecture}.block_count", "uint32", config.n_layer
    yield f"{architecture}.feed_forward_length", "uint32", 4 * config.n_embd
    yield f"{architecture}.attention.head_count", "uint32", config.n_head
    yield f"{architecture}.attention.head_count_kv", "uint32", config.n_kv_head
    yield f"{architecture}.attention.layer_norm_rms_epsilon", "float32", RMS_EPS
    yield f"{architecture}.rope.freq_base", "float32", config.rope_base
    yield f"{architecture}.rope.dimension_count", "uint32", config.head_dim
    if architecture == STOCK:
        for name, value in (
            ("alpha_p", XIELU_ALPHA_P), ("alpha_n", XIELU_ALPHA_N), ("beta", XIELU_BETA), ("eps", XIELU_EPS),
        ):  # fmt: skip
            yield f"xielu.{name}", "floats", [value] * config.n_layer
    else:
        yield f"{architecture}.attention.windows", "uint32s", config.windows
        yield f"{architecture}.final_logit_softcapping", "float32", config.softcap
    yield "autoresearch.format_version", "uint32", FORMAT_VERSION
    yield "autoresearch.config", "string", config.to_json()
    yield "autoresearch.checkpoint_sha256", "string", checkpoint.sha256


def said_of(config: ModelConfig) -> list[str]:
    """What kind of model it is, in phrases."""
    full = config.value_embeddings or config.x0_mix
    return [
        f"{config.n_layer} layers",
        f"width {config.n_embd}",
        "full architecture" if full else "portable architecture",
    ]


def read_raw(path: Path) -> tuple[tuple[Written, ...], dict[str, Any], dict[str, NDArray[Any]]]:
    """Types, metadata and dequantized tensors (float32; I8 as it is) under the file's own names, of any GGUF.

    Every length in the file is checked against its size: the reader slices a map of it.

    Raises:
        DataMissing, DataCorrupt, LibraryMissing: as `open_gguf`.
    """
    import numpy as np

    gguf = library()
    if not path.is_file():
        raise DataMissing(f"no file {path}", hint=AGAIN)
    with path.open("rb") as stream:
        start = stream.read(8)
    if not start.startswith(b"GGUF"):
        raise DataCorrupt(f"{path} is no GGUF: it begins with {start[:4]!r}", hint=AGAIN)
    try:
        reader = gguf.GGUFReader(path, "r")
        if len(reader.fields) > MAX_FIELDS:
            raise DataCorrupt(f"{path} has {len(reader.fields):,} fields of metadata", hint=AGAIN)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        table: list[Written] = []
        arrays: dict[str, NDArray[Any]] = {}
        for tensor in reader.tensors:
            shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
            table.append(Written(tensor.name, tensor.tensor_type.name.lower(), shape, int(tensor.n_bytes)))
            if tensor.tensor_type == gguf.GGMLQuantizationType.I8:  # bytes of a packed model
                arrays[tensor.name] = np.array(tensor.data, dtype=np.int8).reshape(shape)
                continue
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            arrays[tensor.name] = np.array(values, dtype=np.float32).reshape(shape)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, NotImplementedError, MemoryError) as error:
        raise DataCorrupt(
            f"{path} is cut off or damaged: {one_line(str(error), 160)}", hint=f"copy it again, or: {AGAIN}"
        ) from error
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise DataCorrupt(f"{path}: {one_line(name, 80)} holds NaN or infinity", hint=AGAIN)
    return tuple(table), fields, arrays
