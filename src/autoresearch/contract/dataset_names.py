"""What `--dataset` may say, and which folder of the cache belongs to it.

    embedded, climbmix, tinystories, fineweb-edu, wikitext         known by name
    hf:owner/name[:config[:split]][@revision][#column]             any dataset of the Hugging Face Hub with a column of text
    /folder or /folder/file.{parquet,jsonl,jsonl.gz,jsonl.zst,txt}[#column]    the user's own files

Two datasets never share a folder: a known name has its own, one of the Hub has one for everything its name says, and
files have one for their content. Which content a path had when it was prepared is kept in `<cache>/files/<key>.json`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch.vocabulary import DataCorrupt, DataMissing, UsageError

EMBEDDED = "embedded"
# sources.registry says where each comes from.
KNOWN = (EMBEDDED, "climbmix", "tinystories", "fineweb-edu", "wikitext")
HUB_PREFIX = "hf:"
FILE_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt")
FILES_FORMAT = "autoresearch-files"
FILES_VERSION = 1

# The Hub's own rules for names are narrower; these keep a name from being a path or an option.
_HUB_NAME = re.compile(
    r"hf:(?P<repository>[\w][\w.-]*(?:/[\w][\w.-]*)?)(?::(?P<config>[\w.+-]+)(?::(?P<split>[\w.+-]+))?)?"
    r"(?:@(?P<revision>[\w][\w./-]*))?(?:#(?P<column>.+))?",
    re.ASCII,
)
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_IN_FOLDERS = re.compile(r"[^A-Za-z0-9._-]+")
_EXAMPLES = "autoresearch prepare --dataset hf:owner/name   (or a file or folder of your own: --dataset ./my-text)"


@dataclass(frozen=True)
class KnownName:
    """A dataset of the registry."""

    name: str


@dataclass(frozen=True)
class HubName:
    """A dataset of the Hugging Face Hub; None leaves the choice to what is found there."""

    repository: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    column: str | None = None


@dataclass(frozen=True)
class FilesName:
    """A file or folder of the user, as an absolute path; None as column: found."""

    path: Path
    column: str | None = None


DatasetName = KnownName | HubName | FilesName


def parse_dataset(text: str) -> DatasetName:
    """What a `--dataset` names. Looks at nothing but, for a bare word, whether a file of that name is here.

    Raises:
        UsageError: nothing that a dataset can be called; the message names the known ones.
    """
    if text in KNOWN:
        return KnownName(text)
    if text.startswith(HUB_PREFIX):
        found = _HUB_NAME.fullmatch(text)
        if not found or ".." in text:
            raise UsageError(
                f"{text!r} is not hf:owner/name[:config[:split]][@revision][#column]",
                hint="autoresearch prepare --dataset hf:owner/name",
            )
        return HubName(**found.groupdict())
    if not _is_path(text):
        raise UsageError(
            f"unknown dataset {text!r}; known: {', '.join(KNOWN)}, hf:owner/name, or a file or folder", hint=_EXAMPLES
        )
    path, mark, column = text.rpartition("#")
    if not mark or Path(text).expanduser().exists():
        path, column = text, ""
    return FilesName(Path(path).expanduser().absolute(), column or None)


def canonical(name: DatasetName) -> str:
    """The one spelling of a dataset: what records and commands hold."""
    match name:
        case KnownName():
            return name.name
        case HubName():
            config = f":{name.config}" if name.config else ""
            split = f":{name.split}" if name.split else ""
            revision = f"@{name.revision}" if name.revision else ""
            return f"{HUB_PREFIX}{name.repository}{config}{split}{revision}" + (
                f"#{name.column}" if name.column else ""
            )
        case FilesName():
            return str(name.path) + (f"#{name.column}" if name.column else "")


def dataset_dir(dataset: str, root: Path) -> Path:
    """The folder of the cache `root` that belongs to a dataset. Makes nothing.

    A plain word is a folder of that name, known or not: tests bring corpora of their own.

    Raises:
        UsageError: no such dataset can be.
        DataMissing: files that were never prepared, or that have changed since.
        DataCorrupt: the note of what they were cannot be read.
    """
    if _PLAIN.fullmatch(dataset) and not _is_path(dataset):
        return root / dataset
    name = parse_dataset(dataset)
    match name:
        case KnownName():
            return root / name.name
        case HubName():
            return root / hub_folder(name)
        case FilesName():
            return root / _folder_of_files(name, root)


def hub_folder(name: HubName) -> str:
    """The folder's name for a dataset of the Hub: readable, and different for different names."""
    key = hashlib.sha256(canonical(name).encode()).hexdigest()[:8]
    words = "-".join(filter(None, (name.repository.replace("/", "--"), name.config, name.split)))
    return f"hf-{_NOT_IN_FOLDERS.sub('-', words)[:80]}-{key}"


