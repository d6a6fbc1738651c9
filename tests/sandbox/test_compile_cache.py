"""Warm caches: linked without copying, filled by trusted baselines only, and out of a candidate's reach."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePath

import pytest
from cells import EVERY, SEALING, Started, run_script, seal_of
from patience import PATIENCE

from autoresearch.sandbox import compile_cache
from autoresearch.sandbox.cell import Cell
from autoresearch.sandbox.compile_cache import harvest, link_warm
from autoresearch.sandbox.seal import Kind, Seal


@pytest.fixture
def warm(tmp_path):
    """A warm cache with two entries."""
    folder = tmp_path / "warm"
    for name, text in (("inductor/ab/cab.so", "machine code"), ("triton/key/kernel.json", "{}")):
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_private_cache_starts_as_links_in_folders_of_its_own(tmp_path, warm):
    private = tmp_path / "private"
    private.mkdir()
    assert link_warm(private, warm, PurePath("/warm")) == 2
    link = private / "inductor" / "ab" / "cab.so"
    assert link.is_symlink()
    assert str(link.readlink()) == "/warm/inductor/ab/cab.so"
    assert (private / "inductor" / "ab").is_dir() and not (private / "inductor" / "ab").is_symlink()


def test_a_warm_cache_that_is_not_there_is_an_empty_one(tmp_path):
    cell = Cell(Seal(Kind.NONE), tmp_path, accelerators=False, threads=1, warm_cache=tmp_path / "nowhere")
    assert list(cell.cache_dir.rglob("*")) == []


def test_links_lead_where_the_candidate_sees_the_cache(tmp_path, warm):
    wrapped = Cell(Seal(Kind.BUBBLEWRAP), tmp_path / "a", accelerators=False, threads=1, warm_cache=warm)
    assert str((wrapped.cache_dir / "triton" / "key" / "kernel.json").readlink()) == "/warm/triton/key/kernel.json"
    plain = Cell(Seal(Kind.LANDLOCK), tmp_path / "b", accelerators=False, threads=1, warm_cache=warm)
    assert (plain.cache_dir / "triton" / "key" / "kernel.json").read_text() == "{}"


def test_what_a_baseline_compiled_is_moved_and_made_read_only(tmp_path):
    private, warm = tmp_path / "private", tmp_path / "warm"
    entry = private / "inductor" / "ab" / "cab.so"
    entry.parent.mkdir(parents=True)
    entry.write_text("machine code")
    assert harvest(private, warm) == 1
    assert contents(warm) == {"inductor/ab/cab.so": "machine code"}
    assert not stat.S_IMODE((warm / "inductor" / "ab" / "cab.so").stat().st_mode) & 0o222
    assert not entry.exists()


def test_links_devices_locks_and_other_folders_are_never_moved(tmp_path, warm):
    private = tmp_path / "private"
    private.mkdir()
    link_warm(private, warm, warm)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    (private / "inductor" / "away").symlink_to(outside)
    os.mkfifo(private / "inductor" / "pipe")
    (private / "inductor" / "a.lock").write_text("")
    (private / "elsewhere").mkdir()
    (private / "elsewhere" / "file").write_text("x")
    before = contents(warm)
    assert harvest(private, warm) == 0
    assert contents(warm) == before


def test_a_cache_folder_that_is_a_link_is_not_entered(tmp_path):
    private, outside = tmp_path / "private", tmp_path / "outside"
    private.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("x")
    (private / "triton").symlink_to(outside)
    assert harvest(private, tmp_path / "warm") == 0
    assert (outside / "secret").exists()


def test_what_is_warm_already_is_not_replaced(tmp_path, warm):
    private = tmp_path / "private"
    (private / "inductor" / "ab").mkdir(parents=True)
    (private / "inductor" / "ab" / "cab.so").write_text("other code")
    assert harvest(private, warm) == 0
    assert contents(warm)["inductor/ab/cab.so"] == "machine code"


def test_a_full_cache_takes_only_what_fits(tmp_path, warm, monkeypatch):
    monkeypatch.setattr(compile_cache, "MAX_WARM_MB", 20 / 2**20)
    private = tmp_path / "private"
    (private / "triton").mkdir(parents=True)
    (private / "triton" / "large").write_bytes(bytes(7))
    (private / "triton" / "small").write_bytes(bytes(6))
    assert harvest(private, warm) == 1
    assert "triton/small" in contents(warm)


def test_a_kill_in_the_middle_leaves_no_half_file_to_be_linked(tmp_path, warm, monkeypatch):
    private = tmp_path / "private"
    (private / "inductor").mkdir(parents=True)
    (private / "inductor" / "new.so").write_text("machine code")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compile_cache.os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        harvest(private, warm)
    monkeypatch.undo()
    assert len(contents(warm)) == 3
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert link_warm(fresh, warm, warm) == 2
    assert harvest(private, warm) == 1
    assert len(contents(warm)) == 3
    assert "inductor/new.so" in contents(warm)


VANDAL = """
folder = os.path.join(os.environ["TORCHINDUCTOR_CACHE_DIR"], "ab")
say("read=" + open(folder + "/cab.so").read().replace(" ", "_"))
target = os.readlink(folder + "/cab.so")
for act in (
    lambda: open(folder + "/cab.so", "w").write("poison"),
    lambda: open(target, "a").write("poison"),
    lambda: os.unlink(target),
    lambda: os.chmod(target, 0o777),
    lambda: open(os.path.dirname(target) + "/new.so", "w").write("poison"),
    lambda: os.rename(target, target + "2"),
):
    try:
        act()
        say("did=it")
    except OSError:
        say("refused")
