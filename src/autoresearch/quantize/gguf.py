"""GGUF version 3, written and read through the `gguf` library: under a stock architecture where one computes the model.

    apertus        a portable model, folded (quantize/folding.py): llama.cpp and all that is built on it run the file
    autoresearch   any shipped model, tensor for tensor: our own loader runs it, others can only read it

Both carry the model's configuration and tokenizer under keys of our own, so that the file alone is enough for us.
F16 is never written: squared ReLU reaches beyond its 65504, and the logits become NaN.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoresearch import __version__
from autoresearch.files import DiskError, disk_error, writing_whole
from autoresearch.hostile_text import one_line
from autoresearch.quantize.architecture import RMS_EPS, ModelConfig, check_tensors, config_from_json
from autoresearch.quantize.folding import fold, foldable, swapped
from autoresearch.quantize.token_table import gguf_fields, tokenizer_from_gguf
from autoresearch.vocabulary import AutoresearchError, DataCorrupt, DataMissing, UsageError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from autoresearch.contract.tokenizer import Tokenizer
    from autoresearch.quantize.checkpoint import Checkpoint

OWN, STOCK = "autoresearch", "apertus"
TYPES = ("f32", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")  # what gguf 0.19 can write of what we offer
FORMAT_VERSION = 1  # of our own keys
MAX_FIELDS = 10_000
_AGAIN = "autoresearch export CHECKPOINT --format gguf"

# xIELU is x^2 for x > 0 and 0 below it when softplus(alpha_p) = 1, softplus(alpha_n) = 0 and beta = 0 (arXiv 2411.13010).
XIELU_ALPHA_P = math.log(math.e - 1)
XIELU_ALPHA_N = -100.0  # softplus: 4e-44, which float32 rounds to nothing in any sum
XIELU_BETA = 0.0
XIELU_EPS = -1e-6  # its authors'

_PLAIN_NAMES = {"wte.weight": "token_embd.weight", "lm_head.weight": "output.weight"}
_LAYER_NAMES = {
    "attn.c_q.weight": "attn_q.weight",
    "attn.c_k.weight": "attn_k.weight",
    "attn.c_v.weight": "attn_v.weight",
    "attn.c_proj.weight": "attn_output.weight",
    "attn.ve_gate.weight": "attn_ve_gate.weight",
    "mlp.c_fc.weight": "ffn_up.weight",
    "mlp.c_proj.weight": "ffn_down.weight",
}


class LibraryMissing(AutoresearchError):
    """An export needs a package that is not installed."""


@dataclass(frozen=True)
class Written:
    """One tensor of the file: its name there, its type, what was meant (float32) and its bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True)
class GgufModel:
    """What our own loader finds in a file: enough to run it. Tensors are float32 under the names of train.py."""

    config: ModelConfig
    tensors: dict[str, torch.Tensor]
    tokenizer: Tokenizer
    architecture: str
    table: tuple[Written, ...]
    fields: dict[str, Any]


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


def type_named(name: str) -> str:
    """The name of a type in lower case.

    Raises:
        UsageError: it is f16, ternary, or cannot be written.
    """
    wanted = name.lower()
    if wanted in TYPES:
        return wanted
    hint = f"choose one of {', '.join(TYPES)}"
    if wanted in ("f16", "fp16"):
        raise UsageError(
            "f16 is never written: squared ReLU overflows it, and the logits become NaN", hint="--type bf16"
        )
    if wanted in ("tq1_0", "tq2_0"):
        raise UsageError(
            f"{wanted} is a type for ternary weights, and no TurboQuant: it would destroy this model", hint=hint
        )
    raise UsageError(f"no type {name!r:.40} that the gguf library can write", hint=hint)


def gguf_name(name: str) -> str:
    """The name of one of train.py's tensors in a file."""
    if name in _PLAIN_NAMES:
        return _PLAIN_NAMES[name]
    kind, _, rest = name.partition(".")
    number, _, part = rest.partition(".")
    if kind == "layers":
        return f"blk.{number}.{_LAYER_NAMES[part]}"
    return f"blk.{number}.value_embd.weight" if kind == "value_embeds" else name


