"""What a checkpoint is measured on: the contract's validation rows, the model that reads them, and calibration text.

The rows are those of the search slice, which every trial is scored on. Confirm and certify rows stay unread: a choice of a
quantization scheme is a choice too, and they are there to check choices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoresearch.backends.hardware import Hardware, detect
from autoresearch.contract.bpb import row_bytes
from autoresearch.contract.corpora import cache_root, open_corpus
from autoresearch.contract.prepared import Prepared, open_prepared
from autoresearch.contract.rules import Clock, Rules, rules_for
from autoresearch.contract.scored_text import documents_scored, rows_of
from autoresearch.contract.standalone import dataset_names, num_shards, preset_in_force
from autoresearch.contract.token_shards import Tokens
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.quantize.calibration import hessians_of, training_rows
from autoresearch.quantize.checkpoint import Checkpoint, open_checkpoint
from autoresearch.quantize.measuring import Tensors
from autoresearch.quantize.origin import Origin, origin_of
from autoresearch.quantize.scoring import RowBits, Rows, Score, module_score
from autoresearch.vocabulary import DataCorrupt, Slice, UsageError
from autoresearch.workspace import SCOPES

if TYPE_CHECKING:
    from autoresearch.quantize.reference import ReferenceGPT

# The reference computes in float32, a sealed trial may have answered in bfloat16: honest models agree within 0.002 bpb.
# Another architecture under the same names is off by far more.
_AGREES_WITHIN = 0.01
CALIBRATION_SEED = 0


@dataclass(frozen=True)
class Ground:
    """One checkpoint on one contract, opened. rows are [num_rows, T+1]; token_bytes is int32 [V]."""

    checkpoint: Checkpoint
    origin: Origin
    rules: Rules
    dataset: str
    rows: Rows
    all_rows: bool
    tokenizer: Tokenizer
    validation_sha256: str
    device: str
    text: Prepared
    calibration_tokens: int

    @property
    def tensors(self) -> Tensors:
        """The weights on the device, in float32: what is quantized is what the model computes with."""
        return {name: tensor.to(self.device).float() for name, tensor in self.checkpoint.tensors.items()}

    @property
    def path(self) -> Path:
        """The checkpoint's file."""
        return self.checkpoint.path

    @property
    def experiment_file(self) -> Path | None:
        """The file that trained the weights, where it lies beside them."""
        found = [self.path.parent / name for name in SCOPES["model"]]
        return next((path for path in found if path.is_file()), None)

    @property
    def num_bytes(self) -> int:
        """Bytes of text in the rows."""
        return int(row_bytes(self.rows, self.tokenizer.token_bytes).sum())

    @property
    def rows_sha256(self) -> str:
        """Hash of the rows."""
        return hashlib.sha256(np.ascontiguousarray(self.rows).tobytes()).hexdigest()

    def reference(self) -> ReferenceGPT:
        """The shipped architecture with these weights.

        Raises:
            ArchitectureEdited: the checkpoint is of another one.
        """
        from autoresearch.quantize.reference import load_reference

        return load_reference(self.checkpoint)

    def score(self, on_progress: Callable[[float], object] = lambda _share: None) -> Score:
        """The default Score: the shipped architecture on the rows."""
        model = self.reference()
        return module_score(
            model, self.rows, self.tokenizer.token_bytes, device=self.device, take=model.take, on_progress=on_progress
        )

    def hessians(self, on_progress: Callable[[float], object] = lambda _share: None) -> Tensors:
        """Input statistics of every linear layer on training text."""
        length = self.rules.max_seq_len
        documents = _Retokenized(self.text, self.tokenizer)
        bos = self.tokenizer.get_bos_token_id()
        rows = training_rows(documents, self.calibration_tokens, length, bos, seed=CALIBRATION_SEED)
        return hessians_of(self.reference(), rows, device=self.device, on_progress=on_progress)

    def check_recorded(self, before: RowBits) -> None:
        """Pass when the score agrees with the recorded one of these weights; where there is none, or not on all rows, always.

        Raises:
            UsageError: it does not: the experiment file computes something else than the shipped one.
        """
        recorded = self.origin.val_bpb
        if recorded is None or not self.all_rows or self.rules.preset != self.origin.preset:
            return
        if abs(before.val_bpb - recorded) > _AGREES_WITHIN:
            raise UsageError(
                f"the shipped model makes val_bpb {before.val_bpb:.4f} of these weights, and the record says {recorded:.4f}:"
                " their experiment file computes something else",
                hint="autoresearch quantize logs/TAG/N --scorer sealed",
            )


