"""A hub on loopback as HF_ENDPOINT, waits that take no time, and datasets made of a few words."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hub_server import HubServer, Repo, hub_server
from made_up_text import Heard, parquet, stories


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The hub that the client meets; `climbmix` is on it, with five training shards."""
    with hub_server() as state:
        shards = {f"shard_{n:05d}.parquet": parquet(stories(f"s{n}", 30)) for n in range(5)}
        shards["shard_06542.parquet"] = parquet(stories("held", 30))
        state.repos["karpathy/climbmix-400b-shuffle"] = Repo({"README.md": b"# ClimbMix\n", **shards})
        monkeypatch.setenv("HF_ENDPOINT", state.hub_address)
        # the client writes pieces of 10 MB, and what is cut short of a piece is lost
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 512)
        # read once, when the client is imported, which another test of this process may have done offline
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield state


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that anyone wanted to sleep; nobody does."""
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


@pytest.fixture
def heard() -> Heard:
    return Heard()
