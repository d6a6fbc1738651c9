"""Datasets made of a few words, and an ear for what is told."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

_draw = random.Random(0)
WORDS = ["".join(_draw.choices("aeioubcdlmnprst", k=_draw.randint(2, 7))) for _ in range(2000)]


def stories(seed: str, count: int, words: int = 40) -> list[str]:
    """Documents that no two seeds share."""
    draw = random.Random(seed)
    return [f"{seed} {at} " + " ".join(draw.choices(WORDS, k=words)) for at in range(count)]


def parquet(texts: list[str | None], *, column: str = "text", **more: list[object]) -> bytes:
    """A parquet file's bytes."""
    stream = io.BytesIO()
    pq.write_table(pa.table({column: texts, **more}), stream, row_group_size=16)
    return stream.getvalue()


class Heard:
    """What was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bytes: dict[str, int] = {}
        self.on_advance: Callable[[str], object] = lambda name: None

    def say(self, text: str) -> None:
        self.lines.append(text)

    def begin(self, name: str, total_bytes: int, already: int) -> None:
        self.bytes[name] = already

    def advance(self, name: str, num_bytes: int) -> None:
        self.bytes[name] += num_bytes
        self.on_advance(name)

    def end(self, name: str) -> None:
        pass
