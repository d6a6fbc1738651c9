"""Verbs that make something one can run of a checkpoint: export, sample."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch.cli import screen
from autoresearch.contract.rules import rules_for
from autoresearch.hostile_text import one_line
from autoresearch.quantize import gguf, gguf_file, hf_folder, packed_gguf
from autoresearch.quantize.checkpoint import Checkpoint, open_checkpoint, weights_in
from autoresearch.quantize.experiment_file import edited_parts
from autoresearch.quantize.folding import foldable
from autoresearch.quantize.runnable import open_runnable, runtimes
from autoresearch.quantize.sampling import Wish, sample_text
from autoresearch.quantize.token_table import STOCK_DIFFERENCE
from autoresearch.vocabulary import AutoresearchError, DataMissing, UsageError
from autoresearch.workspace import template_path

if TYPE_CHECKING:
    from autoresearch.contract.tokenizer import Tokenizer
    from autoresearch.quantize.verification import Rows, Verification

DEFAULT_ROWS = 256  # scored by --verify: all of `tiny`, half a minute of `standard` on a GPU


def export(options: argparse.Namespace) -> int:
    """A checkpoint as a GGUF file, or as a folder for transformers."""
    source = weights_in(Path(options.checkpoint))
    is_quantized = packed_gguf.is_quantized(source)
    opening = packed_gguf.open_quantized if is_quantized else open_checkpoint
    checkpoint = opening(source, _path(options.tokenizer))
    wanted = options.type or ("bf16" if options.format == "gguf" else "f32")
    if options.rows < 0:
        raise UsageError(f"{options.rows} rows are none", hint="--rows 256   (0: all)")
    carries_codes = is_quantized and options.format == "gguf" and not (options.type or options.architecture)
    if carries_codes:
        wanted = packed_gguf.KIND
    out = _path(options.out) or default_out(checkpoint, options.format, wanted)
    title = title_of(checkpoint)
    if carries_codes:
        kind = packed_gguf.KIND
        table = packed_gguf.write_packed_gguf(source, checkpoint, out, title=title)
    elif options.format == "gguf":
        wanted = gguf.type_named(wanted)
        kind = gguf.architecture_for(checkpoint, options.architecture)
        table = gguf.write_gguf(checkpoint, out, type_name=wanted, architecture=kind, title=title)
    else:
        if options.architecture:
            raise UsageError("--architecture is for GGUF; a folder gets the class that fits", hint="--format gguf")
        kind = hf_folder.class_for(checkpoint)
        table = hf_folder.write_hf_folder(checkpoint, out, type_name=wanted, title=title)
    said = {
        "checkpoint": str(checkpoint.path),
        "checkpoint_sha256": checkpoint.sha256,
        "out": str(out),
        "format": options.format,
        "kind": kind,
        "type": wanted,
        "num_tensors": len(table),
        "tensor_bytes": sum(entry.num_bytes for entry in table),
        "num_parameters": sum(tensor.numel() for tensor in checkpoint.tensors.values()),
        "runtimes": runtimes(kind),
        "notes": notes_on(checkpoint, kind, wanted, [entry.type for entry in table], was_quantized=is_quantized),
    }
    found = None
    if options.verify:
        from autoresearch.quantize.verification import verify, verify_packed

        rows, why_not = _rows(options, checkpoint)
        device = _device(options.device)
        if carries_codes:
            found = verify_packed(out, checkpoint, rows=rows, device=device)
        else:
            found = verify(out, checkpoint, wanted_type=wanted, rows=rows, device=device)
        said["verification"] = asdict(found) | {"not_scored": why_not}
    if options.json:
        screen.print_json(said)
    else:
        _say_export(said)
        if found:
            _say_verification(found, why_not)
    return 1 if found and found.problems else 0


def sample(options: argparse.Namespace) -> int:
    """Text from a checkpoint, a GGUF or a folder, as it is made."""
    wish = Wish(options.tokens, options.temperature, options.top_k, options.seed)
    wish.check()
    opened = open_runnable(Path(options.model), _path(options.tokenizer))
    device = _device(options.device)
    model = opened.model(device)
    began = time.monotonic()
    pieces = []
    if not options.json:
        screen.say(options.prompt, end="")
    for piece in sample_text(model, opened.tokenizer, options.prompt, wish):
        pieces.append(piece)
        if not options.json:
            screen.say(piece, end="")
            sys.stdout.flush()
    if options.json:
        seconds = time.monotonic() - began
        text = "".join(pieces)
        about = {"model": str(opened.path), "kind": opened.kind, "device": device, "seconds": seconds}
        screen.print_json({"prompt": options.prompt, "text": text, **asdict(wish), **about})
    else:
        screen.say("")
    return 0


def title_of(checkpoint: Checkpoint) -> str:
    """A short name: of a snapshot logs/TAG/N it is TAG-N, of another folder its own."""
    folder = checkpoint.path.absolute().parent
    name = f"{folder.parent.name}-{folder.name}" if folder.name.isdigit() else folder.name
    if checkpoint.path.stem not in ("checkpoint", "model"):
        name = checkpoint.path.stem
    return one_line(name, 80) or "model"


def default_out(checkpoint: Checkpoint, form: str, type_name: str) -> Path:
    """Where an export goes that nobody named: into the current folder."""
    name = f"{title_of(checkpoint)}-{type_name}"
    return Path(f"{name}.gguf" if form == "gguf" else f"{name}-hf")


def notes_on(
    checkpoint: Checkpoint, kind: str, wanted: str, types: list[str], *, was_quantized: bool = False
) -> list[str]:
    """What a person should know before relying on the export."""
    notes = []
    if was_quantized and kind != packed_gguf.KIND:
        notes.append(
            f"the codes were decoded and stored as {wanted}: the model loses what quantizing lost, and the file is no smaller for it"
        )
    if kind in (gguf_file.OWN, hf_folder.OWN):
        reasons = ", ".join(foldable(checkpoint.config, checkpoint.tensors))
        if reasons:
            notes.append(
                f'no stock architecture has: {reasons}. A portable model runs everywhere: ARCHITECTURE = "portable" in train.py'
            )
    if kind == gguf_file.STOCK:
        notes.append(STOCK_DIFFERENCE)
    if kind == hf_folder.APERTUS:
        notes.append(
            "do not install the `xielu` CUDA package beside it: it takes its beta from the class, not from the file"
        )
    others = sum(1 for name in types if name == "bf16") if wanted not in ("bf16", "f32") else 0
    if others:
        notes.append(f"{others} tensors are bf16: their columns do not divide into {wanted}'s blocks of 32")
    edited = edited_parts(checkpoint.path.parent / "train.py", template_path("train.py"))
    if edited:
        notes.append(
            f"the train.py beside the checkpoint defines {', '.join(edited)} in another way than the shipped one, and what was"
            " exported is the shipped model: compare its val_bpb (--verify) with the recorded one"
        )
    return notes


def _rows(options: argparse.Namespace, checkpoint: Checkpoint) -> tuple[Rows | None, str]:
    """Validation rows to score on, or why there are none."""
    from autoresearch.contract.corpora import cache_root
    from autoresearch.contract.prepared import open_prepared
    from autoresearch.contract.standalone import dataset_names, preset_in_force
    from autoresearch.quantize.verification import Rows
    from autoresearch.vocabulary import Slice

    rules = rules_for(options.contract or preset_in_force(Path.cwd()))
    names = [options.dataset] if options.dataset else dataset_names(rules, None)
    try:
        prepared = open_prepared(rules, names[0], cache_root(), num_shards=options.num_shards)
        tokenizer: Tokenizer = prepared.tokenizer
    except AutoresearchError as error:
        return None, f"{error.message} ({error.hint})"
    if tokenizer.sha256 != checkpoint.needed_tokenizer.sha256:
        return None, f"contract {rules.preset} has another tokenizer: --contract P of the one it was trained under"
    if rules.max_seq_len > checkpoint.config.sequence_len:
        return None, f"rows of {rules.max_seq_len} tokens do not fit a model of {checkpoint.config.sequence_len}"
    rows = prepared.rows(Slice.SEARCH)
    chosen = rows[: options.rows] if options.rows else rows
    return Rows(chosen, tokenizer.token_bytes, len(rows), rules.preset), ""


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _device(wanted: str | None) -> str:
    """The device in force here, or the one that is named.

    Raises:
        UsageError: torch has no such device here. DataMissing: no torch.
    """
    try:
        import torch
    except ImportError as error:
        raise DataMissing(
            "no torch here, and it computes the model", hint="pip install 'autoresearch[train]'"
        ) from error

    from autoresearch.backends.runtime import TorchRuntime

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # as train.py: more threads are slower as soon as anything else runs
    if not wanted:
        return str(TorchRuntime().device)
    try:
        torch.zeros(1, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"no device {wanted!r:.40}: {one_line(str(error), 120)}", hint="--device cpu") from error
    return wanted


def _say_export(said: dict[str, object]) -> None:
    size = int(str(said["tensor_bytes"]))
    parameters = int(str(said["num_parameters"]))
    lines = [
        f"wrote {said['out']}",
        f"  {said['format']}, {said['kind']}, {said['type']}: {said['num_tensors']} tensors, {size / 1e6:.2f} MB"
        f" ({8 * size / parameters:.2f} bits per parameter of {parameters / 1e6:.2f} M)",
    ]
    runs = said["runtimes"]
    assert isinstance(runs, list)
    lines += [f"  {does}: {who}" for does, who in runs]
    notes = said["notes"]
    assert isinstance(notes, list)
    lines += [f"  note: {note}" for note in notes]
    screen.say("\n".join(lines))


def _say_verification(found: Verification, why_not: str) -> None:
    errors = ", ".join(f"{kind} {error:.2g}" for kind, error in found.largest_error.items())
    lines = [
        f"verified: {found.num_tensors} tensors read back, {found.num_bytes / 1e6:.2f} MB on disk; largest error in parts of"
        f" a block's largest value: {errors}"
    ]
    if found.problems:
        lines = [
            f"NOT what it was meant to be: {len(found.problems)} problems",
            *(f"  {line}" for line in found.problems[:10]),
        ]
    lines.append(f"  largest logit difference from the checkpoint: {found.largest_logit_difference:.3g}")
    if found.score and found.checkpoint_score:
        score, before = found.score, found.checkpoint_score
        lines.append(
            f"  val_bpb {score.val_bpb:.6f} from the file, {before.val_bpb:.6f} from the checkpoint"
            f" ({score.val_bpb - before.val_bpb:+.6f}; {score.num_rows} of {score.num_all} rows of {score.contract})"
        )
    else:
        lines.append(f"  not scored: {why_not}")
    lines.append(f"  greedy text: {found.text!r}")
    screen.say("\n".join(lines))
