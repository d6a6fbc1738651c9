"""What can be said of an edited surface file without running it: does it parse, import what exists, and fit together."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator, Mapping

from autoresearch.contract.rules import PRESETS
from autoresearch.proposers import data_space
from autoresearch.proposers.constants import Scalar, defines_function, read_constants
from autoresearch.proposers.dimension import Dimension
from autoresearch.proposers.novelty import parse_program
from autoresearch.vocabulary import AutoresearchError
from autoresearch.workspace import Workspace, banner_for

# What `from prepare import ...` offers in a trial; a test compares it with contract/channel.py.
OFFERED = frozenset(
    {"MAX_SEQ_LEN", "TIME_BUDGET", "SEED", "PRESET", "MAX_DEVICE_BATCH_SIZE"}
    | {"Tokenizer", "make_dataloader", "evaluate_bpb"}
)
_OWN_MODULES = frozenset({"prepare", "data_sources"})
# What each file of a data recipe must go on defining: the trial and prepare.py call them by these names.
RECIPE_NAMES: Mapping[str, tuple[str, ...]] = {
    "prepare.py": ("build", "feed"),
    "data_sources.py": ("keep", "clean", "quality", "weights"),
}
_BYTES_AND_SPECIALS = 260
_LIBRARY = "autoresearch.recipes"  # the only part of this package that a recipe imports


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
    if name in RECIPE_NAMES:
        found += _recipe(source, tree, name)
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


def _recipe(source: str, tree: ast.Module, name: str) -> Iterator[str]:
    """What is wrong with a file of a data recipe."""
    yield from (f"{gone}() is gone: it is called by that name" for gone in _gone(source, RECIPE_NAMES[name]))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    main = {"autoresearch.cli", "autoresearch.contract.standalone"} if name == "prepare.py" else set()
    for module in sorted(modules - main):
        is_ours = module == "autoresearch" or module.startswith("autoresearch.")
        if is_ours and module != _LIBRARY and not module.startswith(f"{_LIBRARY}."):
            yield f"import {module}: of this package a recipe may import {_LIBRARY} and nothing else"
    literals = read_constants(source, "").literals
    yield from unfit_settings({key: literal.value for key, literal in literals.items()})


def _gone(source: str, names: tuple[str, ...]) -> Iterator[str]:
    return (name for name in names if not defines_function(source, name))


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


def unfit_settings(values: Mapping[str, Scalar]) -> Iterator[str]:
    """What the library of recipes would refuse among the constants of a data recipe, before it is run."""
    for name in ("DUPLICATES", "ORDER", "QUALITY"):
        known = data_space.infer(name, seq_len=1, vocab_size=260)
        if name in values and isinstance(known, Dimension) and values[name] not in known.rungs:
            yield f"{name} {values[name]!r} is none of {', '.join(map(str, known.rungs))}"
    for name in ("MAX_REPEATED_LINES", "MAX_REPEATED_NGRAMS", "LATE_FROM"):
        if not 0 <= _number(values, name, 1.0) <= 1:
            yield f"{name} {values[name]!r} is no share from 0 to 1"
    if not 0 < _number(values, "NEAR_DUPLICATE", 1.0) <= 1:
        yield f"NEAR_DUPLICATE {values['NEAR_DUPLICATE']!r} is no similarity above 0 and up to 1"
    shortest, longest = _number(values, "MIN_CHARACTERS", 0.0), _number(values, "MAX_CHARACTERS", 0.0)
    if longest and shortest > longest:
        yield f"no document has at least {shortest:g} and at most {longest:g} characters"
    vocabulary = _number(values, "VOCAB_SIZE", 0.0)
    if vocabulary and vocabulary < _BYTES_AND_SPECIALS:
        yield f"VOCAB_SIZE {vocabulary:g} is less than {_BYTES_AND_SPECIALS}: 256 bytes and 4 specials"
    yield from _unfit_tiers(values)


def _unfit_tiers(values: Mapping[str, Scalar]) -> Iterator[str]:
    tiers = _number(values, "NUM_TIERS", 1.0)
    for owner in ("TIER_WEIGHTS", "LATE_TIER_WEIGHTS"):
        weights = [_number(values, name, 0.0) for name in values if name.startswith(f"{owner}[")]
        if not weights:
            continue
        if not 1 <= tiers <= len(weights):
            yield f"NUM_TIERS {tiers:g} is not between 1 and {len(weights)}, the number of {owner}"
        elif min(weights) < 0 or not sum(weights[: int(tiers)]) > 0:
            yield f"{owner} must be 0 or more, and one of the first {tiers:g} above 0"


def _number(values: Mapping[str, Scalar], name: str, otherwise: float) -> float:
    value = values.get(name, otherwise)
    return otherwise if isinstance(value, str) else float(value)