def files_folder(name: FilesName, content_sha256: str) -> str:
    """The folder's name for files of that content."""
    return f"files-{_NOT_IN_FOLDERS.sub('-', name.path.name)[:60]}-{content_sha256[:16]}"


def note_path(name: FilesName, root: Path) -> Path:
    """Where it is noted which content a path had when it was prepared."""
    return root / "files" / f"{hashlib.sha256(canonical(name).encode()).hexdigest()[:16]}.json"


def own_files(path: Path) -> list[Path]:
    """The files of text at a path: itself, or those of a folder and its folders, sorted; hidden ones are passed over.

    Raises:
        DataMissing: there is nothing there, or nothing that we can read.
    """
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = sorted(entry for entry in _walk(path) if entry.name.endswith(FILE_SUFFIXES))
    else:
        raise DataMissing(f"no file or folder {path}", hint=_EXAMPLES)
    if not found or not found[0].name.endswith(FILE_SUFFIXES):
        raise DataMissing(f"nothing to read at {path}: wanted {', '.join(FILE_SUFFIXES)}", hint=_EXAMPLES)
    return found


def stamps_of(path: Path, files: list[Path]) -> list[list[Any]]:
    """[relative name, bytes, modification time in ns] of each file: what tells cheaply that nothing has changed."""
    stamps = []
    for file in files:
        status = file.stat()
        relative = file.name if file == path else file.relative_to(path).as_posix()
        stamps.append([relative, status.st_size, status.st_mtime_ns])
    return stamps


def read_note(name: FilesName, root: Path) -> dict[str, Any] | None:
    """The note of a path ("directory", "files", "content_sha256"); None when it was never prepared.

    Raises:
        DataCorrupt: it is not one of ours.
    """
    path = note_path(name, root)
    try:
        note = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataCorrupt(f"cannot read {path}: {error}", hint=f"rm -f {shlex.quote(str(path))}") from error
    expected = {"format": FILES_FORMAT, "version": FILES_VERSION}
    whole = isinstance(note, dict) and {"directory", "files", "content_sha256"} <= note.keys()
    if not whole or {key: note.get(key) for key in expected} != expected:
        raise DataCorrupt(
            f"{path} is no note of {FILES_FORMAT} version {FILES_VERSION}", hint=f"rm -f {shlex.quote(str(path))}"
        )
    return dict(note)


def prepare_command(dataset: str, *, num_shards: int | None = None) -> str:
    """What to type to get a dataset."""
    count = "" if num_shards is None else f" --num-shards {num_shards}"
    return f"autoresearch prepare --dataset {shlex.quote(dataset)}{count}"


def _folder_of_files(name: FilesName, root: Path) -> str:
    note = read_note(name, root)
    command = prepare_command(canonical(name))
    if note is None:
        raise DataMissing(f"{name.path} is not prepared", hint=command)
    # what was prepared serves on when its original is gone; a changed original is other text
    if name.path.exists() and stamps_of(name.path, own_files(name.path)) != note["files"]:
        raise DataMissing(f"{name.path} has changed since it was prepared", hint=command)
    return Path(str(note["directory"])).name


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)
        elif entry.is_file():
            yield entry


def _is_path(text: str) -> bool:
    if not text or "\0" in text:
        return False
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        return True
    named = text.rpartition("#")[0] or text
    return named.endswith(FILE_SUFFIXES) or "/" in text or Path(text).is_file()
