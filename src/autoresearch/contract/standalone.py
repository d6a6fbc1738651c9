"""`python train.py` by hand: the same names and the same rules in one process, with no isolation.

For people. A score from here was measured by the process that trained, so no record is made of it.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autoresearch.backends.hardware import (
    MLX_FILE,
    default_preset,
    detect,
    device_kind,
    hide_accelerators_environment,
)
from autoresearch.contract import saving
from autoresearch.contract.budget import Budget, own_cpu_seconds
from autoresearch.contract.channel import Batch, surface_names
from autoresearch.contract.corpora import cache_root
from autoresearch.contract.examination import Ask, examine, tolerance_for
from autoresearch.contract.feeder import BatchSource, PlainText
from autoresearch.contract.prepared import open_prepared
from autoresearch.contract.rules import Clock, Rules, rules_for
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.vocabulary import AutoresearchError, Slice, UsageError

DEFAULT_SEED = 42  # the field's


class Scored(Protocol):
    """The text that a script is about: prepared data, or a recipe's."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What turned it into ids."""

    def rows(self, part: Slice, /) -> NDArray[np.unsignedinteger[Any]]:
        """Validation rows [n, T+1] of one slice."""


@dataclass(frozen=True)
class FedText:
    """Text that someone else makes batches of."""

    text: Scored
    source: BatchSource


# Rules, names of datasets and seed to the text of a workspace's own recipe; None for the contract's.
Fed = Callable[[Rules, list[str], int], FedText | None]


class LocalLink:
    """Referee and candidate in one process: budget, batches and examination behind plain calls."""

    def __init__(
        self, rules: Rules, text: Scored, kind: str, source: BatchSource, saved: Callable[[bytes, float | None], None]
    ) -> None:
        """`saved` is called with the weights and their val_bpb, None when the examination refused them."""
        self._rules = rules
        self._saved = saved
        self._text = text
        self._kind = kind
        self._budget = Budget(rules, own_cpu_seconds)
        self._source = source

    def open_stream(self, batch_size: int, seq_len: int) -> None:
        self._source.open(batch_size, seq_len)

    def next_batch(self) -> Batch | None:
        if not self._budget.another_batch():
            return None
        progress = self._budget.progress()
        rows, epoch = self._source.rows(progress)
        return Batch(rows, epoch, progress, self._budget.used())

    def examine(self, weights: bytes, batch_size: int, answer: Callable[[Ask], NDArray[np.float32]]) -> float:
        examination = examine(
            self._text.rows(Slice.SEARCH),
            self._text.tokenizer.token_bytes,
            self._rules,
            batch_size=batch_size,
            tolerance=tolerance_for(self._kind),
            random=np.random.default_rng(),
            weights_sha256=hashlib.sha256(weights).digest(),
        )
        ask = next(examination)
        while True:
            try:
                ask = examination.send(answer(ask))
            except StopIteration as finished:
                result = finished.value
                break
        reason = f"val_bpb {result.val_bpb:.4f} is not plausible" if result.is_implausible else result.reason
        self._saved(weights, None if reason else float(result.val_bpb))
        if reason:
            raise AutoresearchError(f"rejected: {reason}", hint="autoresearch train   (after mending the model)")
        return float(result.val_bpb)


def preset_in_force(start: Path) -> str:
    """AUTORESEARCH_CONTRACT, else `contract` in the workspace's [tool.autoresearch], else what fits this machine."""
    named = os.environ.get("AUTORESEARCH_CONTRACT")
    if named:
        return named
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            try:
                table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("autoresearch", {})
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise UsageError(f"{path} cannot be read: {error}", hint=f"git checkout -- {path.name}") from error
            if "contract" in table:
                return str(table["contract"])
            break
    return default_preset(detect())


def _seed(text: str) -> int:
    """A seed from the environment: what numpy's generators take, an integer from 0."""
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"AUTORESEARCH_SEED={text!r} is not a seed", hint=f"export AUTORESEARCH_SEED={DEFAULT_SEED}")
    return int(text)


def num_shards() -> int | None:
    """Training shards from the environment, as many as were prepared last where it says nothing."""
    text = os.environ.get("AUTORESEARCH_NUM_SHARDS", "")
    if not text:
        return None
    if not re.fullmatch(r"-1|[1-9][0-9]*", text):
        raise UsageError(
            f"AUTORESEARCH_NUM_SHARDS={text!r} is no number of shards", hint="export AUTORESEARCH_NUM_SHARDS=10"
        )
    return int(text)


