"""Anything that our own loader runs: a checkpoint, a quantized model, a GGUF, a folder for transformers; each from itself alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch.quantize import gguf, gguf_file, hf_folder, packed_gguf
from autoresearch.quantize.checkpoint import open_checkpoint, weights_in
from autoresearch.vocabulary import DataMissing

if TYPE_CHECKING:
    import torch

    from autoresearch.contract.tokenizer import Tokenizer
    from autoresearch.quantize.architecture import ModelConfig
    from autoresearch.quantize.reference import ReferenceGPT


@dataclass(frozen=True)
class Runnable:
    """A model with its tokenizer; `kind` says in words what it was read from."""

    config: ModelConfig
    tensors: dict[str, torch.Tensor]
    tokenizer: Tokenizer
    kind: str
    path: Path

    def model(self, device: str | torch.device = "cpu") -> ReferenceGPT:
        """The model on a device, ready to be asked."""
        from autoresearch.quantize.reference import ReferenceGPT

        return ReferenceGPT(self.config).take(self.tensors).eval().to(device)


def open_runnable(path: Path, tokenizer: Path | None = None) -> Runnable:
    """Open whatever `path` is. tokenizer: for a checkpoint without one beside it.

    Raises:
        DataMissing, DataCorrupt, ArchitectureEdited: as `open_checkpoint`, `open_gguf` and `open_hf_folder`.
    """
    if path.is_dir() and hf_folder.is_hf_folder(path):
        config, tensors, table, cls, _ = hf_folder.open_hf_folder(path)
        return Runnable(config, tensors, table, f"folder for transformers ({cls})", path)
    if path.is_file() and (path.suffix == ".gguf" or _begins_with_gguf(path)):
        found = gguf.open_gguf(path)
        return Runnable(found.config, found.tensors, found.tokenizer, f"GGUF ({found.architecture})", path)
    if path.suffix == ".gguf":
        raise DataMissing(f"no file {path}", hint="autoresearch export CHECKPOINT --format gguf")
    file = weights_in(path)
    is_quantized = packed_gguf.is_quantized(file)
    checkpoint = packed_gguf.open_quantized(file, tokenizer) if is_quantized else open_checkpoint(path, tokenizer)
    kind = "quantized model" if is_quantized else "checkpoint"
    return Runnable(checkpoint.config, checkpoint.tensors, checkpoint.needed_tokenizer, kind, checkpoint.path)


def _begins_with_gguf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def runtimes(kind: str) -> list[tuple[str, str]]:
    """What an architecture or class is good for: ("runs" or "only reads", who), in that order."""
    ours = "autoresearch sample"
    return {
        gguf_file.STOCK: [("runs", f"llama.cpp and what is built on it (Ollama, LM Studio, llama-cpp-python), {ours}")],
        gguf_file.OWN: [
            ("runs", ours),
            ("only reads", "gguf-py and viewers; llama.cpp refuses the architecture `autoresearch`"),
        ],
        packed_gguf.KIND: [
            ("runs", ours),
            ("only reads", "gguf-py and viewers, the codes as bytes; no runtime has a type for them"),
        ],
        hf_folder.APERTUS: [("runs", f"transformers, and what runs its Apertus class (vLLM, SGLang, mlx-lm), {ours}")],
        hf_folder.NANOCHAT: [("runs", f"transformers, and what runs its NanoChat class, {ours}")],
        hf_folder.OWN: [
            ("runs", f"transformers with trust_remote_code=True, and what runs models through it (lm-eval), {ours}"),
            ("only reads", "everything else that reads safetensors"),
        ],
    }[kind]
