"""The catalogue: one folder for each documented cheat and each honest control, read and checked before anything runs.

`catalogue/README.md` says how an entry is written. An entry is data and one edit of train.py, or of the recipe that feeds
it; what happened is decided elsewhere, from what the referee measured and from what was seen outside the candidate (`ground`, `checks`, `judging`).
"""

from __future__ import annotations

import ast
import re
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from autoresearch.contract.rules import Clock, Rules
from autoresearch.redteam.checks import CHECKS
from autoresearch.vocabulary import AutoresearchError, UsageError

CATALOGUE = Path(__file__).parent / "catalogue"
DESCRIPTION_NAME = "cheat.toml"
PAYLOAD_NAME = "payload.py"
ENTRY_NAME = "train.py"
RECIPE_NAME = "prepare.py"  # of a recipe's files, the one that a payload is appended to
# The letter groups documented cheats; H are honest controls, R recipes of the data program, X were added here.
_FOLDER = re.compile(r"([A-HRX][0-9]{2})_[a-z0-9]+(?:_[a-z0-9]+)*")
_FIELD = re.compile(r"\{\{([A-Z_]+)\}\}")
_Enum = TypeVar("_Enum", bound=StrEnum)


class CatalogueError(AutoresearchError):
    """A folder of the catalogue is not a runnable entry; the message names the folder and what is wrong in it."""


class Kind(StrEnum):
    """What an entry is."""

    CHEAT = "cheat"
    CONTROL = "control"


class Expect(StrEnum):
    """How an entry must end."""

    REJECTED = "rejected"
    SAME_SCORE = "same score"  # bit for bit the unedited train.py's at the same seed
    CRASHED = "crashed"
    TIMED_OUT = "timed out"
    DIVERGED = "diverged"
    FINISHED = "finished"  # any score: controls, and cheats that only the checks can judge
    REFUSED_BEFORE_START = "refused before start"  # doors only
    HARMLESS = "harmless"  # doors only: what was planted had no effect


class Door(StrEnum):
    """Where an entry that is no training candidate knocks."""

    LOOP = "loop"
    GIT = "git"
    TEXT = "text"


class Defence(StrEnum):
    """Who stops a cheat. The first four are parts that the operating system gives or does not."""

    FILES = "files"
    NETWORK = "network"
    PROCESSES = "processes"
    SYSTEM_CALLS = "system calls"
    REFEREE = "referee"
    EXAMINATION = "examination"
    DEEP_EXAMINATION = "deep examination"
    ENVIRONMENT = "environment"
    LIMITS = "limits"
    LOOP = "loop"
    GIT = "git"
    TEXT = "text"


OS_PARTS = frozenset({Defence.FILES, Defence.NETWORK, Defence.PROCESSES, Defence.SYSTEM_CALLS})
_DOOR_EXPECTS = frozenset({Expect.REFUSED_BEFORE_START, Expect.HARMLESS})


@dataclass(frozen=True)
class Edit:
    """One replacement in train.py, or in a file of the recipe; `find` must be there exactly once."""

    find: str
    put: str


@dataclass(frozen=True)
class Entry:
    """One cheat or control. Field for field what `cheat.toml` says; `catalogue/README.md` explains each."""

    id: str
    folder: Path
    title: str
    tried: str
    source: str
    kind: Kind
    expect: tuple[Expect, ...]
    reason: str = ""
    defended_by: tuple[Defence, ...] = ()
    needs: frozenset[Defence] = frozenset()
    checks: tuple[str, ...] = ()
    preset_overrides: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    repeat: int = 1
    deep: bool = False
    full_only: bool = False
    recipe: bool = False
    edits: tuple[Edit, ...] = ()
    payload: str = ""
    door: Door | None = None
    attack: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)

    @property
    def compares_work(self) -> bool:
        """Whether its checks compare it with the unedited train.py under its own rules, whatever the clock counts."""
        return bool({"no_extra_training", "startup_paid"} & set(self.checks))

    def rules(self, base: Rules) -> Rules:
        """The rules this entry runs under: `base` with its own changes."""
        changed = replace_rules(base, self.preset_overrides)
        return changed if self.seconds is None else replace_rules(changed, {"trial_deadline": self.seconds})


