"""The words of bubblewrap's command line, where their order decides what shows."""

from __future__ import annotations

from pathlib import Path

from autoresearch.sandbox import bubblewrap
from autoresearch.sandbox.allowed import Allowed


def words_for(*read: str) -> list[str]:
    return bubblewrap.arguments(
        bubblewrap.VARIANTS[0],
        Allowed(tuple(map(Path, read)), (), ()),
        trial_dir=Path("/somewhere/trial"),
        cache_dir=Path("/somewhere/cache"),
        warm_cache=None,
        devices=[],
        accelerators=False,
    )


def test_the_temporary_folder_is_the_scratch():
    words = words_for("/usr/lib")
    at = words.index("/tmp")
    assert words[at - 2 : at] == ["--symlink", "/scratch"]


def test_an_installation_below_the_temporary_folder_is_bound_into_one_of_our_own():
    words = words_for("/tmp/lab/.venv", "/usr/lib")
    mounted = words.index("/tmp")
    assert words[mounted - 1] == "--tmpfs"
    assert mounted < words.index("/tmp/lab/.venv")
    assert "--symlink" not in words


def test_the_root_is_closed_last_so_that_nothing_is_written_between_mounts():
    words = words_for("/usr/lib")
    assert words[words.index("--chdir") - 2 : words.index("--chdir")] == ["--remount-ro", "/"]
