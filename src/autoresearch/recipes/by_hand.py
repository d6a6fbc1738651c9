"""A workspace's own recipe for a person: `python prepare.py` prepares it, `python train.py` trains on it, unsealed.

The shipped recipe leaves the contract's own preparation in force, and nothing here is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.corpora import Corpus, cache_root, open_corpus
from autoresearch.contract.prepared import Prepared, open_prepared
from autoresearch.contract.rules import Rules, rules_for
from autoresearch.contract.scored_text import documents_scored, rows_of
from autoresearch.contract.standalone import FedText, dataset_names, num_shards, preset_in_force, standalone_names
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.recipes.artefact import Artefact
from autoresearch.recipes.feeding import rows_in
from autoresearch.recipes.key import key_of
from autoresearch.recipes.plain import RECIPE_FILES, is_plain
from autoresearch.recipes.preparing import build_in
from autoresearch.recipes.reading import ArtefactRefused, open_artefact
from autoresearch.recipes.text import source_names
from autoresearch.vocabulary import Slice

Say = Callable[[str], object]


class _ScoredByDocuments:
    """The validation text under a recipe's tokenizer."""

    def __init__(self, tokenizer: Tokenizer, corpus: Corpus, prepared: Prepared, rules: Rules) -> None:
        self.tokenizer = tokenizer
        self._corpus, self._prepared, self._rules = corpus, prepared, rules

    def rows(self, part: Slice) -> NDArray[np.unsignedinteger[Any]]:
        """Rows [n, T+1] of one slice."""
        documents = self._corpus.validation_documents(part)
        return rows_of(documents_scored(documents, self._prepared.tokenizer, self._rules), self.tokenizer, self._rules)


def names_by_hand(surface: Path, *, dataset: str | None = None) -> dict[str, Any]:
    """The names that `from prepare import ...` gives, on the text of the recipe in `surface`.

    Raises:
        UsageError: an unknown contract, or a setting in the environment that is none.
    """

    def fed(rules: Rules, names: list[str], seed: int) -> FedText | None:
        found = _opened(surface, rules, names, print)
        if found is None:
            return None
        folder, artefact, corpus, prepared = found
        text = _ScoredByDocuments(artefact.tokenizer, corpus, prepared, rules)
        return FedText(text, rows_in(folder, surface, seed))

    return standalone_names(dataset=dataset, fed=fed)


def prepare_by_hand(surface: Path, *, dataset: str | None = None, say: Say = print) -> None:
    """Prepare the recipe in `surface`, if it is not the shipped one; what was prepared before is used.

    Raises:
        DataMissing, DataCorrupt: the contract's own data is not prepared, or damaged. WorkspaceError, ArtefactRefused: no
        recipe, or one that leaves no artefact. Whatever the recipe raises flies through.
    """
    rules = rules_for(preset_in_force(Path.cwd()))
    _opened(surface, rules, dataset_names(rules, dataset), say)


def _opened(surface: Path, rules: Rules, names: list[str], say: Say) -> tuple[Path, Artefact, Corpus, Prepared] | None:
    """The folder of the prepared recipe, made now if it has to be; None for the shipped recipe."""
    files = {name: (surface / name).read_text(encoding="utf-8") for name in RECIPE_FILES if (surface / name).is_file()}
    if is_plain(files):
        return None
    corpora = [open_corpus(name, cache_root(), num_shards=num_shards()) for name in names]
    prepared = open_prepared(rules, names[0], cache_root(), num_shards=num_shards())
    called = source_names([corpus.name for corpus in corpora])
    text = {name: corpus.train_sha256() for name, corpus in zip(called, corpora, strict=True)}
    folder = cache_root() / "recipes-by-hand" / key_of(files, text, prepared.hashes["validation"], rules)
    try:
        return folder, open_artefact(folder), corpora[0], prepared
    except ArtefactRefused:
        say(f"preparing the recipe of {os.path.relpath(surface)}")
    shards = {name: corpus.train_shards for name, corpus in zip(called, corpora, strict=True)}
    artefact = build_in(
        folder, surface, shards, vocab_size=rules.vocab_size, row_len=rules.max_seq_len + 1, seed=0, say=say
    )
    return folder, artefact, corpora[0], prepared