def architecture_for(checkpoint: Checkpoint, wanted: str | None = None) -> str:
    """`apertus` where the model is portable, else `autoresearch`; or the one that is wanted, if it can be.

    Raises:
        UsageError: apertus is wanted and cannot compute the model; or it is no architecture of ours.
    """
    if wanted not in (None, OWN, STOCK):
        raise UsageError(f"no architecture {wanted!r:.40} to export to", hint=f"choose {STOCK} or {OWN}")
    if wanted == STOCK:
        fold(checkpoint.config, checkpoint.tensors, normalise=True, swap=True)
    return wanted or (OWN if foldable(checkpoint.config, checkpoint.tensors) else STOCK)


def meant(checkpoint: Checkpoint, architecture: str) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """The configuration and the tensors that the file is to hold, under their names in the file, float32."""
    import torch

    config, tensors = checkpoint.config, dict(checkpoint.tensors)
    if not config.x0_mix:
        tensors.pop("x0_lambdas", None)
    if architecture == OWN:
        return config, {gguf_name(name): tensor.to(torch.float32) for name, tensor in tensors.items()}
    config, folded = fold(config, tensors, normalise=True, swap=True)
    del folded["resid_lambdas"]
    found = {gguf_name(name): tensor for name, tensor in folded.items()}
    for i in range(config.n_layer):
        found[f"blk.{i}.attn_norm.weight"] = torch.ones(config.n_embd)
        found[f"blk.{i}.ffn_norm.weight"] = torch.ones(config.n_embd)
        found[f"blk.{i}.attn_q_norm.weight"] = torch.ones(config.head_dim)
        found[f"blk.{i}.attn_k_norm.weight"] = torch.ones(config.head_dim)
    found["output_norm.weight"] = torch.ones(config.n_embd)
    return config, found


def type_for(name: str, shape: tuple[int, ...], wanted: str) -> str:
    """The type of one tensor: vectors and gates stay f32 (stock kernels want them so, and they are nothing in size);
    bf16 where the columns do not divide into the wanted type's blocks of 32."""
    if len(shape) < 2 or name.endswith("ve_gate.weight"):
        return "f32"
    return wanted if wanted in ("f32", "bf16") or shape[-1] % 32 == 0 else "bf16"


def write_gguf(
    checkpoint: Checkpoint, path: Path, *, type_name: str = "bf16", architecture: str | None = None, title: str = ""
) -> tuple[Written, ...]:
    """Write the checkpoint as one GGUF file, whole or not at all; what each tensor became.

    type_name: of the matrices, one of TYPES. architecture: `architecture_for` decides where None. title: general.name.

    Raises:
        UsageError: the type or the architecture cannot be. DataMissing, DataCorrupt, ArchitectureEdited: the checkpoint
        lacks configuration or tokenizer, or is another model. LibraryMissing: no gguf package. DiskError: no space.
    """
    gguf = library()
    wanted = type_named(type_name)
    chosen = architecture_for(checkpoint, architecture)
    config, tensors = meant(checkpoint, chosen)
    fields = [*fields_of(checkpoint, config, chosen, wanted, title), *gguf_fields(checkpoint.needed_tokenizer)]
    table = []
    try:
        with writing_whole(path) as stream:
            writer = gguf.GGUFWriter(stream.name, chosen)
            try:
                add_fields(writer, fields)
                for name, tensor in tensors.items():
                    kind = type_for(name, tuple(tensor.shape), wanted)
                    data = gguf.quants.quantize(tensor.numpy(), gguf.GGMLQuantizationType[kind.upper()])
                    writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind.upper()])
                    table.append(Written(name, kind, tuple(tensor.shape), int(data.nbytes)))
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.write_tensors_to_file()
            finally:
                writer.close()
    except OSError as error:
        raise export_error(error, path) from error
    return tuple(table)


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


