"""Is an exported file what it was meant to be? It is read back, compared tensor by tensor, and run from itself alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.bpb import bits_per_byte, byte_bearing, row_nats, target_bytes, total_nats
from autoresearch.quantize import gguf, gguf_file, hf_folder
from autoresearch.quantize.checkpoint import Checkpoint, open_checkpoint
from autoresearch.quantize.runnable import open_runnable
from autoresearch.quantize.sampling import Wish, sample_text

if TYPE_CHECKING:
    import torch

    from autoresearch.quantize.reference import ReferenceGPT

_LOGIT_BYTES = 1 << 26  # of one batch of logits while scoring
_SAMPLE = Wish(max_tokens=48, temperature=0.0)

# The largest error that a type may make, in parts of the largest value of a block of 32 (of the value itself for bf16):
# half a step, a whole one at the end that q4_0 and q5_0 lack, and the rounding of the scale to float16.
ROUNDING = {
    "f32": 0.0,
    "bf16": 2.0**-8,
    "q8_0": 1 / 254 + 2.0**-10,
    "q5_1": 1 / 31 + 2.0**-9,
    "q5_0": 1 / 16 + 2.0**-9,
    "q4_1": 1 / 15 + 2.0**-9,
    "q4_0": 1 / 8 + 2.0**-9,
}
# A scale below 2^-14 is a subnormal float16, off by up to 2^-25, and is multiplied by codes up to these.
_LARGEST_CODE = {"f32": 0, "bf16": 0, "q8_0": 127, "q5_1": 32, "q5_0": 16, "q4_1": 16, "q4_0": 8}


@dataclass(frozen=True)
class Score:
    """val_bpb of a model on the first `num_rows` of `num_all` validation rows of a contract."""

    val_bpb: float
    num_rows: int
    num_all: int
    contract: str


@dataclass(frozen=True)
class Rows:
    """Validation rows [n, T+1] to score on, of `num_all` that the contract's slice has."""

    rows: NDArray[np.integer[Any]]
    token_bytes: NDArray[np.int32]
    num_all: int
    contract: str


@dataclass(frozen=True)
class Verification:
    """What was found. `problems` is empty when the file is what it was meant to be.

    largest_error: per type, the largest error over its blocks' largest value. largest_logit_difference: between the file's
    model and the checkpoint's, on one row. score and checkpoint_score are None where there was nothing to score on.
    """

    problems: tuple[str, ...]
    num_tensors: int
    num_bytes: int
    largest_error: dict[str, float]
    text: str
    largest_logit_difference: float | None = None
    score: Score | None = None
    checkpoint_score: Score | None = None
    types: dict[str, int] = field(default_factory=dict)


def verify(
    path: Path, checkpoint: Checkpoint, *, wanted_type: str, rows: Rows | None, device: str = "cpu"
) -> Verification:
    """Read `path` back and compare it with what its checkpoint was to become; then run it.

    Raises:
        DataMissing, DataCorrupt, ArchitectureEdited: the file cannot be read at all.
    """
    import torch

    if path.is_dir():
        kind = hf_folder.class_for(checkpoint)
        _, expected = hf_folder.meant(checkpoint, kind)
        opened = open_checkpoint(path / hf_folder.WEIGHTS_FILE)
        found = {name: tensor.to(torch.float32) for name, tensor in opened.tensors.items()}
        types = {name: "bf16" if t.dtype == torch.bfloat16 else "f32" for name, t in opened.tensors.items()}
        planned = {name: wanted_type if t.dim() == 2 else "f32" for name, t in expected.items()}
        num_bytes = sum(file.stat().st_size for file in path.iterdir())
    else:
        table, fields, arrays = gguf_file.read_raw(path)
        _, expected = gguf.meant(checkpoint, str(fields.get("general.architecture")))
        found = {name: torch.from_numpy(array) for name, array in arrays.items()}
        types = {entry.name: entry.type for entry in table}
        planned = {name: gguf.type_for(name, tuple(t.shape), wanted_type) for name, t in expected.items()}
        num_bytes = path.stat().st_size
    problems, errors = compare(expected, found, types, planned)
    runnable = open_runnable(path)
    if runnable.tokenizer.sha256 != checkpoint.needed_tokenizer.sha256:
        problems.append("the tokenizer is another one")
    model = runnable.model(device)
    text = "".join(sample_text(model, runnable.tokenizer, "", _SAMPLE))
    from autoresearch.quantize.reference import load_reference

    reference = load_reference(checkpoint).to(device)
    return Verification(
        problems=tuple(problems),
        num_tensors=len(found),
        num_bytes=num_bytes,
        largest_error=errors,
        text=text,
        largest_logit_difference=_logit_difference(model, reference, rows, device),
        score=score_of(model, rows, device) if rows else None,
        checkpoint_score=score_of(reference, rows, device) if rows else None,
        types={kind: sum(1 for value in types.values() if value == kind) for kind in sorted(set(types.values()))},
    )


