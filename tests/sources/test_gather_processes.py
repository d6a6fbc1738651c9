"""Getting a dataset in processes of their own: killed in the middle, and two at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer, Repo
from made_up_text import parquet, stories
from patience import PATIENCE

from autoresearch.contract.corpora import open_corpus

CLIMBMIX = "karpathy/climbmix-400b-shuffle"
# The client writes pieces of 10 MB; with small pieces a small file has a middle.
PROGRAM = (
    "import sys\n"
    "from huggingface_hub import constants\n"
    "constants.DOWNLOAD_CHUNK_SIZE = 1024\n"
    "from autoresearch.cli import main\n"
    "sys.exit(main(['prepare', '--contract', 'smoke', '--dataset', 'climbmix', '--num-shards', '2', *sys.argv[1:]]))\n"
)


@pytest.fixture
def large_hub(hub: HubServer) -> HubServer:
    """Shards of some hundred kilobytes: several times what a process holds back before it writes."""
    files = hub.repos[CLIMBMIX].files
    files.update({f"shard_{n:05d}.parquet": parquet(stories(f"s{n}", 800)) for n in range(2)})
    files["shard_06542.parquet"] = parquet(stories("held", 300))
    return hub


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    """A function that starts a process that prepares climbmix in one cache, in a process group of its own."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            cwd=tmp_path,
            env={**os.environ, "AUTORESEARCH_CACHE": str(tmp_path / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def bytes_of_parts(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.part"))


def wait_until(is_so) -> None:
    """Until it is so, for as long as the test may take."""
    tick = threading.Event()
    while not is_so():
        tick.wait(0.01)


@pytest.mark.slow
def test_a_killed_download_goes_on_where_it_was(large_hub: HubServer, tmp_path: Path, start):
    name = "shard_00001.parquet"
    large_hub.faults[name] = ["hang"]
    process = start("--download-workers", "1")
    assert large_hub.hanging.wait(PATIENCE), process.communicate()
    incoming = tmp_path / "cache" / "climbmix" / "incoming"
    wait_until(lambda: bytes_of_parts(incoming) > 20_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = bytes_of_parts(incoming)
    large_hub.release.set()
    again = start()
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert [first for path, first, _ in large_hub.content if path == name] == [0, have]
    assert f"{name}: going on at" in out
    assert large_hub.downloads() == {name: 2, "shard_00000.parquet": 1, "shard_06542.parquet": 1}
    texts = list(open_corpus("climbmix", tmp_path / "cache").train_documents())
    assert texts == stories("s0", 800) + stories("s1", 800)
    assert not incoming.exists()


@pytest.mark.slow
def test_two_processes_at_once_fetch_each_file_once(large_hub: HubServer, tmp_path: Path, start):
    large_hub.faults["shard_00001.parquet"] = ["hang"]
    first = start()
    assert large_hub.hanging.wait(PATIENCE), first.communicate()
    second = start()
    assert second.stdout is not None
    assert "another process is getting climbmix: waiting for it" in second.stdout.readline()
    large_hub.release.set()
    for process in (first, second):
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert large_hub.downloads()["shard_00000.parquet"] == 1
    assert large_hub.downloads()["shard_06542.parquet"] == 1
    texts = list(open_corpus("climbmix", tmp_path / "cache").train_documents())
    assert texts == stories("s0", 800) + stories("s1", 800)


@pytest.mark.slow
def test_an_interrupted_download_ends_at_once_and_keeps_what_has_come(large_hub: HubServer, tmp_path: Path, start):
    large_hub.faults["shard_00000.parquet"] = ["hang"]
    process = start("--download-workers", "1")
    assert large_hub.hanging.wait(PATIENCE), process.communicate()
    incoming = tmp_path / "cache" / "climbmix" / "incoming"
    wait_until(lambda: bytes_of_parts(incoming) > 20_000)
    process.send_signal(signal.SIGINT)
    large_hub.release.set()  # its next piece is its last
    assert process.wait() == 130
    assert bytes_of_parts(incoming) > 20_000


@pytest.mark.slow
def test_a_failed_download_is_exit_code_1_and_says_what_to_type(hub: HubServer, tmp_path: Path, start):
    hub.repos[CLIMBMIX] = Repo({"README.md": b""})
    process = start()
    _, err = process.communicate()
    assert process.returncode == 1
    assert "shard_06542.parquet" in err
    assert err.splitlines()[-1].strip().startswith("next:")


@pytest.mark.slow
def test_offline_is_exit_code_1_and_names_the_command(hub: HubServer, tmp_path: Path, start, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    process = start()
    _, err = process.communicate()
    assert process.returncode == 1
    assert "HF_HUB_OFFLINE" in err
    assert "autoresearch prepare --contract smoke --dataset climbmix --num-shards 2" in err.splitlines()[-1]
    assert hub.requests == []