# -- reading ------------------------------------------------------------------------------------------------------------


def open_gguf(path: Path) -> GgufModel:
    """Read a file of ours back, every tensor as float32.

    Raises:
        DataMissing: no such file. DataCorrupt: no GGUF, cut off, damaged, or another program's. LibraryMissing: no gguf.
        ArchitectureEdited: its tensors are not the shipped model's.
    """
    import torch

    table, fields, arrays = read_raw(path)
    architecture = fields.get("general.architecture")
    config_text = fields.get("autoresearch.config")
    if architecture not in (OWN, STOCK) or not isinstance(config_text, str):
        raise DataCorrupt(
            f"{path} is a GGUF of another program (architecture {architecture!r:.40})",
            hint="run it with llama.cpp; our loader reads what autoresearch export wrote",
        )
    if fields.get("autoresearch.format_version") != FORMAT_VERSION:
        raise DataCorrupt(f"{path} was written by another version of this program", hint=_AGAIN)
    config = config_from_json(config_text)
    if "autoresearch.packed" in fields:
        from autoresearch.quantize import packed_gguf

        decoded = packed_gguf.unpacked(path, config, fields, arrays)
        return GgufModel(config, decoded, tokenizer_from_gguf(fields), packed_gguf.KIND, table, fields)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return GgufModel(
        config,
        named_as_trained(config, tensors, architecture),
        tokenizer_from_gguf(fields),
        architecture,
        table,
        fields,
    )


def named_as_trained(
    config: ModelConfig, tensors: Mapping[str, torch.Tensor], architecture: str
) -> dict[str, torch.Tensor]:
    """Tensors of a file under the names of train.py, in its rotation.

    Raises:
        DataCorrupt: a norm of a stock file has weights, which no file of ours has. ArchitectureEdited: wrong names or shapes.
    """
    import torch

    names = {gguf_name(name): name for name in _all_names(config)}
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if architecture == STOCK and name.endswith("_norm.weight"):
            if not bool((tensor == 1).all()):
                raise DataCorrupt(f"{name} holds weights, which a file of ours never has", hint=_AGAIN)
            continue
        found[names.get(name, name)] = tensor
    if architecture == STOCK:
        found["resid_lambdas"] = torch.ones(config.n_layer)
        for i in range(config.n_layer):
            for name in (f"layers.{i}.attn.c_q.weight", f"layers.{i}.attn.c_k.weight"):
                if name in found:
                    found[name] = swapped(found[name], config.head_dim)
    check_tensors(config, found)
    return found


def _all_names(config: ModelConfig) -> list[str]:
    from autoresearch.quantize.architecture import shapes_of

    return [*shapes_of(replace(config, x0_mix=True))]


def read_raw(path: Path) -> tuple[tuple[Written, ...], dict[str, Any], dict[str, NDArray[Any]]]:
    """Types, metadata and dequantized tensors (float32; I8 as it is) under the file's own names, of any GGUF.

    Every length in the file is checked against its size: the reader slices a map of it.

    Raises:
        DataMissing, DataCorrupt, LibraryMissing: as `open_gguf`.
    """
    import numpy as np

    gguf = library()
    if not path.is_file():
        raise DataMissing(f"no file {path}", hint=_AGAIN)
    with path.open("rb") as stream:
        start = stream.read(8)
    if not start.startswith(b"GGUF"):
        raise DataCorrupt(f"{path} is no GGUF: it begins with {start[:4]!r}", hint=_AGAIN)
    try:
        reader = gguf.GGUFReader(path, "r")
        if len(reader.fields) > MAX_FIELDS:
            raise DataCorrupt(f"{path} has {len(reader.fields):,} fields of metadata", hint=_AGAIN)
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
            f"{path} is cut off or damaged: {one_line(str(error), 160)}", hint=f"copy it again, or: {_AGAIN}"
        ) from error
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise DataCorrupt(f"{path}: {one_line(name, 80)} holds NaN or infinity", hint=_AGAIN)
    return tuple(table), fields, arrays


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
