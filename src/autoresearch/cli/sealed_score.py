"""Quantized weights scored by the experiment file that trained them, each time in a fresh sealed process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoresearch.backends.hardware import detect, device_kind
from autoresearch.contract.examination import NOT_FINITE
from autoresearch.contract.rules import Clock
from autoresearch.loop.opening import warm_cache_dir
from autoresearch.loop.orders import Arena
from autoresearch.loop.scoring import sealed_scorer
from autoresearch.loop.settings import load_settings
from autoresearch.quantize.ground import Ground
from autoresearch.quantize.scoring import RowBits, Score
from autoresearch.sandbox.layers import probe
from autoresearch.vocabulary import DataMissing, Outcome, UnfitWeights
from autoresearch.workspace import Workspace

if TYPE_CHECKING:
    import torch

_USUAL_BATCH = 8  # rows of a forward pass where no record says what the file asked for
_MAX_METRICS_BYTES = 16 * 2**20


def sealed_score(ground: Ground, workspace: Workspace) -> Score:
    """A Score of a checkpoint on its contract, by the experiment file beside it.

    Weights are given to it in the types that it handed over. Weights whose scores are no finite numbers have bits of NaN.

    Raises:
        DataMissing: no experiment file lies beside the checkpoint. (The Score) UnfitWeights: the file does not score them.
    """
    file = ground.experiment_file
    if file is None:
        raise DataMissing(
            f"no experiment file lies beside {ground.path}",
            hint="autoresearch quantize logs/TAG/N   (a snapshot folder)",
        )
    settings = load_settings(workspace.settings(), {}, {})
    on_wall = ground.rules.clock is Clock.WALL
    kind = device_kind(detect(allow_accelerator=on_wall, file=file.name))
    arena = Arena(
        ground.rules,
        ground.text,
        kind,
        accelerators=on_wall,
        threads=settings.threads or 1,
        seal=probe(settings.sandbox),
        warm_cache=warm_cache_dir(kind),
    )
    files = {file.name: file.read_text(encoding="utf-8")}
    scorer = sealed_scorer(arena, files, file.name, batch_size=exam_batch_size(ground.path.parent))
    types = {name: tensor.dtype for name, tensor in ground.checkpoint.tensors.items()}

    def score(tensors: Mapping[str, torch.Tensor]) -> RowBits:
        from safetensors.torch import save

        packed = {name: tensor.detach().to("cpu", types[name]).contiguous().clone() for name, tensor in tensors.items()}
        found = scorer(bytes(save(packed)))
        if found.row_bits is not None and found.row_bytes is not None:
            return RowBits(found.row_bits, found.row_bytes)
        if found.outcome is Outcome.REJECTED and found.reason.endswith(NOT_FINITE):
            count = len(ground.rows)
            return RowBits(np.full(count, np.nan), np.ones(count, dtype=np.int64))
        raise UnfitWeights(
            f"{file.name} does not score these weights ({found.outcome}: {found.reason})\n{found.log[-2000:]}".rstrip(),
            hint="autoresearch quantize CHECKPOINT --scorer reference   (where the model is the shipped one)",
        )

    return score


def exam_batch_size(folder: Path) -> int:
    """Rows of a forward pass as the file asked for in its trial, from the metrics.json of a snapshot or an experiment."""
    path = folder / "metrics.json"
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= _MAX_METRICS_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return _USUAL_BATCH
    trials = [found.get("trial"), *(_trials(found.get("trials")))] if isinstance(found, dict) else []
    sizes = [trial.get("exam_batch_size") for trial in trials if isinstance(trial, dict)]
    return next((size for size in sizes if isinstance(size, int) and 0 < size <= 2**16), _USUAL_BATCH)


def _trials(rows: Any) -> list[Any]:
    return [row.get("trial") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