def replace_rules(rules: Rules, changes: Mapping[str, Any]) -> Rules:
    """`rules` with some fields replaced."""
    values = {item.name: getattr(rules, item.name) for item in fields(rules)} | dict(changes)
    values["clock"] = Clock(values["clock"])
    return Rules(**values)


def load_catalogue(folder: Path = CATALOGUE) -> list[Entry]:
    """Every entry, in the order of the identifiers.

    Raises:
        CatalogueError: a folder is not an entry, or two have one identifier.
    """
    entries = [load_entry(path) for path in sorted(folder.iterdir()) if path.is_dir() and path.name != "__pycache__"]
    seen: dict[str, Path] = {}
    for entry in entries:
        if entry.id in seen:
            raise CatalogueError(
                f"{entry.folder.name} and {seen[entry.id].name} are both {entry.id}", hint=f"rename {entry.folder}"
            )
        seen[entry.id] = entry.folder
    return entries


def chosen(entries: Sequence[Entry], identifiers: Sequence[str]) -> list[Entry]:
    """The entries of these identifiers (or groups: "E" is E01, E02, …), in the catalogue's order.

    Raises:
        UsageError: an identifier that the catalogue does not have.
    """
    wanted = [identifier.upper() for identifier in identifiers]
    for identifier in wanted:
        if not any(_is_named(entry, identifier) for entry in entries):
            raise UsageError(f"no cheat or control {identifier!r} in the catalogue", hint="autoresearch redteam --list")
    return [entry for entry in entries if any(_is_named(entry, identifier) for identifier in wanted)]


def _is_named(entry: Entry, identifier: str) -> bool:
    return entry.id == identifier or (len(identifier) == 1 and entry.id.startswith(identifier))


