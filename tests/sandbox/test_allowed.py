"""The allow-list: what is in it on this machine, and how folders are split around what is hidden."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import autoresearch
import autoresearch_corpus
from autoresearch.sandbox.allowed import Allowed, _around, _Gathered, _importable, allowed_for, allowed_here

ROOT = Path(__file__).parents[2]


def shows(allowed: Allowed, path: Path) -> bool:
    real = path.resolve()
    hidden = any(real.is_relative_to(root) for root in allowed.hidden)
    return not hidden and any(real.is_relative_to(root) for root in allowed.read)


def test_the_interpreter_its_packages_and_our_own_code_show():
    allowed = allowed_here()
    import numpy

    for path in (sys.executable, numpy.__file__, autoresearch.__file__, sys.modules["json"].__file__):
        assert shows(allowed, Path(path)), path


def test_no_home_no_repository_and_no_text_shows():
    allowed = allowed_here()
    for path in (Path.home() / ".ssh", ROOT / "train.py", ROOT / ".git", ROOT / "tests", Path("/tmp"), Path("/var")):
        assert not shows(allowed, path), path
    assert not shows(allowed, Path(autoresearch_corpus.__file__))
    assert not shows(allowed.expanded(), Path(autoresearch_corpus.__file__))


def test_nothing_in_the_list_lies_in_another_entry_or_is_reached_through_a_link():
    allowed = allowed_here()
    for path in allowed.read:
        assert path.resolve() == path
        assert not any(path != other and path.is_relative_to(other) for other in allowed.read)
    for link, text in allowed.links:
        assert str(link.readlink()) == text


def python(**known):
    """What an interpreter would say of itself; nothing, unless told."""
    nothing = {"prefixes": [], "base": "/nonexistent", "executable": "/nonexistent", "path": []}
    return {**nothing, "base_packages": [], "mapped": [], **known}


def test_text_installed_among_other_packages_is_hidden(tmp_path):
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in ("torch", "autoresearch", "autoresearch_corpus"):
        (packages / name).mkdir(parents=True)
    found = allowed_for(python(path=[str(packages)]), {}, "linux")
    assert shows(found, packages / "torch")
    assert not shows(found, packages / "autoresearch_corpus" / "val.parquet")
    assert shows(found.expanded(), packages / "autoresearch")
    assert not shows(found.expanded(), packages / "autoresearch_corpus")
    assert packages in found.expanded().listed


def test_of_a_source_folder_only_what_import_can_find_shows(tmp_path):
    for name in ("package", "autoresearch_corpus", ".git", "tests", "data"):
        (tmp_path / name).mkdir()
    for name in ("package/__init__.py", "autoresearch_corpus/__init__.py", "module.py", "native.so", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in _importable(tmp_path)] == ["module.py", "native.so", "package"]
    found = allowed_for(python(path=[str(tmp_path)]), {}, "linux")
    assert tmp_path.resolve() in found.listed
    assert not shows(found, tmp_path / "data")


def test_an_interpreter_behind_links_is_found_with_every_link_on_the_way(tmp_path):
    real = tmp_path / "versions" / "3.11.7"
    (real / "bin").mkdir(parents=True)
    (real / "bin" / "python3.11").touch()
    (tmp_path / "versions" / "3.11").symlink_to("3.11.7")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "python").symlink_to(tmp_path / "versions" / "3.11" / "bin" / "python3.11")
    found = _Gathered()
    found.add(tmp_path / "venv" / "python")
    assert [path.relative_to(tmp_path.resolve()) for path in found.read] == [Path("versions/3.11.7/bin/python3.11")]
    assert {path.name: text for path, text in found.links.items()}["3.11"] == "3.11.7"
    assert "python" in {path.name for path in found.links}


def test_a_variable_cannot_open_the_home_or_what_is_around_it(tmp_path):
    home = tmp_path / "home" / "person"
    toolkit = tmp_path / "toolkit"
    for path in (home, toolkit):
        path.mkdir(parents=True)
    environment = {
        "HOME": str(home),
        "LD_LIBRARY_PATH": f"{home}:{tmp_path / 'home'}:relative:{toolkit}",
        "CUDA_HOME": "/",
    }
    found = allowed_for(python(), environment, "linux")
    assert shows(found, toolkit)
    assert not shows(found, home)


@given(st.sets(st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(tuple), max_size=4))
def test_a_folder_split_around_what_is_hidden_allows_all_the_rest(tmp_path_factory, hidden_parts):
    root = tmp_path_factory.mktemp("split")
    leaves = []
    for first in "ab":
        for second in "ab":
            for third in "ab":
                leaf = root / first / second / third
                leaf.mkdir(parents=True)
                leaves.append(leaf)
    hidden = [root.joinpath(*parts) for parts in hidden_parts]
    allowed = [path for _, entries in _around(root, hidden) for path in entries]
    for leaf in leaves:
        is_hidden = any(leaf.is_relative_to(path) for path in hidden)
        assert any(leaf.is_relative_to(path) for path in allowed) != is_hidden
    assert not any(secret.is_relative_to(path) for path in allowed for secret in hidden)
