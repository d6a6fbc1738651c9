"""What a recipe may read: the training text of the session's datasets, and the numbers of the contract that concern it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from autoresearch.contract.corpora import read_documents
from autoresearch.contract.dataset_names import FilesName, HubName, KnownName, parse_dataset
from autoresearch.vocabulary import UsageError


class TrainingText:
    """Training documents by dataset. Whoever makes one gives it training shards only; it finds nothing by itself.

    names: the datasets, the session's first one first. vocab_size: ids of the contract's tokenizer, specials included.
    row_len: tokens in a row, the contract's T + 1. seed: the same for every trial of the session, for recipes that
    sample while they prepare.
    """

    def __init__(self, shards: Mapping[str, Sequence[Path]], *, vocab_size: int, row_len: int, seed: int) -> None:
        self.names = tuple(shards)
        self.vocab_size = vocab_size
        self.row_len = row_len
        self.seed = seed
        self._shards = {name: tuple(paths) for name, paths in shards.items()}

    def documents(self, name: str) -> Iterator[str]:
        """Every training document of a dataset once, in the order of its shards; one row group in memory at a time.

        Raises:
            UsageError: the session has no such dataset; the message names those it has.
            DataCorrupt, DataMissing: as `contract.corpora.read_documents`.
        """
        if name not in self._shards:
            raise UsageError(
                f"this session has no dataset {name!r}; it has {', '.join(self.names)}",
                hint="name one of these in data_sources.py, or begin the session with --dataset",
            )
        return (text for path in self._shards[name] for text in read_documents(path))


def source_names(datasets: Sequence[str]) -> list[str]:
    """What a recipe calls these datasets, in the same order: known names as they are, else the last part of the name.

    `hf:owner/name` is `name`, a file is what it is called without its suffix. A second one of a name gets a number.
    """
    found: list[str] = []
    for dataset in datasets:
        match parse_dataset(dataset):
            case HubName(repository=repository):
                words = repository.rpartition("/")[2]
            case FilesName(path=path):
                words = path.name.partition(".")[0]
            case KnownName(name=name):
                words = name
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", words).strip("-") or "text"
        same = sum(
            name == plain or (name.startswith(f"{plain}-") and name[len(plain) + 1 :].isdigit()) for name in found
        )
        found.append(f"{plain}-{same + 1}" if same else plain)
    return found