def load_entry(folder: Path) -> Entry:
    """The entry in that folder.

    Raises:
        CatalogueError: the folder's name, its cheat.toml or its payload.py is wrong.
    """
    named = _FOLDER.fullmatch(folder.name)
    if not named:
        raise _wrong(folder, "its name is not like B01_prints_a_score")
    try:
        table = tomllib.loads((folder / DESCRIPTION_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _wrong(folder, f"it has no {DESCRIPTION_NAME}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(folder, f"{DESCRIPTION_NAME} cannot be read: {error}") from error
    payload_path = folder / PAYLOAD_NAME
    payload = payload_path.read_text(encoding="utf-8") if payload_path.is_file() else ""
    entry = _entry_of(folder, named[1], dict(table), payload)
    _check(entry)
    return entry


_WORDS = ("title", "tried", "source", "reason", "attack")
_TRUTHS = ("deep", "full_only", "recipe")


def _entry_of(folder: Path, identifier: str, table: dict[str, Any], payload: str) -> Entry:
    edits = tuple(_edit_of(folder, found) for found in table.pop("edit", []))
    door = _one_of(folder, Door, "door", table.pop("door")) if "door" in table else None
    values: dict[str, Any] = {"edits": edits, "payload": payload, "door": door}
    if door is not None:
        values["plan"] = table.pop("plan", {})
    expect = table.pop("expect", [])
    expects = [expect] if isinstance(expect, str) else list(expect)
    values["expect"] = tuple(_one_of(folder, Expect, "expect", value) for value in expects)
    values["kind"] = _one_of(folder, Kind, "kind", table.pop("kind", ""))
    values["defended_by"] = tuple(_one_of(folder, Defence, "defended_by", v) for v in table.pop("defended_by", []))
    values["needs"] = frozenset(_one_of(folder, Defence, "needs", v) for v in table.pop("needs", []))
    values["checks"] = tuple(table.pop("checks", []))
    values["preset_overrides"] = table.pop("preset_overrides", {})
    for name, kind in [*((n, str) for n in _WORDS), *((n, bool) for n in _TRUTHS), ("repeat", int)]:
        if name in table:
            values[name] = _typed(folder, name, table.pop(name), kind)
    if "seconds" in table:
        values["seconds"] = float(_typed(folder, "seconds", table.pop("seconds"), int | float))
    if table:
        known = ", ".join(
            [*(f.name for f in fields(Entry) if f.name not in ("id", "folder", "edits", "payload")), "edit"]
        )
        raise _wrong(folder, f"unknown key {next(iter(table))!r} in {DESCRIPTION_NAME}; known: {known}")
    missing = [name for name in ("title", "tried", "source") if not values.get(name)]
    if missing:
        raise _wrong(folder, f"{DESCRIPTION_NAME} says nothing about {missing[0]!r}")
    return Entry(id=identifier, folder=folder, **values)


def _edit_of(folder: Path, found: object) -> Edit:
    if not isinstance(found, dict) or set(found) != {"find", "put"} or not found["find"]:
        raise _wrong(folder, "every [[edit]] has `find` and `put`, and nothing else")
    return Edit(_typed(folder, "find", found["find"], str), _typed(folder, "put", found["put"], str))


def _typed(folder: Path, name: str, value: Any, kind: Any) -> Any:
    wanted = get_args(kind) or (kind,)
    if not isinstance(value, kind) or (isinstance(value, bool) and bool not in wanted):
        raise _wrong(folder, f"{name!r} must be {' or '.join(k.__name__ for k in wanted)}, not {value!r}")
    return value


def _one_of(folder: Path, kind: type[_Enum], name: str, value: object) -> _Enum:
    try:
        return kind(cast(str, value))
    except ValueError as error:
        raise _wrong(folder, f"{name!r} is {value!r}; known: {', '.join(kind)}") from error


def _check(entry: Entry) -> None:
    """What no single key shows: do they fit together?"""
    folder = entry.folder
    if not entry.expect:
        raise _wrong(folder, "it must say what to `expect`")
    at_door = _DOOR_EXPECTS.intersection(entry.expect)
    if (entry.door is None) != (not at_door) or (at_door and len(at_door) < len(entry.expect)):
        raise _wrong(folder, f"{' and '.join(sorted(_DOOR_EXPECTS))} are for entries with a `door`, and only they")
    if (entry.door is None) != (not entry.attack):
        raise _wrong(folder, "`door` and `attack` belong together")
    if entry.recipe and entry.door is not None:
        raise _wrong(folder, "a `recipe` feeds a trial, and an entry with a `door` is none")
    if not entry.needs <= OS_PARTS:
        raise _wrong(folder, f"`needs` names parts of the operating system: {', '.join(sorted(OS_PARTS))}")
    if not entry.needs <= set(entry.defended_by):
        raise _wrong(folder, "what it `needs` must be among what it is `defended_by`")
    if entry.kind is Kind.CHEAT and not entry.defended_by:
        raise _wrong(folder, "a cheat must say what it is `defended_by`")
    if entry.kind is Kind.CONTROL and (entry.expect != (Expect.FINISHED,) or entry.needs):
        raise _wrong(folder, "a control is expected to have `finished`, whatever the machine")
    if entry.kind is Kind.CHEAT and entry.expect == (Expect.FINISHED,) and not entry.checks:
        raise _wrong(folder, "a cheat that may finish with any score needs `checks` that say whether it got anything")
    unknown = [name for name in entry.checks if name not in CHECKS]
    if unknown:
        raise _wrong(folder, f"no check {unknown[0]!r}; known: {', '.join(CHECKS)}")
    if not 1 <= entry.repeat <= 3:
        raise _wrong(folder, "`repeat` is 1, 2 or 3 trials in a row")
    if entry.kind is Kind.CHEAT and entry.door is None and not (entry.edits or entry.payload):
        raise _wrong(folder, f"it edits nothing: write [[edit]] or {PAYLOAD_NAME}")
    _check_overrides(entry)
    try:
        re.compile(entry.reason)
    except re.error as error:
        raise _wrong(folder, f"`reason` is no regular expression: {error}") from error


_FIXED_RULES = ("preset", "dataset")


def _check_overrides(entry: Entry) -> None:
    known = [item.name for item in fields(Rules) if item.name not in _FIXED_RULES]
    unknown = [name for name in entry.preset_overrides if name not in known]
    if unknown:
        raise _wrong(entry.folder, f"preset_overrides: no rule {unknown[0]!r}; known: {', '.join(known)}")
    clock = str(entry.preset_overrides.get("clock", Clock.STEPS))
    if clock not in list(Clock):
        raise _wrong(entry.folder, f"preset_overrides: clock is {clock!r}; known: {', '.join(Clock)}")
    if Expect.SAME_SCORE in entry.expect and clock != Clock.STEPS:
        raise _wrong(entry.folder, "two runs have the same score only on the clock that counts steps")


def fields_used(entry: Entry) -> set[str]:
    """Names of the {{FIELDS}} in its payload and edits."""
    texts = [entry.payload, *(edit.put for edit in entry.edits)]
    return {name for text in texts for name in _FIELD.findall(text)}


def source_for(entry: Entry, base: str, values: Mapping[str, str]) -> str:
    """train.py as this entry has it: its edits made in `base`, its payload put in, {{FIELDS}} filled from `values`.

    Raises:
        CatalogueError: an edit applies nowhere or twice, a field is unknown, there is no place for the payload, or the
            result does not compile.
    """
    text = _edited(entry, {ENTRY_NAME: base}, values)[ENTRY_NAME]
    if entry.payload:
        lines = text.splitlines(keepends=True)
        end = _end_of_prepare_import(entry, text)
        payload = _filled(entry, entry.payload, values).rstrip("\n") + "\n"
        text = "".join([*lines[:end], "\n", payload, "\n", *lines[end:]])
    _check_compiles(entry, ENTRY_NAME, text)
    return text


def recipe_for(entry: Entry, base: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """The recipe's files as this entry has them: its edits made, its payload at the end of prepare.py.

    Raises:
        CatalogueError: an edit does not apply to exactly one place of one file, a field is unknown, or a result does not
            compile.
    """
    files = _edited(entry, base, values)
    if entry.payload:
        files[RECIPE_NAME] = files[RECIPE_NAME].rstrip("\n") + "\n\n\n" + _filled(entry, entry.payload, values)
    for name, text in files.items():
        _check_compiles(entry, name, text)
    return files


def _edited(entry: Entry, base: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    files = dict(base)
    for edit in entry.edits:
        places = [name for name, text in files.items() for _ in range(text.count(edit.find))]
        if len(places) != 1:
            shown = edit.find.strip().splitlines()[0][:80] if edit.find.strip() else edit.find
            raise _wrong(entry.folder, f"an edit must apply once and applies {len(places)} times: {shown!r}")
        files[places[0]] = files[places[0]].replace(edit.find, _filled(entry, edit.put, values))
    return files


def _check_compiles(entry: Entry, name: str, text: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape sequence may be part of the attack
            compile(text, f"{entry.folder.name}/{name}", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise _wrong(entry.folder, f"the edited {name} does not compile: {error}") from error


def _filled(entry: Entry, text: str, values: Mapping[str, str]) -> str:
    def value_of(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise _wrong(entry.folder, f"no field {match[0]}; known: {', '.join(sorted(values))}")
        return values[match[1]]

    return _FIELD.sub(value_of, text)


def _end_of_prepare_import(entry: Entry, text: str) -> int:
    """Number of the last line of `from prepare import …`."""
    try:
        body = ast.parse(text).body
    except SyntaxError as error:
        raise _wrong(entry.folder, f"the edited train.py does not compile: {error}") from error
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module == "prepare":
            return node.end_lineno or node.lineno
    raise _wrong(entry.folder, "train.py imports nothing from prepare: there is no place for a payload")


def _wrong(folder: Path, what: str) -> CatalogueError:
    return CatalogueError(f"{folder.name}: {what}", hint=f"mend it as {CATALOGUE / 'README.md'} says")
