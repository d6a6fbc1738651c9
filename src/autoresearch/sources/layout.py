"""Which files of a Hub repository are a dataset's training text and which its validation text.

The Hub's own conventions, in their order: `configs` in the dataset card; else a folder named like the configuration; else
names that hold train, validation or test (https://huggingface.co/docs/hub/datasets-file-names-and-splits).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch.contract.dataset_names import HubName, canonical, prepare_command
from autoresearch.sources.registry import HubSource
from autoresearch.vocabulary import DataMissing, UsageError

DATA_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst", ".txt")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_EDGE = r"(?:^|$|[-._/ 0-9])"


@dataclass(frozen=True)
class Layout:
    """Paths in the repository, sorted. Validation is empty where the dataset has no split for it."""

    training: tuple[str, ...]
    validation: tuple[str, ...]


def layout_of(source: HubSource, paths: Iterable[str], configs: Sequence[Mapping[str, Any]]) -> Layout:
    """The layout of a repository that has these files, and these `configs` in its card; empty where it has no data.

    Raises:
        UsageError: there are several configurations and none was named, or the one named is not there.
        DataMissing: the files that the source names are not there.
    """
    files = sorted(path for path in paths if path.endswith(DATA_SUFFIXES) and not _is_hidden(path))
    if source.files is not None:
        matching = [path for path in files if _matches(path, source.files)]
        held_out = [source.validation_file] if source.validation_file else matching[-1:]
        missing = [path for path in held_out if path not in files]
        if missing or len(matching) < 2:
            what = missing[0] if missing else source.files
            raise DataMissing(f"{canonical(source.name)} has no {what}", hint="check HF_ENDPOINT, if it is set")
        return Layout(tuple(path for path in matching if path not in held_out), tuple(held_out))
    if not files:
        return Layout((), ())
    splits = _splits_of(source.name, files, configs)
    wanted = source.name.split or "train"
    if wanted not in splits and source.name.split is None and "" in splits:
        wanted = ""  # nothing is named like a split: all is one
    if wanted not in splits:
        raise UsageError(
            f"{canonical(source.name)} has no split {wanted}; it has {', '.join(filter(None, splits)) or 'no data files'}",
            hint=_hint(source.name, next(filter(None, splits), "")),
        )
    training = splits[wanted]
    validation = () if wanted == "validation" else splits.get("validation", ())
    if not validation and len(training) > 1:
        return Layout(tuple(training[:-1]), tuple(training[-1:]))
    return Layout(tuple(training), tuple(validation))


def converted_configs(paths: Iterable[str]) -> list[dict[str, str]]:
    """`configs` of the Hub's own conversion, whose paths are CONFIGURATION/SPLIT/0000.parquet."""
    return [
        {"config_name": name, "data_dir": name}
        for name in sorted({path.split("/")[0] for path in paths if "/" in path})
    ]


def _splits_of(name: HubName, files: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[str]]:
    """Files by split; the split "" are those whose names say none."""
    described = {str(config.get("config_name", "default")): config for config in configs}
    described = {key: config for key, config in described.items() if "data_files" in config or "data_dir" in config}
    if described:
        return _from_card(described[_chosen(name, list(described))], files)
    if name.config and name.config != "default":
        files = [path for path in files if path.startswith(f"{name.config}/")]
        if not files:
            raise UsageError(
                f"{name.repository} has no configuration {name.config}", hint=prepare_command(f"hf:{name.repository}")
            )
    return _by_name(files)


def _chosen(name: HubName, known: list[str]) -> str:
    if name.config in known:
        return str(name.config)
    if name.config is None and (len(known) == 1 or "default" in known):
        return "default" if "default" in known else known[0]
    problem = f"has no configuration {name.config}" if name.config else "has several configurations"
    raise UsageError(
        f"{name.repository} {problem}: {', '.join(known)}",
        hint=prepare_command(f"hf:{name.repository}:{known[0]}"),
    )


def _from_card(config: Mapping[str, Any], files: Sequence[str]) -> dict[str, Sequence[str]]:
    folder = str(config.get("data_dir", "")).strip("/")
    inside = [path for path in files if not folder or path.startswith(f"{folder}/")]
    described = config.get("data_files")
    if described is None:
        return _by_name(inside)
    if isinstance(described, Mapping):
        described = [{"split": split, "path": path} for split, path in described.items()]
    if isinstance(described, str) or all(isinstance(entry, str) for entry in described):
        described = [{"split": "train", "path": described}]
    splits: dict[str, Sequence[str]] = {}
    for entry in described:
        patterns = [entry["path"]] if isinstance(entry["path"], str) else entry["path"]
        patterns = [f"{folder}/{pattern}" if folder else pattern for pattern in patterns]
        found = [path for path in inside if any(_matches(path, pattern) for pattern in patterns)]
        if found:
            splits[split_named(str(entry["split"])) or str(entry["split"])] = found
    return splits


def _by_name(files: Sequence[str]) -> dict[str, Sequence[str]]:
    splits: dict[str, list[str]] = {}
    for path in files:
        splits.setdefault(split_named(path), []).append(path)
    return dict(splits)


def split_named(path: str) -> str:
    """The split that a path names, the last folder or file that does; "" when none does."""
    for part in reversed(path.lower().split("/")):
        for split, words in _SPLITS.items():
            if any(re.search(f"{_EDGE}{word}{_EDGE}", part) for word in words):
                return split
    return ""


def _matches(path: str, pattern: str) -> bool:
    """Whether a glob fits: `*` stays within a folder, `**` does not."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.removeprefix("./"))
    kinds = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.fullmatch("".join(kinds.get(piece, re.escape(piece)) for piece in pieces), path) is not None


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))


def _hint(name: HubName, split: str) -> str:
    if not split:
        return prepare_command("hf:owner/name")
    return prepare_command(f"hf:{name.repository}:{name.config or 'default'}:{split}")
