"""What the house tests share: where the repository is, its modules as syntax trees, its tracked files."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
PACKAGE = SRC / "autoresearch"


def modules() -> list[Path]:
    """Every Python file of the package. The red team's payloads are none: they are pieces of candidates."""
    payloads = PACKAGE / "redteam" / "catalogue"
    return sorted(path for path in PACKAGE.rglob("*.py") if not path.is_relative_to(payloads))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path: Path) -> set[str]:
    """Dotted names that a module imports anywhere in it, inside functions too."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; this project writes whole names"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def markdown_files() -> list[Path]:
    """The project's own pages: those at the root and under docs/."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def tracked_files() -> list[Path]:
    """What git would publish: tracked files, and new ones that it does not ignore."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout: nobody knows here what is tracked")
    names = [name for name in listing.stdout.decode().split("\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]