open(folder + "/other.so", "w").write("mine")
open(folder + "/next", "w").write("mine")
os.replace(folder + "/next", folder + "/cab.so")
say("replaced=" + open(folder + "/cab.so").read())
"""


@pytest.mark.parametrize("kind", SEALING)
def test_a_candidate_reads_replaces_and_adds_to_its_own_cache_and_changes_nothing_in_the_warm_one(tmp_path, warm, kind):
    seal_of(kind)
    before = contents(warm)
    modes = {path: path.stat().st_mode for path in warm.rglob("*")}
    code, said = run_script(kind, VANDAL, tmp_path / "cell", warm_cache=warm)
    words = said.split()
    assert code == 0, said
    assert "read=machine_code" in words
    assert "replaced=mine" in words
    assert contents(warm) == before
    assert {path: path.stat().st_mode for path in warm.rglob("*")} == modes
    # under Landlock a change of modes is answered with success, and is not made
    assert words.count("refused") == (6 if kind == "bubblewrap" else 5)


COMPILES = """
import torch
from torch._dynamo.utils import counters
compiled = torch.compile(lambda x: (x.sin() + x.cos() * 2).relu().sum())
compiled(torch.ones(1000))
say(f"hits={counters['inductor']['fxgraph_cache_hit']}")
say(f"misses={counters['inductor']['fxgraph_cache_miss']}")
"""


def machine_code(cell: Cell) -> list[Path]:
    return [path for path in cell.cache_dir.rglob("*.so") if path.is_file() and not path.is_symlink()]


@pytest.mark.parametrize("kind", [EVERY[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in EVERY[1:])])
def test_a_second_candidate_compiles_nothing_that_a_baseline_compiled(tmp_path, kind):
    pytest.importorskip("torch")
    warm = tmp_path / "warm"
    warm.mkdir()
    for number, expected in enumerate((["hits=0", "misses=1"], ["hits=1", "misses=0"])):
        started = Started(kind, COMPILES, tmp_path / str(number), warm_cache=warm)
        code = started.tree.wait(PATIENCE)
        started.end()
        said = started.log.read_text()
        assert code == 0, said
        assert set(expected) <= set(said.split()), said
        if number == 0:
            assert machine_code(started.cell)
            assert harvest(started.cell.cache_dir, warm) > 0
        else:
            assert machine_code(started.cell) == []
