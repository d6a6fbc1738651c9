"""An experiment file before it is run: its text, which of our names it defines, and what it wants of `prepare`."""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch.vocabulary import UsageError

# A file that defines these is measured in parts, and its compiler can be switched; all others by whole steps only.
NAMES = ("build_model", "build_optimizer", "config_from_hyperparameters", "main")
SETTINGS = ("settings_for", "settings_for_machine")  # and one of these: it says whether to compile
# What a workspace's prepare.py may set and the contract sets here.
CONTRACT_CONSTANTS = ("MAX_SEQ_LEN", "TIME_BUDGET")
_MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class ExperimentFile:
    """One file as it was read. missing: of NAMES and SETTINGS; wanted: what it takes from `prepare`, by name."""

    path: Path
    text: str
    sha256: str
    missing: tuple[str, ...]
    wanted: frozenset[str]

    @property
    def is_named(self) -> bool:
        """Whether it defines all of NAMES, and one of SETTINGS."""
        return not self.missing


def read_experiment(path: Path) -> ExperimentFile:
    """The file, parsed and not run.

    Raises:
        UsageError: it is missing, no text, no Python, or takes no batches from `prepare`: nothing could be timed.
    """
    shown = os.path.relpath(path)
    if not path.is_file():
        raise UsageError(f"no file {shown}", hint="autoresearch bench train.py")
    data = path.read_bytes()
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{shown} is {len(data):,} bytes, no experiment file", hint="autoresearch bench train.py")
    try:
        text = data.decode()
        tree = ast.parse(text, shown)
    except SyntaxError as error:
        raise UsageError(
            f"{shown}, line {error.lineno}: {error.msg}: {(error.text or '').strip()[:120]}",
            hint=f"mend it; python -m py_compile {shown} says the same",
        ) from error
    except ValueError as error:  # not UTF-8, or a null byte
        raise UsageError(f"{shown} is no Python file: {error}", hint="autoresearch bench train.py") from error
    wanted = _wanted_of_prepare(tree)
    if "make_dataloader" not in wanted:
        raise UsageError(
            f"{shown} takes no make_dataloader from prepare, and steps are timed by the batches it asks for",
            hint=f"write in {shown}: from prepare import Tokenizer, evaluate_bpb, make_dataloader",
        )
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    missing = tuple(name for name in NAMES if name not in defined)
    if not defined & set(SETTINGS):
        missing = (*missing, SETTINGS[0])
    return ExperimentFile(path, text, hashlib.sha256(data).hexdigest(), missing, frozenset(wanted))


def check_wanted(file: ExperimentFile, offered: Mapping[str, Any]) -> None:
    """Pass when `prepare` offers everything that the file takes from it.

    Raises:
        UsageError: it wants a name that a trial does not have; the message says which there are.
    """
    unknown = sorted(file.wanted - offered.keys())
    if unknown:
        raise UsageError(
            f"{os.path.relpath(file.path)} takes {', '.join(unknown)} from prepare, which offers {', '.join(sorted(offered))}",
            hint=f"take it out of the import in {file.path.name}, or define it there",
        )


def other_constants(file: ExperimentFile, served: Mapping[str, Any]) -> list[str]:
    """What a prepare.py beside the file says otherwise than the contract in force, one sentence each.

    Both files of a comparison get the contract's values. One that was written for others does work of another size
    here, and whoever reads the figures should know.
    """
    beside = file.path.parent / "prepare.py"
    try:
        tree = ast.parse(beside.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return []  # none there, or none that anybody could run: nothing is claimed about it
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, getattr(node.value, "value", None)
            if name in CONTRACT_CONSTANTS and isinstance(value, int | float):
                found[name] = value
    return [
        f"the prepare.py beside {file.path.name} says {name} = {value}; here it is {served[name]:g}, the contract's"
        for name, value in found.items()
        if value != served[name]
    ]


def _wanted_of_prepare(tree: ast.Module) -> set[str]:
    """Names that the module imports from `prepare`, or reaches as attributes of it."""
    wanted: set[str] = set()
    aliases: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "prepare" and node.level == 0:
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            aliases |= {alias.asname or alias.name for alias in node.names if alias.name == "prepare"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            wanted.add(node.attr)
    return wanted
