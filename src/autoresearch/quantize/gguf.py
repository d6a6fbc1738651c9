"""GGUF version 3, written and read through the `gguf` library: under a stock architecture where one computes the model.

    apertus        a portable model, folded (quantize/folding.py): llama.cpp and all that is built on it run the file
    autoresearch   any shipped model, tensor for tensor: our own loader runs it, others can only read it

Both carry the model's configuration and tokenizer under keys of our own, so that the file alone is enough for us.
F16 is never written: squared ReLU reaches beyond its 65504, and the logits become NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoresearch.files import writing_whole
from autoresearch.quantize import packed_gguf
from autoresearch.quantize.architecture import ModelConfig, check_tensors, config_from_json
from autoresearch.quantize.folding import fold, foldable, swapped
from autoresearch.quantize.gguf_file import (
    AGAIN,
    FORMAT_VERSION,
    OWN,
    STOCK,
    Written,
    add_fields,
    export_error,
    fields_of,
    library,
    read_raw,
)
from autoresearch.quantize.token_table import gguf_fields, tokenizer_from_gguf
from autoresearch.vocabulary import DataCorrupt, UsageError

if TYPE_CHECKING:
    import torch

    from autoresearch.contract.tokenizer import Tokenizer
    from autoresearch.quantize.checkpoint import Checkpoint

TYPES = ("f32", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")  # what gguf 0.19 can write of what we offer

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


@dataclass(frozen=True)
class GgufModel:
    """What our own loader finds in a file: enough to run it. Tensors are float32 under the names of train.py."""

    config: ModelConfig
    tensors: dict[str, torch.Tensor]
    tokenizer: Tokenizer
    architecture: str
    table: tuple[Written, ...]
    fields: dict[str, Any]


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
        raise DataCorrupt(f"{path} was written by another version of this program", hint=AGAIN)
    config = config_from_json(config_text)
    if "autoresearch.packed" in fields:
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
                raise DataCorrupt(f"{name} holds weights, which a file of ours never has", hint=AGAIN)
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
