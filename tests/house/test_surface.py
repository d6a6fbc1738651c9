"""One truth for who may edit what: SCOPES agrees with banners, programs and the wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
from source_tree import ROOT

from autoresearch.workspace import FROZEN, SCOPES, WORKSPACE_FILES, banner_for

SURFACE_FILES = [(program, name) for program, names in SCOPES.items() for name in names if (ROOT / name).is_file()]


@pytest.mark.parametrize(("program", "name"), SURFACE_FILES)
def test_line_one_of_a_surface_file_says_who_may_edit_it(program, name):
    assert (ROOT / name).read_text(encoding="utf-8").splitlines()[0] == banner_for(program)


def test_every_python_file_at_the_root_is_in_a_scope_or_frozen():
    scoped = {name for names in SCOPES.values() for name in names}
    assert {path.name for path in ROOT.glob("*.py")} == scoped | set(FROZEN)


@pytest.mark.parametrize("name", FROZEN)
def test_line_one_of_a_frozen_file_says_that_nobody_edits_it(name):
    first = (ROOT / name).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# Frozen: ")
    assert "No program edits it" in first


def test_the_scopes_of_two_programs_do_not_overlap():
    assert not set(SCOPES["model"]) & set(SCOPES["data"])


def test_the_table_of_the_model_program_lists_its_scope():
    lines = (ROOT / "program.md").read_text(encoding="utf-8").splitlines()
    header = lines.index("| may be edited | must not be edited |")
    first_cell = lines[header + 2].strip("|").split("|")[0]
    assert tuple(re.findall(r"`([^`]+)`", first_cell)) == SCOPES["model"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this checkout, built for real (hatchling needs no network)."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
def test_the_wheel_carries_the_same_workspace_as_the_root(wheel):
    prefix = "autoresearch/_workspace/"
    carried = {name.removeprefix(prefix): data for name, data in wheel.items() if name.startswith(prefix)}
    assert carried == {name: (ROOT / name).read_bytes() for name in WORKSPACE_FILES}


def test_the_wheel_carries_the_corpus_with_its_provenance(wheel):
    names = {name.removeprefix("autoresearch_corpus/") for name in wheel if name.startswith("autoresearch_corpus/")}
    assert {"train.parquet", "search.parquet", "manifest.json", "PROVENANCE.md", "build.py"} <= names


def test_the_wheel_is_built_from_the_table_in_pyproject():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = table["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {name: f"autoresearch/_workspace/{name}" for name in WORKSPACE_FILES}
