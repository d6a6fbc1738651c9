"""Which direction an experiment belongs to: what its model said, else the constants it set, else what its program changed."""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Mapping
from functools import lru_cache

from autoresearch.proposers.constants import OVERRIDES
from autoresearch.proposers.idea import topic_slug
from autoresearch.proposers.novelty import parse_program
from autoresearch.proposers.situation import PastExperiment, Situation

UNNAMED = "other"
_MAX_NAMES = 2  # of what changed, in one topic


def topics_of(situation: Situation) -> dict[int, str]:
    """Topic of every experiment of the session by number: a slug, `other` where nothing names it."""
    texts = {past.number: past.files for past in situation.history if past.files}
    texts[situation.incumbent_number] = situation.incumbent
    return {
        past.number: topic_of(past, texts.get(-1 if past.base is None else past.base)) for past in situation.history
    }


def topic_of(past: PastExperiment, base: Mapping[str, str] | None) -> str:
    """Topic of one experiment. `base` holds the files that it started from, None where they are not known."""
    said = past.details.get("topic")
    if isinstance(said, str) and (slug := topic_slug(said)):
        return slug
    changes = past.details.get("changes")
    names = [name for name in changes if isinstance(name, str)] if isinstance(changes, dict) else []
    if not names and base is not None:
        names = [name for file, text in past.files.items() for name in changed_parts(base.get(file, ""), text)]
    return topic_slug(" ".join(names[:_MAX_NAMES])) or UNNAMED


def changed_parts(before: str, after: str) -> list[str]:
    """Names of constants, functions and methods that differ between two programs, in the order of the newer one.

    An entry of PRESET_OVERRIDES counts as its constant. Empty where either text does not parse.
    """
    old, new = _parts_of(before), _parts_of(after)
    if not old or not new:
        return []
    changed = [name for name, digest in new.items() if old.get(name) != digest]
    return list(
        dict.fromkeys(name.partition("@")[0] for name in [*changed, *(name for name in old if name not in new)])
    )


@lru_cache(maxsize=64)  # a 700-line file takes 20 ms, and an incumbent is the base of many experiments
def _parts_of(source: str) -> dict[str, str]:
    """Digest of every named part; a constant of a preset is called `NAME@preset`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = parse_program(source)
        return {name: _digest(node) for name, node in _named(tree)}
    except (SyntaxError, RecursionError):
        return {}


def _named(tree: ast.Module) -> list[tuple[str, ast.AST]]:
    found: list[tuple[str, ast.AST]] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((node.name, node))
        elif isinstance(node, ast.ClassDef):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
            found += [(f"{node.name}.{item.name}", item) for item in methods]
            rest = [item for item in node.body if item not in methods]
            found.append((node.name, ast.Module(body=rest, type_ignores=[])))
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    found += _assigned(target.id, node.value)
    return found


def _assigned(name: str, value: ast.expr) -> list[tuple[str, ast.AST]]:
    if name != OVERRIDES or not isinstance(value, ast.Dict):
        return [(name, value)]
    found: list[tuple[str, ast.AST]] = []
    for preset, entry in zip(value.keys, value.values, strict=True):
        if isinstance(preset, ast.Constant) and isinstance(preset.value, str) and isinstance(entry, ast.Dict):
            for key, item in zip(entry.keys, entry.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    found.append((f"{key.value}@{preset.value}", item))
    return found


def _digest(node: ast.AST) -> str:
    return hashlib.sha256(ast.dump(node).encode("utf-8", "surrogatepass")).hexdigest()
