"""Imports only go down the floors of docs/architecture.md."""

from __future__ import annotations

import subprocess
import sys

import pytest
from source_tree import PACKAGE, SRC, imports_of, modules

# Ground modules stand alone beside the folders.
FLOORS = {
    "": 0,
    "vocabulary": 0,
    "files": 0,
    "processes": 0,
    "hostile_text": 0,
    "repository": 0,
    "workspace": 0,
    "backends": 1,
    "sandbox": 2,
    "contract": 3,
    "recipes": 4,
    "records": 4,
    "sources": 4,
    "providers": 5,
    "proposers": 6,
    "loop": 7,
    "report": 7,
    "quantize": 7,
    "bench": 7,
    "redteam": 8,
    "cli": 9,
    "__main__": 10,
}
SURFACE = {"train", "train_mlx", "train_optimal", "prepare", "data_sources"}
HEAVY = (
    "torch",
    "mlx",
    "ray",
    "matplotlib",
    "optuna",
    "rich",
    "pyarrow",
    "numpy",
    "scipy",
    "tiktoken",
    "safetensors",
    "constriction",
)


def place_of(dotted: str) -> str:
    """Folder or ground module of a dotted name: "contract" of autoresearch.contract.rules.PRESETS."""
    parts = dotted.split(".")[1:]
    return parts[0] if parts and parts[0] in FLOORS else ""


def name_of(path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.slow
@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_from_its_own_folder_or_from_below(path):
    own = place_of(name_of(path))
    for imported in imports_of(path):
        if imported.split(".")[0] != "autoresearch":
            continue
        other = place_of(imported)
        assert other == own or FLOORS[other] < FLOORS[own] or FLOORS[own] == FLOORS[other] == 0, (
            f"{name_of(path)} (floor {FLOORS[own]}) imports {imported} (floor {FLOORS[other]})"
        )


def test_every_folder_and_ground_module_has_a_floor():
    found = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()} - {"__pycache__", "__init__"}
    assert found - {"py.typed"} <= set(FLOORS)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_the_package_imports_no_surface_file(path):
    assert not {imported.split(".")[0] for imported in imports_of(path)} & SURFACE


def test_the_corpus_package_knows_nothing_of_the_instrument():
    for path in sorted((SRC / "autoresearch_corpus").glob("*.py")):
        assert not [name for name in imports_of(path) if name.split(".")[0] == "autoresearch"]


def test_the_command_line_answers_help_without_any_heavy_library():
    """Speed itself is measured in benchmarks/: this is what it rests on."""
    source = (
        "import sys, autoresearch.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "research" in done.stdout