def verify_packed(path: Path, source: Checkpoint, *, rows: Rows | None, device: str = "cpu") -> Verification:
    """Read a GGUF of packed codes back: every decoded weight must be bit for bit that of the quantized model it carries.

    Raises:
        DataMissing, DataCorrupt, ArchitectureEdited: the file cannot be read at all.
    """
    import torch

    from autoresearch.quantize.reference import ReferenceGPT

    found = gguf.open_gguf(path)
    same = {
        name: name in found.tensors and torch.equal(found.tensors[name], source.tensors[name])
        for name in source.tensors
    }
    problems = [f"{name} is not what was packed" for name, is_same in same.items() if not is_same]
    if found.tokenizer.sha256 != source.needed_tokenizer.sha256:
        problems.append("the tokenizer is another one")
    model = ReferenceGPT(found.config).take(found.tensors).eval().to(device)
    reference = ReferenceGPT(source.config).take(source.tensors).eval().to(device)
    return Verification(
        problems=tuple(problems),
        num_tensors=len(found.table),
        num_bytes=path.stat().st_size,
        largest_error={"packed": 0.0 if all(same.values()) else math.inf},
        text="".join(sample_text(model, found.tokenizer, "", _SAMPLE)),
        largest_logit_difference=_logit_difference(model, reference, rows, device),
        score=score_of(model, rows, device) if rows else None,
        checkpoint_score=score_of(reference, rows, device) if rows else None,
        types={"i8": len(found.table)},
    )


def compare(
    meant: Mapping[str, torch.Tensor],
    found: Mapping[str, torch.Tensor],
    types: Mapping[str, str],
    planned: Mapping[str, str],
) -> tuple[list[str], dict[str, float]]:
    """(what is wrong, largest error per type). Tensors are float32 by their names in the file."""
    problems = [f"{name} is missing" for name in meant if name not in found]
    problems += [f"{name[:80]} was not meant to be there" for name in found if name not in meant]
    errors: dict[str, float] = {}
    for name in meant:
        if name not in found:
            continue
        if tuple(found[name].shape) != tuple(meant[name].shape):
            problems.append(f"{name} has shape {list(found[name].shape)}, {list(meant[name].shape)} was meant")
            continue
        if types[name] != planned[name]:
            problems.append(f"{name} is {types[name]}, {planned[name]} was meant")
            continue
        error = relative_error(meant[name], found[name], types[name])
        errors[types[name]] = max(errors.get(types[name], 0.0), error)
        if not error <= ROUNDING[types[name]]:
            problems.append(
                f"{name} is off by {error:.3g} of its largest values, {types[name]} rounds by {ROUNDING[types[name]]:.3g}"
            )
    return problems, errors


def relative_error(meant: torch.Tensor, found: torch.Tensor, kind: str) -> float:
    """The largest difference in parts of the largest value of its block; in bf16 and f32 of the value itself.

    What a subnormal scale explains is not counted. NaN counts as infinitely wrong. A block of zeros must come back as zeros.
    """
    import torch

    size = 1 if kind in ("f32", "bf16") else 32
    blocks, back = meant.double().reshape(-1, size), found.double().reshape(-1, size)
    difference = (blocks - back).abs().amax(-1)
    largest = blocks.abs().amax(-1)
    difference = torch.where(largest > 0, (difference - _LARGEST_CODE[kind] * 2.0**-25).clamp_min(0), difference)
    parts = torch.where(difference == 0, 0.0, difference / largest)  # 0/0 is no error; d/0 is infinite
    return math.inf if bool(parts.isnan().any()) else float(parts.max())


def score_of(model: ReferenceGPT, rows: Rows, device: str = "cpu") -> Score:
    """val_bpb of a model on rows, computed as the contract does: float32 nats per token, summed exactly."""
    import torch

    length = rows.rows.shape[1] - 1
    batch = max(1, _LOGIT_BYTES // (4 * length * model.config.vocab_size))
    bearing = byte_bearing(rows.rows, rows.token_bytes)
    nats = []
    for start in range(0, len(rows.rows), batch):
        part = slice(start, start + batch)
        tokens = torch.from_numpy(rows.rows[part].astype(np.int64)).to(device)
        with torch.no_grad():
            logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        nats.append(row_nats(loss.view(len(tokens), length).cpu().numpy(), bearing[part]))
    total = total_nats(np.concatenate(nats))
    return Score(
        bits_per_byte(total, target_bytes(rows.rows, rows.token_bytes)), len(rows.rows), rows.num_all, rows.contract
    )


def _logit_difference(model: ReferenceGPT, reference: ReferenceGPT, rows: Rows | None, device: str) -> float:
    import torch

    config = reference.config
    if rows:
        ids = torch.from_numpy(rows.rows[:1, :-1].astype(np.int64))
    else:
        ids = torch.arange(min(config.sequence_len, 256))[None] % config.vocab_size
    with torch.no_grad():
        return float((model(ids.to(device)) - reference(ids.to(device))).abs().max())
