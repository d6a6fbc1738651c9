"""`autoresearch prepare` with datasets of a hub and files of one's own."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hub_server import HubServer, Repo
from made_up_text import parquet, stories

from autoresearch.cli import main
from autoresearch.cli.downloads import PlainLines, shown_downloads
from autoresearch.contract.prepared import open_prepared
from autoresearch.contract.rules import rules_for
from autoresearch.vocabulary import DataMissing

TINY = "karpathy/tinystories-gpt4-clean"
SMOKE = ["prepare", "--contract", "smoke"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a working folder that is no workspace."""
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def filled_hub(hub: HubServer) -> HubServer:
    """climbmix and tinystories, with text enough for the smoke contract."""
    files = hub.repos["karpathy/climbmix-400b-shuffle"].files
    files.update({f"shard_{n:05d}.parquet": parquet(stories(f"s{n}", 400)) for n in range(2)})
    files["shard_06542.parquet"] = parquet([*stories("held", 299), stories("s0", 400)[7]])
    hub.repos[TINY] = Repo({"tiny.parquet": parquet(stories("tiny", 1200))})
    return hub


@pytest.mark.slow
def test_it_prints_where_text_comes_from_how_much_is_used_and_how_much_of_the_exam_it_holds(
    filled_hub: HubServer, cache: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([*SMOKE, "--dataset", "climbmix", "--num-shards", "2", "--download-workers", "2"]) == 0
    out = capsys.readouterr().out
    commit = filled_hub.repos["karpathy/climbmix-400b-shuffle"].commit[:12]
    assert f"climbmix: karpathy/climbmix-400b-shuffle at commit {commit}, 2 of 5 training shards" in out
    assert "validation: 300 documents of shard_06542.parquet, sha256 " in out
    assert "overlap: 1 training documents equal a validation document and were left out; " in out
    assert "shard_00000.parquet: 0.1 MB" in out
    assert out.rstrip().splitlines()[-1].strip().startswith("in: ")


@pytest.mark.slow
def test_json_is_one_object_and_nothing_else(filled_hub: HubServer, cache: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*SMOKE, "--dataset", "climbmix", "--num-shards", "1", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    body = json.loads(line)
    assert (body["dataset"], body["num_shards"], body["num_files"]) == ("climbmix", 1, 5)
    assert body["source"]["repository"] == "karpathy/climbmix-400b-shuffle"
    assert body["fetched_bytes"] == sum(
        len(filled_hub.repos["karpathy/climbmix-400b-shuffle"].files[f"shard_{name}.parquet"])
        for name in ("00000", "06542")
    )
    assert set(body["overlap"]) == {
        *("exact_documents", "ngram_share", "num_ngrams", "num_training_documents", "examples"),
    }
    assert body["overlap"]["exact_documents"] == 1
    assert main([*SMOKE, "--dataset", "climbmix", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == {**body, "fetched_bytes": 0}


@pytest.mark.slow
def test_two_datasets_prepared_in_turns_keep_their_own_text_and_tokenizer(filled_hub: HubServer, cache: Path):
    rules = rules_for("smoke")
    hashes = []
    for dataset in ("climbmix", "tinystories", "climbmix", "tinystories"):
        assert main([*SMOKE, "--dataset", dataset, *(["--num-shards", "2"] if dataset == "climbmix" else [])]) == 0
        hashes.append(open_prepared(rules, dataset, cache).hashes)
    assert hashes[:2] == hashes[2:]
    for kind in ("corpus", "validation", "tokenizer"):
        assert hashes[0][kind] != hashes[1][kind], kind


@pytest.mark.slow
def test_each_number_of_shards_stays_in_force_under_its_number(filled_hub: HubServer, cache: Path):
    rules = rules_for("smoke")
    for number in ("2", "1"):
        assert main([*SMOKE, "--dataset", "climbmix", "--num-shards", number]) == 0
    one, two = (open_prepared(rules, "climbmix", cache, num_shards=number) for number in (1, 2))
    assert 1.5 < two.num_train_tokens / one.num_train_tokens < 2.5
    assert open_prepared(rules, "climbmix", cache).directory == one.directory
    with pytest.raises(DataMissing) as raised:
        open_prepared(rules, "climbmix", cache, num_shards=3)
    assert raised.value.hint == "autoresearch prepare --contract smoke --dataset climbmix --num-shards 3"


def test_files_of_ones_own_are_opened_by_their_path(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "my text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in stories("own", 1500)))
    assert main([*SMOKE, "--dataset", str(path)]) == 0
    assert f"{path}: {path}, 1 of 1 training shards" in capsys.readouterr().out
    prepared = open_prepared(rules_for("smoke"), str(path), cache)
    assert prepared.directory.parent.name.startswith("files-my-text.jsonl-")
    assert prepared.num_train_tokens > 10_000


@pytest.mark.slow
def test_the_number_of_shards_of_the_embedded_corpus_is_no_choice(cache: Path):
    assert main([*SMOKE, "--num-shards", "3"]) == 0
    assert open_prepared(rules_for("smoke"), "embedded", cache, num_shards=3).num_train_tokens > 10_000


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--dataset", "pile"], 2, "unknown dataset 'pile'"),
        (["--dataset", "hf:nobody/nothing"], 1, "no dataset nobody/nothing"),
        (["--dataset", "climbmix", "--num-shards", "7"], 2, "5 training shards, not 7"),
        (["--num-shards", "0"], 2, "num_shards = 0"),
        (["--dataset", "./absent.txt"], 1, "no file or folder"),
    ],
)
def test_every_failure_has_an_exit_code_and_a_next_step(
    hub: HubServer, cache: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
):
    assert main([*SMOKE, *arguments]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.rstrip().splitlines()[-1].strip().startswith("next: ")
    assert not list(cache.glob("*/prepared-*"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_bars_and_no_name_drives_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with shown_downloads(stream) as tell:
        tell.begin("evil\x1b]0;title\x07[bold]name.parquet", 4_000_000, 1_000_000)
        tell.advance("evil\x1b]0;title\x07[bold]name.parquet", 1_000_000)
        tell.say("a \x1b]0;title\x07line")
        tell.end("evil\x1b]0;title\x07[bold]name.parquet")
    text = stream.getvalue()
    assert "1.0/4.0 MB" in text
    assert "[bold]name.parquet" in text
    assert "\x1b]0;" not in text


def test_elsewhere_each_file_is_one_plain_line():
    stream = io.StringIO()
    lines = PlainLines(stream)
    lines.begin("a.parquet", 2_000_000, 0)
    lines.begin("b.parquet", 2_000_000, 500_000)
    for name, num_bytes in (("a.parquet", 1_000_000), ("a.parquet", 1_000_000), ("b.parquet", 100)):
        lines.advance(name, num_bytes)
    lines.end("a.parquet")
    lines.end("b.parquet")
    assert stream.getvalue().splitlines() == ["b.parquet: going on at 0.5 of 2.0 MB", "a.parquet: 2.0 MB"]
