"""Documents out of files of any kind we read: parquet, JSON lines (plain, gzip, zstd) and plain text, streaming."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from autoresearch.vocabulary import DataCorrupt, UsageError

SEPARATOR = "<|endoftext|>"  # between documents of a text file, as GPT-2's tools wrote them
# Without separators a text file is cut at empty lines into documents of about this size: long enough for a row of 1,024
# tokens, short enough to shuffle and to hold some out. Ten times as much without an empty line is cut at a line's end.
TEXT_CHARACTERS = 4_000
_PEEK_CHARACTERS = 1 << 20  # how far a separator is looked for before a text file counts as having none
_ROWS_AT_A_TIME = 1024
_BUFFER = 1 << 20
_ARTICLE = re.compile(r"\s*= [^=].*[^=] =\s*")  # a first-level heading of WikiText; deeper ones have "= = "


def read_any(path: Path, column: str | None, *, name: str | None = None, keep_empty: bool = False) -> Iterator[str]:
    """Every document of a file, in order; rows without text are passed over, those of "" kept with `keep_empty`.

    column: of text; None: `text`, else the only one that holds strings. name: what to call the file in errors, where the
    path is not the user's; its suffix says what kind of file it is.

    Raises, when the place is reached:
        DataCorrupt: truncated, not what its name says, not UTF-8, or a line that is no JSON object.
        UsageError: no such column, or several that it could be.
    """
    called = name or str(path)
    if called.endswith(".parquet"):
        return _read_parquet(path, column, called, keep_empty)
    if called.endswith((".txt", ".txt.gz", ".txt.zst")):
        return _read_text(path, called)
    return _read_json_lines(path, column, called)


def is_shard(path: Path, column: str | None) -> bool:
    """Whether a parquet file can be a shard as it is: its text is in a string column named `text`.

    Raises:
        DataCorrupt, UsageError: as `read_any`.
    """
    import pyarrow as pa

    with _parquet(path, str(path)) as file:
        schema = file.schema_arrow
        chosen = _text_column(schema, column, str(path))
        kind = schema.field(chosen).type
    return bool(chosen == "text" and (pa.types.is_string(kind) or pa.types.is_large_string(kind)))


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Whole articles out of WikiText's lines: each begins at a first-level heading `= Title =` after an empty line."""
    article: list[str] = []
    after_empty = True
    for line in lines:
        if after_empty and _ARTICLE.fullmatch(line) and any(part.strip() for part in article):
            yield "".join(article)
            article = []
        after_empty = not line.strip()
        article.append(line if line.endswith("\n") else line + "\n")
    if any(part.strip() for part in article):
        yield "".join(article)


def _parquet(path: Path, called: str):  # type: ignore[no-untyped-def]
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _corrupt(called, f"not a whole parquet file ({_first_line(error)})") from error


def _read_parquet(path: Path, column: str | None, called: str, keep_empty: bool) -> Iterator[str]:
    import pyarrow as pa

    with _parquet(path, called) as file:
        chosen = _text_column(file.schema_arrow, column, called)
        try:
            for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=[chosen]):
                yield from (text for text in batch.column(0).to_pylist() if text or (keep_empty and text == ""))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _corrupt(called, f"cannot be read ({_first_line(error)})") from error


def _text_column(schema, column: str | None, called: str) -> str:  # type: ignore[no-untyped-def]
    import pyarrow as pa

    def holds_text(kind) -> bool:  # type: ignore[no-untyped-def]
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        return bool(pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value))

    texts = [field.name for field in schema if holds_text(field.type)]
    return _one_column(texts, column, called, f"only {', '.join(schema.names) or 'none at all'}")


def _one_column(texts: list[str], column: str | None, called: str, others: str) -> str:
    """The column that is meant. Raises UsageError when there is none or no telling."""
    if column is not None:
        if column in texts:
            return column
        raise UsageError(
            f"{called}: no column {column!r} of text; of text are {', '.join(texts) or 'none'}", hint=_name_it(texts)
        )
    if "text" in texts:
        return "text"
    if len(texts) == 1:
        return texts[0]
    problem = f"the text may be in {', '.join(texts)}" if texts else f"no column of text, {others}"
    raise UsageError(f"{called}: {problem}", hint=_name_it(texts))


def _name_it(texts: list[str]) -> str:
    return f"name the column after a #: autoresearch prepare --dataset 'DATASET#{texts[0] if texts else 'text'}'"


def _read_json_lines(path: Path, column: str | None, called: str) -> Iterator[str]:
    for number, line in enumerate(_lines(path, called), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _corrupt(called, f"line {number} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise _corrupt(called, f"line {number} is not a JSON object; one object a line is wanted")
        if column is None or number == 1:
            texts = [str(key) for key, value in row.items() if isinstance(value, str)]
            column = _one_column(texts, column, f"{called}: line {number}", f"only {', '.join(row) or 'none at all'}")
        text = row.get(column)
        if text is not None and not isinstance(text, str):
            raise _corrupt(called, f"line {number}: {column} holds no string")
        if text:
            yield _well_formed(text, called, number)


def _well_formed(text: str, called: str, number: int) -> str:
    """JSON can spell half of a surrogate pair, which no file of text can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _corrupt(called, f"line {number} holds half of a surrogate pair at character {error.start}") from error
    return text


def _read_text(path: Path, called: str) -> Iterator[str]:
    lines = _lines(path, called)
    first: list[str] = []
    size = 0
    for line in lines:
        first.append(line)
        size += len(line)
        if SEPARATOR in line or size > _PEEK_CHARACTERS:
            break
    separated = bool(first) and SEPARATOR in first[-1]
    every = _chain(first, lines)
    yield from _cut_at_separators(every) if separated else _cut_at_empty_lines(every)


def _chain(first: list[str], rest: Iterator[str]) -> Iterator[str]:
    yield from first
    yield from rest


def _cut_at_separators(lines: Iterator[str]) -> Iterator[str]:
    document: list[str] = []
    for line in lines:
        *ended, rest = line.split(SEPARATOR)
        for piece in ended:
            text = "".join((*document, piece)).strip("\n")
            document = []
            if text.strip():
                yield text
        document.append(rest)
    if text := "".join(document).strip("\n"):
        yield text


def _cut_at_empty_lines(lines: Iterator[str]) -> Iterator[str]:
    document: list[str] = []
    size = 0
    for line in lines:
        document.append(line)
        size += len(line)
        if (size >= TEXT_CHARACTERS and not line.strip()) or size >= 10 * TEXT_CHARACTERS:
            if text := "".join(document).strip("\n"):
                yield text
            document, size = [], 0
    if (text := "".join(document).strip("\n")).strip():
        yield text


def _lines(path: Path, called: str) -> Iterator[str]:
    """Lines of a file that may be compressed, as its name says; a byte order mark is dropped."""
    import pyarrow as pa

    kind: Any = "gzip" if called.endswith(".gz") else "zstd" if called.endswith(".zst") else None  # None: as it is
    try:
        raw: Any = pa.input_stream(str(path), compression=kind, buffer_size=_BUFFER)
        with raw:
            yield from io.TextIOWrapper(io.BufferedReader(raw, _BUFFER), encoding="utf-8-sig", newline="\n")
    except UnicodeDecodeError as error:
        raise _corrupt(called, f"not UTF-8 ({error.reason})") from error
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(called, f"cannot be read ({_first_line(error)})") from error


def _corrupt(called: str, what: str) -> DataCorrupt:
    return DataCorrupt(f"{called}: {what}", hint=f"look at it, or put a whole copy there: ls -l {shlex.quote(called)}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
