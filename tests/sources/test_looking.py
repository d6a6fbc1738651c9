"""Training files that several processes hold against the validation text: the same record as from one."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from hub_server import HubServer
from made_up_text import Heard, parquet, stories

from autoresearch.contract.shard_record import read_record
from autoresearch.sources import looking
from autoresearch.sources.gather import gather
from autoresearch.sources.looking import Looking, SourceFile, worth_processes
from autoresearch.sources.overlap import ValidationIndex
from autoresearch.vocabulary import AutoresearchError, DataMissing

CLIMBMIX = "karpathy/climbmix-400b-shuffle"


def on_two_processes(monkeypatch: pytest.MonkeyPatch, asked: list[int]) -> None:
    """From now on two processes look, whatever the machine; `asked` gets how many files each gather had for them."""

    def several(num_files: int, _num_bytes: int) -> int:
        asked.append(num_files)
        return 2

    monkeypatch.setattr("autoresearch.sources.shelf.worth_processes", several)


def file_of(folder: Path, texts: list[str]) -> SourceFile:
    path = folder / "given.parquet"
    path.write_bytes(parquet(texts))
    return SourceFile(path, path.name, None, ours=False)


@pytest.mark.slow
def test_several_processes_find_what_one_finds(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = hub.repos[CLIMBMIX].files
    held = stories("held", 30)
    files["shard_00001.parquet"] = parquet([*stories("s1", 10), held[3].upper(), "see: " + held[9]])
    one = gather("climbmix", tmp_path / "one", num_shards=3)
    asked: list[int] = []
    on_two_processes(monkeypatch, asked)
    several = gather("climbmix", tmp_path / "several", num_shards=3)
    assert asked == [3]
    assert several.overlap == one.overlap and one.overlap.exact_documents == 1 and one.overlap.ngram_share
    records = [read_record(tmp_path / name / "climbmix") for name in ("several", "one")]
    assert records[0] is not None and records[0] == records[1]
    assert [shard.left_out for shard in records[0].training] == [0, 1, 0]
    looks = [sorted((tmp_path / name / "climbmix" / "overlap").iterdir()) for name in ("several", "one")]
    assert [path.read_bytes() for path in looks[0]] == [path.read_bytes() for path in looks[1]]


@pytest.mark.slow
def test_a_file_that_cannot_be_read_is_named_and_the_others_are_kept(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Heard
):
    on_two_processes(monkeypatch, [])
    hub.repos[CLIMBMIX].files["shard_00001.parquet"] = b"PAR1 and nothing more"
    with pytest.raises(DataMissing, match=r"shard_00001\.parquet"):
        gather("climbmix", tmp_path, num_shards=3, tell=heard)
    record = read_record(tmp_path / "climbmix")
    assert record is not None and sorted(shard.number for shard in record.training) == [0, 2]


@pytest.mark.slow
def test_processes_that_are_ended_say_so_to_whoever_waits(tmp_path: Path):
    with Looking(1, ValidationIndex(stories("held", 5)), None, False) as look:
        assert look(file_of(tmp_path, stories("held", 2))).exact == [0, 1]
        look.stop()
        tick = threading.Event()
        while multiprocessing.active_children():
            tick.wait(0.01)
        with pytest.raises(AutoresearchError, match="ended from outside") as caught:
            look(file_of(tmp_path, stories("held", 2)))
    assert caught.value.hint.startswith("the same command again")
    assert isinstance(caught.value.__cause__, BrokenProcessPool)


def test_little_text_is_not_worth_processes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(looking, "processes_for", lambda num_files, *, memory_bytes: num_files)
    assert worth_processes(8, looking._WORTH_IT_BYTES - 1) == 1
    assert worth_processes(8, looking._WORTH_IT_BYTES) == 8