def open_ground(
    path: Path,
    *,
    preset: str | None = None,
    dataset: str | None = None,
    num_rows: int | None = None,
    calibration_tokens: int = 0,
    start: Path | None = None,
) -> Ground:
    """Open a checkpoint and the rows it is measured on.

    preset: default is what the checkpoint was trained under, else what is in force in the folder `start`. num_rows: the first
    so many rows of the slice (default: all).

    Raises:
        DataMissing, DataCorrupt: no such checkpoint, a damaged one, or nothing prepared for the contract.
        UsageError: no such contract, or the model does not fit it.
    """
    checkpoint = open_checkpoint(path)
    origin = origin_of(path, checkpoint.sha256)
    rules = rules_for(preset or origin.preset or preset_in_force(start or Path.cwd()))
    name = dataset_names(rules, dataset)[0]
    prepared = open_prepared(rules, name, cache_root(), num_shards=num_shards())
    tokenizer = checkpoint.tokenizer or prepared.tokenizer
    _check_vocabulary(checkpoint, tokenizer, rules)
    rows = _rows(prepared, tokenizer, rules, name)
    if num_rows is not None and not 1 <= num_rows <= len(rows):
        raise UsageError(f"{num_rows} rows: the slice has {len(rows)}", hint=f"--rows {len(rows)}")
    hardware = detect(allow_accelerator=rules.clock is Clock.WALL)
    return Ground(
        checkpoint=checkpoint,
        origin=origin,
        rules=rules,
        dataset=name,
        rows=rows[:num_rows],
        all_rows=num_rows is None or num_rows == len(rows),
        tokenizer=tokenizer,
        validation_sha256=prepared.hashes["validation"],
        device=device_of(hardware),
        text=prepared,
        calibration_tokens=calibration_tokens,
    )


def device_of(hardware: Hardware) -> str:
    """The torch device for quantizing on this machine: "cuda" (ROCm too), or "cpu".

    Not "mps": it has no float64, which the fidelity of weights is computed in.
    """
    return "cuda" if hardware.backend in ("cuda", "rocm") else "cpu"


def _rows(prepared: Prepared, tokenizer: Tokenizer, rules: Rules, dataset: str) -> Rows:
    """Rows of the search slice; under a tokenizer of a recipe's own, those that hold the same documents."""
    if tokenizer.sha256 == prepared.tokenizer.sha256:
        return prepared.rows(Slice.SEARCH)
    documents = open_corpus(dataset, cache_root()).validation_documents(Slice.SEARCH)
    return rows_of(documents_scored(documents, prepared.tokenizer, rules), tokenizer, rules)


def _check_vocabulary(checkpoint: Checkpoint, tokenizer: Tokenizer, rules: Rules) -> None:
    head = checkpoint.tensors.get("lm_head.weight")
    if head is not None and len(head) != tokenizer.get_vocab_size():
        raise DataCorrupt(
            f"the model of {checkpoint.path.name} has {len(head)} tokens and the tokenizer {tokenizer.get_vocab_size()}:"
            f" it was not trained under contract {rules.preset} as it is prepared here",
            hint="name the contract that it was trained under: --contract P",
        )
    if checkpoint.config_text is not None and checkpoint.config.sequence_len < rules.max_seq_len:
        raise UsageError(
            f"the model reads {checkpoint.config.sequence_len} positions and contract {rules.preset} asks for {rules.max_seq_len}",
            hint="name the contract that it was trained under: --contract P",
        )


@dataclass(frozen=True)
class _Retokenized:
    """Training documents under the model's tokenizer, whichever they were prepared with."""

    text: Prepared
    tokenizer: Tokenizer

    def documents(self, seed: int) -> Iterator[tuple[Tokens, int]]:
        """As `Prepared.documents`."""
        if self.tokenizer.sha256 == self.text.tokenizer.sha256:
            yield from self.text.documents(seed)
            return
        for tokens, epoch in self.text.documents(seed):
            words = self.text.tokenizer.decode_bytes(tokens).decode()
            yield next(iter(self.tokenizer.encode_documents([words]))), epoch
