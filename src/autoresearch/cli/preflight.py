"""What can be said of an edited experiment file without running it: does it parse, import what exists, and divide."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator, Mapping

from autoresearch.contract.rules import PRESETS
from autoresearch.proposers.constants import Scalar, defines_function, read_constants
from autoresearch.proposers.novelty import parse_program
from autoresearch.vocabulary import AutoresearchError
from autoresearch.workspace import Workspace, banner_for

# What `from prepare import ...` offers in a trial; a test compares it with contract/channel.py.
OFFERED = frozenset({"MAX_SEQ_LEN", "TIME_BUDGET", "SEED", "PRESET", "Tokenizer", "make_dataloader", "evaluate_bpb"})
_OWN_MODULES = frozenset({"prepare", "data_sources"})


def findings(workspace: Workspace, name: str, preset: str | None) -> list[str]:
    """What is wrong with a surface file as it lies in the checkout, one line each. Empty: nothing that shows.

    Raises:
        WorkspaceError: the file cannot be read, or is not text.
    """
    source = workspace.read_checkout(name)
    try:
        tree = parse_program(source)
    except SyntaxError as error:
        return [f"line {error.lineno or 0}: {error.msg}"]
    found = list(_imports(tree, set(_imported(_committed_tree(workspace, name)))))
    if name.startswith("train"):
        found += _experiment(source, preset)
    first = source.split("\n", 1)[0]
    banners = [banner_for(program) for program in ("model", "data")]
    if any(banner in source for banner in banners) and first not in banners:
        found.append("line 1 must stay the banner that says who may edit this file")
    return found


def _committed_tree(workspace: Workspace, name: str) -> ast.Module:
    """The file as the checkout's commit has it: what that imports is known to be meant."""
    try:
        return parse_program(workspace.read_surface(workspace.repository.head(), name))
    except (SyntaxError, AutoresearchError):
        return ast.Module(body=[], type_ignores=[])  # not there, or broken: then nothing of it counts as known


def _imported(tree: ast.Module) -> Iterator[str]:
    """Top-level names of every module that the file imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _imports(tree: ast.Module, known: set[str]) -> Iterator[str]:
    for name in sorted(set(_imported(tree)) - known - _OWN_MODULES - sys.stdlib_module_names):
        if name == "autoresearch" or name.startswith("autoresearch_"):
            yield f"import {name}: a trial offers the names of `prepare` and nothing else of this package"
        elif importlib.util.find_spec(name) is None:
            yield f"import {name}: it is not installed, and no new package may be added"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "prepare":
            for alias in node.names:
                if alias.name not in OFFERED:
                    yield f"from prepare import {alias.name}: a trial offers only {', '.join(sorted(OFFERED))}"


def _experiment(source: str, preset: str | None) -> Iterator[str]:
    if not defines_function(source, "load_model"):
        yield "load_model(weights) is gone: before a keep, a fresh process rebuilds the model with it"
    if preset is None or preset not in PRESETS:
        return
    literals = read_constants(source, preset).literals
    values = {key: literal.value for key, literal in literals.items()}
    yield from (f"under {preset}: {line}" for line in _indivisible(values, PRESETS[preset].max_seq_len))


def _indivisible(values: Mapping[str, Scalar], seq_len: int) -> Iterator[str]:
    """The rules of train.py's own asserts, for the constants that have its names."""
    total, rows = _whole(values, "TOTAL_BATCH_SIZE"), _whole(values, "DEVICE_BATCH_SIZE")
    if total is not None and rows is not None and (rows < 1 or total < rows * seq_len or total % (rows * seq_len)):
        yield f"TOTAL_BATCH_SIZE {total} is no multiple of DEVICE_BATCH_SIZE {rows} x {seq_len} tokens"
    head, depth, aspect = (_whole(values, name) for name in ("HEAD_DIM", "DEPTH", "ASPECT_RATIO"))
    if head is not None and (head < 2 or head % 2):
        yield f"HEAD_DIM {head} must be even: rotary embedding turns channels in pairs"
    groups = _whole(values, "KV_GROUPS")
    if head and head > 0 and depth and aspect and groups is not None:
        num_heads = -(-depth * aspect // head)
        if groups < 1 or num_heads % groups:
            yield f"KV_GROUPS {groups} does not divide the {num_heads} heads of DEPTH {depth}, ASPECT_RATIO {aspect}"
    pattern = values.get("WINDOW_PATTERN")
    if isinstance(pattern, str) and (not pattern or set(pattern) - {"S", "L"}):
        yield f"WINDOW_PATTERN {pattern!r} holds letters other than S and L"
    parts = [values.get(name, 0.0) for name in ("WARMUP_RATIO", "WARMDOWN_RATIO")]
    if sum(float(part) for part in parts if isinstance(part, int | float)) > 1.0:
        yield "WARMUP_RATIO and WARMDOWN_RATIO together exceed the budget"


def _whole(values: Mapping[str, Scalar], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