def max_device_batch_size() -> int:
    """Most rows of a forward pass, from the environment; 0, no limit, where it says nothing."""
    text = os.environ.get("AUTORESEARCH_MAX_DEVICE_BATCH_SIZE", "")
    if text and not re.fullmatch(r"[1-9][0-9]*", text):
        raise UsageError(
            f"AUTORESEARCH_MAX_DEVICE_BATCH_SIZE={text!r} is no number of rows",
            hint="export AUTORESEARCH_MAX_DEVICE_BATCH_SIZE=8",
        )
    return int(text or 0)


def _plain(rules: Rules, dataset: str, seed: int) -> FedText:
    """All training text in the order of the seed."""
    prepared = open_prepared(rules, dataset, cache_root(), num_shards=num_shards())
    return FedText(prepared, PlainText(prepared.shards, seed, prepared.tokenizer.get_bos_token_id()))


def dataset_names(rules: Rules, dataset: str | None) -> list[str]:
    """Datasets in force, the contract's first one first: AUTORESEARCH_DATASET, else the workspace's, else the contract's."""
    chosen = os.environ.get("AUTORESEARCH_DATASET") or dataset or rules.dataset
    return [name.strip() for name in chosen.split(",")]


def standalone_names(
    start: Path | None = None, *, dataset: str | None = None, fed: Fed = lambda _rules, _names, _seed: None
) -> dict[str, Any]:
    """What `from prepare import ...` gives a script that a person runs: constants now, data when first asked for.

    dataset: the workspace's own choice of text. fed: its own recipe, where it has one.
    """
    rules = rules_for(preset_in_force(start or Path.cwd()))
    if rules.clock is not Clock.WALL:
        os.environ.update(hide_accelerators_environment())
    seed = _seed(os.environ.get("AUTORESEARCH_SEED", str(DEFAULT_SEED)))
    constants = {
        "MAX_SEQ_LEN": rules.max_seq_len,
        "TIME_BUDGET": rules.time_budget,
        "SEED": seed,
        "PRESET": rules.preset,
        "MAX_DEVICE_BATCH_SIZE": max_device_batch_size(),
    }
    opened: dict[str, dict[str, Any]] = {}
    wanted = os.environ.get(saving.VARIABLE, "")
    folder = saving.CheckpointFolder(Path(wanted)) if wanted else None

    def names() -> dict[str, Any]:
        if not opened:
            corpora = dataset_names(rules, dataset)
            found = fed(rules, corpora, seed) or _plain(rules, corpora[0], seed)
            # of the library that the script has imported: it decides the examination's tolerance
            file = MLX_FILE if "mlx.core" in sys.modules and "torch" not in sys.modules else None
            kind = device_kind(detect(allow_accelerator=rules.clock is Clock.WALL, file=file))

            def saved(weights: bytes, val_bpb: float | None) -> None:
                if folder:
                    facts = {"preset": rules.preset, "dataset": corpora, "seed": seed, "val_bpb": val_bpb}
                    folder.save(weights, found.text.tokenizer, facts)

            link = LocalLink(rules, found.text, kind, found.source, saved)
            opened["names"] = surface_names(link, found.text.tokenizer, constants)
        return opened["names"]

    class TokenizerOnDemand:
        """Opens the prepared data when the script asks for its tokenizer."""

        @staticmethod
        def from_directory(directory: object = None) -> Tokenizer:
            """The tokenizer of the contract in force. Raises DataMissing when nothing is prepared."""
            tokenizer: Tokenizer = names()["Tokenizer"].from_directory(directory)
            return tokenizer

    def make_dataloader(tokenizer: Tokenizer, B: int, T: int, split: str = "train") -> Any:  # noqa: N803
        """Batches of B rows of T tokens of training text, until the budget is spent."""
        return names()["make_dataloader"](tokenizer, B, T, split)

    def evaluate_bpb(model: Any, tokenizer: Tokenizer, batch_size: int) -> float:
        """val_bpb of the model on the search slice."""
        return float(names()["evaluate_bpb"](model, tokenizer, batch_size))

    return {
        **constants,
        "Tokenizer": TokenizerOnDemand,
        "make_dataloader": make_dataloader,
        "evaluate_bpb": evaluate_bpb,
    }
