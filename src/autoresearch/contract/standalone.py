"""`python train.py` by hand: the same names and the same rules in one process, with no isolation.

For people. A score from here was measured by the process that trained, so no record is made of it.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.backends.hardware import default_preset, detect, device_kind, hide_accelerators_environment
from autoresearch.contract.budget import Budget, own_cpu_seconds
from autoresearch.contract.channel import Batch, surface_names
from autoresearch.contract.corpora import cache_root
from autoresearch.contract.examination import Ask, examine, tolerance_for
from autoresearch.contract.feeder import DocumentStream
from autoresearch.contract.packing import pack_batches
from autoresearch.contract.prepared import Prepared, open_prepared
from autoresearch.contract.rules import Clock, Rules, rules_for
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.vocabulary import AutoresearchError, Slice, UsageError

DEFAULT_SEED = 42  # the field's


class LocalLink:
    """Referee and candidate in one process: budget, batches and examination behind plain calls."""

    def __init__(self, rules: Rules, prepared: Prepared, seed: int, kind: str) -> None:
        self._rules = rules
        self._prepared = prepared
        self._kind = kind
        self._budget = Budget(rules, own_cpu_seconds)
        self._documents = DocumentStream(prepared.documents(seed))
        self._batches: Iterator[NDArray[np.unsignedinteger]] = iter(())

    def open_stream(self, batch_size: int, seq_len: int) -> None:
        bos = self._prepared.tokenizer.get_bos_token_id()
        self._batches = pack_batches(iter(self._documents), batch_size, seq_len + 1, bos)

    def next_batch(self) -> Batch | None:
        if not self._budget.another_batch():
            return None
        rows = next(self._batches)
        return Batch(rows, self._documents.epoch, self._budget.progress(), self._budget.used())

    def examine(self, weights: bytes, batch_size: int, answer: Callable[[Ask], NDArray[np.float32]]) -> float:
        examination = examine(
            self._prepared.rows(Slice.SEARCH),
            self._prepared.tokenizer.token_bytes,
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


def standalone_names(start: Path | None = None, *, dataset: str | None = None) -> dict[str, Any]:
    """What `from prepare import ...` gives a script that a person runs: constants now, data when first asked for.

    dataset: the workspace's own choice of text; AUTORESEARCH_DATASET wins over it, the contract's stands in for None.
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
    }
    opened: dict[str, dict[str, Any]] = {}

    def names() -> dict[str, Any]:
        if not opened:
            corpus = os.environ.get("AUTORESEARCH_DATASET") or dataset or rules.dataset
            prepared = open_prepared(rules, corpus, cache_root())
            kind = device_kind(detect(allow_accelerator=rules.clock is Clock.WALL))
            link = LocalLink(rules, prepared, seed, kind)
            opened["names"] = surface_names(link, prepared.tokenizer, constants)
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
