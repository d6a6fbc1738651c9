"""What the tests of recipes share: a text in memory, shards on disk, and folders with a surface of their own."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from autoresearch.recipes.artefact import ArtefactWriter
from autoresearch.recipes.text import TrainingText

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "the",
    "old",
    "house",
    "stood",
    "by",
    "a",
    "river",
    "and",
    "nobody",
    "in",
    "town",
    "knew",
    "who",
    "built",
    "it",
]


def sentence(number: int, length: int = 12) -> str:
    """A document of words that differs from every other of another number."""
    return f"{' '.join(random.Random(number).choices(WORDS, k=length))} {number}"


class Memory:
    """A training text held in memory."""

    def __init__(self, **datasets: list[str]) -> None:
        self.datasets = datasets
        self.names = tuple(datasets)

    def documents(self, name):
        return iter(self.datasets[name])


def write_shard(path: Path, documents: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": documents}), path)
    return path


def text_on_disk(folder: Path, vocab_size: int = 300, **datasets: list[str]) -> TrainingText:
    shards = {name: [write_shard(folder / f"{name}.parquet", documents)] for name, documents in datasets.items()}
    return TrainingText(shards, vocab_size=vocab_size, row_len=33, seed=0)


def surface_in(folder: Path, **changes: str) -> Path:
    """The committed surface, with assignments (NAME="value") replaced and anything in `more` appended."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "prepare.py", folder / "prepare.py")
    source = (ROOT / "data_sources.py").read_text(encoding="utf-8")
    more = changes.pop("more", "")
    for name, value in changes.items():
        lines = source.splitlines()
        (place,) = [number for number, line in enumerate(lines) if line.startswith(f"{name} = ")]
        lines[place] = f"{name} = {value}"
        source = "\n".join(lines)
    (folder / "data_sources.py").write_text(f"{source}\n{more}\n", encoding="utf-8")
    return folder


def write_artefact(folder: Path, tokenizer, **groups: list[str]) -> Path:
    """An artefact with these groups ("a/0" is written a_0)."""
    folder.mkdir()
    writer = ArtefactWriter(folder, lambda _: None)
    writer.write_tokenizer(tokenizer)
    for name, documents in groups.items():
        writer.write_group(name.replace("_", "/"), documents)
    writer.finish()
    return folder
