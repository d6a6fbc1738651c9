"""Datasets of the Hub, from a hub on loopback that redirects to a content network and misbehaves on demand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hub_server import HubServer, Repo
from made_up_text import Heard, parquet, stories

from autoresearch.contract.corpora import open_corpus, read_documents
from autoresearch.contract.shard_record import read_record
from autoresearch.sources import gather as gathering
from autoresearch.sources.gather import gather
from autoresearch.vocabulary import DataCorrupt, DataMissing, Slice, UsageError

CLIMBMIX = "karpathy/climbmix-400b-shuffle"
TINY = "karpathy/tinystories-gpt4-clean"


def train_texts(dataset: str, root: Path, **more: int) -> list[str]:
    return list(open_corpus(dataset, root, **more).train_documents())


def validation_texts(dataset: str, root: Path) -> list[str]:
    corpus = open_corpus(dataset, root)
    return [text for part in Slice for text in corpus.validation_documents(part)]


def test_climbmix_pins_its_validation_shard_and_trains_on_the_others(
    hub: HubServer, tmp_path: Path, waits: list[float]
):
    found = gather("climbmix", tmp_path, num_shards=2)
    assert train_texts("climbmix", tmp_path) == stories("s0", 30) + stories("s1", 30)
    assert validation_texts("climbmix", tmp_path) == stories("held", 30)
    assert (found.num_shards, found.num_files) == (2, 5)
    assert found.overlap.exact_documents == 0
    assert hub.downloads() == {"shard_00000.parquet": 1, "shard_00001.parquet": 1, "shard_06542.parquet": 1}
    assert hub.tokens_seen_by_content == []


def test_what_is_there_is_used_without_a_word_to_the_network(hub: HubServer, tmp_path: Path):
    gather("climbmix", tmp_path, num_shards=2)
    asked = len(hub.requests)
    assert gather("climbmix", tmp_path).num_shards == 2
    assert gather("climbmix", tmp_path, num_shards=1).num_shards == 1
    assert len(hub.requests) == asked
    assert len(train_texts("climbmix", tmp_path)) == 30


@pytest.mark.slow
def test_more_shards_are_added_to_those_that_are_there_at_the_commit_they_came_from(hub: HubServer, tmp_path: Path):
    gather("climbmix", tmp_path, num_shards=1)
    repo = hub.repos[CLIMBMIX]
    hub.branches[CLIMBMIX, "old"] = Repo(dict(repo.files))
    repo.files["shard_00001.parquet"] = parquet(stories("newer", 30))
    gather("climbmix", tmp_path, num_shards=-1)
    assert hub.downloads()["shard_00000.parquet"] == 1
    assert train_texts("climbmix", tmp_path)[30:60] == stories("s1", 30)
    with pytest.raises(UsageError, match="5 training shards, not 6"):
        gather("climbmix", tmp_path, num_shards=6)


@pytest.mark.parametrize("fault", ["429", "500", "cut", "short", "corrupt"])
def test_a_fault_of_the_server_is_overcome(
    hub: HubServer, tmp_path: Path, waits: list[float], heard: Heard, fault: str
):
    hub.faults["shard_00001.parquet"] = [fault]
    gather("climbmix", tmp_path, num_shards=2, tell=heard)
    assert train_texts("climbmix", tmp_path) == stories("s0", 30) + stories("s1", 30)
    requests = [first for path, first, _ in hub.content if path == "shard_00001.parquet"]
    half = len(hub.repos[CLIMBMIX].files["shard_00001.parquet"]) // 2
    went_on_at = {"cut": half // 512 * 512, "short": half}.get(fault, 0)
    assert requests == [0, went_on_at], "what has come is not asked for again"
    assert waits or fault == "corrupt"
    assert heard.bytes["shard_00001.parquet"] == len(hub.repos[CLIMBMIX].files["shard_00001.parquet"])


def test_the_wait_that_the_server_asks_for_is_kept(hub: HubServer, tmp_path: Path, waits: list[float]):
    hub.faults["api"] = ["429"]
    hub.faults["shard_00000.parquet"] = ["429"]
    gather("climbmix", tmp_path, num_shards=1)
    assert sum(seconds >= 7 for seconds in waits) == 2


@pytest.mark.slow
def test_files_that_cannot_be_got_are_all_named_and_the_others_kept(hub: HubServer, tmp_path: Path, waits: list[float]):
    hub.faults["shard_00001.parquet"] = hub.faults["shard_00003.parquet"] = ["500"] * 50
    with pytest.raises(DataMissing) as raised:
        gather("climbmix", tmp_path, num_shards=5)
    assert "2 of 5 files" in raised.value.message
    assert "shard_00001.parquet" in raised.value.message
    assert "shard_00003.parquet" in raised.value.message
    assert raised.value.hint == "autoresearch prepare --dataset climbmix --num-shards 5"
    hub.faults.clear()
    gather("climbmix", tmp_path, num_shards=5)
    assert hub.downloads()["shard_00004.parquet"] == 1
    assert len(train_texts("climbmix", tmp_path)) == 150


def test_a_server_that_only_serves_damage_is_told_so(hub: HubServer, tmp_path: Path, waits: list[float]):
    hub.faults["shard_06542.parquet"] = ["corrupt"] * 50
    with pytest.raises(DataMissing, match=r"shard_06542\.parquet of .* damaged"):
        gather("climbmix", tmp_path, num_shards=1)
    with pytest.raises(DataMissing):
        open_corpus("climbmix", tmp_path)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def alter_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut_in_half, alter_a_byte, Path.unlink])
@pytest.mark.parametrize("name", ["shard_00001.parquet", "validation.parquet"])
def test_a_damaged_shard_is_named_and_got_again(hub: HubServer, tmp_path: Path, heard: Heard, damage, name: str):
    before = gather("climbmix", tmp_path, num_shards=2)
    damage(tmp_path / "climbmix" / "shards" / name)
    after = gather("climbmix", tmp_path, num_shards=2, tell=heard)
    assert any(name in line and "again" in line for line in heard.lines)
    assert (after.shards, after.validation, after.overlap) == (before.shards, before.validation, before.overlap)
    assert sum(hub.downloads().values()) == 4


def test_documents_that_stand_in_the_validation_text_are_left_out_of_training(
    hub: HubServer, tmp_path: Path, heard: Heard
):
    leak = [stories("held", 30)[3].upper(), "  " + stories("held", 30)[7] + "!"]
    near = "see: " + stories("held", 30)[9]
    files = hub.repos[CLIMBMIX].files
    files["shard_00001.parquet"] = parquet([*stories("s1", 10), *leak, near, *stories("s1b", 10)])
    found = gather("climbmix", tmp_path, num_shards=2, tell=heard)
    assert train_texts("climbmix", tmp_path) == [*stories("s0", 30), *stories("s1", 10), near, *stories("s1b", 10)]
    assert found.overlap.exact_documents == 2
    assert found.overlap.ngram_share == pytest.approx(3 / 30, abs=0.01)
    assert any("shard_00001.parquet: 2 of 23 documents" in line for line in heard.lines)
    assert gather("climbmix", tmp_path).overlap.ngram_share == found.overlap.ngram_share
    assert gather("climbmix", tmp_path, num_shards=1).overlap.exact_documents == 0


def test_tinystories_never_comes_near_the_cache_of_climbmix(hub: HubServer, tmp_path: Path):
    texts = stories("tiny", 300)
    hub.repos[TINY] = Repo({"README.md": b"", "tinystories_gpt4_clean.parquet": parquet(texts)})
    climbmix = gather("climbmix", tmp_path, num_shards=1)
    tiny = gather("tinystories", tmp_path)
    assert gather("climbmix", tmp_path).shards == climbmix.shards
    assert climbmix.directory != tiny.directory
    train, held_out = train_texts("tinystories", tmp_path), validation_texts("tinystories", tmp_path)
    assert sorted(train + held_out) == sorted(texts), "every story is on one side"
    assert 0.15 < len(held_out) / 300 < 0.5
    assert train_texts("climbmix", tmp_path) == stories("s0", 30)


def test_splits_are_never_mixed(hub: HubServer, tmp_path: Path):
    files = {
        "data/train-00000-of-00002.parquet": parquet(stories("t0", 20)),
        "data/train-00001-of-00002.parquet": parquet(stories("t1", 20)),
        "data/validation-00000-of-00001.parquet": parquet(stories("v", 20)),
        "data/test-00000-of-00001.parquet": parquet(stories("test", 20)),
    }
    hub.repos["someone/split"] = Repo(files)
    gather("hf:someone/split", tmp_path)
    assert train_texts("hf:someone/split", tmp_path) == stories("t0", 20) + stories("t1", 20)
    assert validation_texts("hf:someone/split", tmp_path) == stories("v", 20)
    assert "data/test-00000-of-00001.parquet" not in hub.downloads()


def test_wikitext_rows_become_articles(hub: HubServer, tmp_path: Path):
    def lines(name: str, count: int) -> list[str]:
        return [
            line
            for at in range(count)
            for line in (
                "",
                f" = {name} {at} = \n",
                "",
                f" Text of {name} {at} . \n",
                " = = History = = \n",
                "",
                " More . \n",
            )
        ]

    folder = "wikitext-103-raw-v1"
    hub.repos["Salesforce/wikitext"] = Repo(
        {
            f"{folder}/train-00000-of-00001.parquet": parquet(lines("Train", 9)),
            f"{folder}/validation-00000-of-00001.parquet": parquet(lines("Held", 6)),
            "wikitext-2-v1/train-00000-of-00001.parquet": parquet(lines("Other", 3)),
        },
    )
    found = gather("wikitext", tmp_path)
    texts = train_texts("wikitext", tmp_path)
    assert len(texts) == 9
    assert texts[4].startswith(" = Train 4 = \n")
    assert texts[4].endswith(" = = History = = \n\n More . \n\n")
    assert (len(validation_texts("wikitext", tmp_path)), found.overlap.exact_documents) == (6, 0)


def test_another_column_and_another_kind_of_file_are_converted(hub: HubServer, tmp_path: Path):
    rows = [json.dumps({"id": at, "story": text}) for at, text in enumerate(stories("j", 60))]
    hub.repos["someone/lines"] = Repo(
        {"train.jsonl": "\n".join(rows).encode(), "valid.parquet": parquet(stories("jv", 9), column="story")}
    )
    gather("hf:someone/lines", tmp_path)
    assert train_texts("hf:someone/lines", tmp_path) == stories("j", 60)
    assert validation_texts("hf:someone/lines", tmp_path) == stories("jv", 9)


def test_rows_without_text_are_passed_over(hub: HubServer, tmp_path: Path):
    texts = stories("n", 20)
    hub.repos["someone/nulls"] = Repo(
        {"train.parquet": parquet([None, *texts, ""]), "validation.parquet": parquet([*stories("nv", 5), None])}
    )
    gather("hf:someone/nulls", tmp_path)
    assert train_texts("hf:someone/nulls", tmp_path) == texts
    assert len(validation_texts("hf:someone/nulls", tmp_path)) == 5


def test_the_text_column_is_found_or_asked_for(hub: HubServer, tmp_path: Path):
    two = {"title": ["t"] * 40, "body": stories("b", 40), "year": list(range(40))}
    hub.repos["someone/two"] = Repo({"a.parquet": parquet(stories("x", 40), column="headline", **two)})
    with pytest.raises(UsageError, match="headline, title, body") as raised:
        gather("hf:someone/two", tmp_path)
    assert "#headline" in raised.value.hint
    gather("hf:someone/two#body", tmp_path)
    assert set(train_texts("hf:someone/two#body", tmp_path)) < set(stories("b", 40))
    with pytest.raises(UsageError, match="no column 'boddy'"):
        gather("hf:someone/two#boddy", tmp_path)


def test_the_hubs_own_conversion_is_used_where_a_repository_holds_no_data(hub: HubServer, tmp_path: Path):
    hub.repos["someone/script"] = Repo({"script.py": b"print()", "README.md": b""})
    hub.branches["someone/script", "refs/convert/parquet"] = Repo(
        {
            "default/train/0000.parquet": parquet(stories("c", 20)),
            "default/validation/0000.parquet": parquet(stories("d", 9)),
        }
    )
    gather("hf:someone/script", tmp_path)
    assert train_texts("hf:someone/script", tmp_path) == stories("c", 20)
    assert validation_texts("hf:someone/script", tmp_path) == stories("d", 9)


@pytest.mark.slow
def test_two_datasets_fetched_in_turns_and_cut_short_do_not_mix(hub: HubServer, tmp_path: Path, waits: list[float]):
    hub.repos["someone/other"] = Repo(
        {f"shard_{n:05d}.parquet": parquet(stories(f"o{n}", 30)) for n in range(4)}  # the same names as climbmix's
    )
    hub.faults["shard_00002.parquet"] = ["500"] * 10
    for dataset in ("climbmix", "hf:someone/other", "climbmix", "hf:someone/other"):
        try:
            gather(dataset, tmp_path, num_shards=3)
        except DataMissing as error:
            assert "shard_00002.parquet" in error.message
    assert train_texts("climbmix", tmp_path) == [text for n in range(3) for text in stories(f"s{n}", 30)]
    assert train_texts("hf:someone/other", tmp_path) == [text for n in range(3) for text in stories(f"o{n}", 30)]
    assert validation_texts("hf:someone/other", tmp_path) == stories("o3", 30)


@pytest.mark.slow
def test_configurations_and_revisions_of_one_repository_are_datasets_of_their_own(hub: HubServer, tmp_path: Path):
    def config(name: str) -> dict[str, object]:
        return {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/*.parquet"}]}

    def files(mark: str) -> dict[str, bytes]:
        return {f"{c}/{n}.parquet": parquet(stories(f"{mark}{c}{n}", 12)) for c in ("en", "de") for n in (0, 1)}

    hub.repos["someone/both"] = Repo(files("new"), card={"configs": [config("en"), config("de")]})
    hub.branches["someone/both", "v1"] = Repo(files("old"), card={"configs": [config("en"), config("de")]})
    with pytest.raises(UsageError, match="several configurations: en, de"):
        gather("hf:someone/both", tmp_path)
    names = ["hf:someone/both:en", "hf:someone/both:de", "hf:someone/both:en@v1"]
    found = [gather(name, tmp_path) for name in names]
    assert [train_texts(name, tmp_path)[0] for name in names] == [
        stories(seed, 1)[0] for seed in ("newen0", "newde0", "olden0")
    ]
    assert len({gathered.directory for gathered in found}) == 3


def test_a_token_goes_to_the_hub_and_not_to_the_content_network(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hub.repos["someone/private"] = Repo(
        {"train.parquet": parquet(stories("p", 9)), "validation.parquet": parquet(stories("pv", 9))}, token="hf_secret"
    )
    with pytest.raises(DataMissing, match=r"no dataset someone/private at .*, or it is private") as raised:
        gather("hf:someone/private", tmp_path)
    assert "HF_TOKEN" in raised.value.hint
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    gather("hf:someone/private", tmp_path)
    assert train_texts("hf:someone/private", tmp_path) == stories("p", 9)
    assert hub.tokens_seen_by_content == []


def test_a_gated_dataset_says_where_to_accept_its_terms(hub: HubServer, tmp_path: Path):
    hub.repos["someone/gated"] = Repo({"train.parquet": b""}, token="hf_x", gated=True)
    with pytest.raises(DataMissing, match="gated") as raised:
        gather("hf:someone/gated", tmp_path)
    assert f"{hub.hub_address}/datasets/someone/gated" in raised.value.hint


def test_no_such_dataset_revision_or_split(hub: HubServer, tmp_path: Path):
    hub.repos["someone/a"] = Repo({"train.parquet": parquet(stories("a", 9)), "test.parquet": parquet(stories("b", 9))})
    with pytest.raises(DataMissing, match="no dataset someone/absent"):
        gather("hf:someone/absent", tmp_path)
    with pytest.raises(UsageError, match="no such revision"):
        gather("hf:someone/a@v9", tmp_path)
    with pytest.raises(UsageError, match="no split tests; it has test, train"):
        gather("hf:someone/a:default:tests", tmp_path)


def test_as_much_as_fits_is_taken_of_a_dataset_that_nobody_described(
    hub: HubServer, tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
):
    files = {f"part-{n}.parquet": parquet(stories(f"p{n}", 20)) for n in range(6)}
    hub.repos["someone/large"] = Repo(files)
    monkeypatch.setattr(gathering, "DEFAULT_BYTES", 2.5 * len(files["part-0.parquet"]))
    found = gather("hf:someone/large", tmp_path, tell=heard)
    assert (found.num_shards, found.num_files) == (2, 5)
    assert any("--num-shards" in line for line in heard.lines)


def test_without_a_network_it_says_what_is_missing(hub: HubServer, tmp_path: Path, waits: list[float], monkeypatch):
    gather("climbmix", tmp_path, num_shards=2)
    (tmp_path / "climbmix" / "shards" / "shard_00001.parquet").unlink()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(DataMissing) as raised:
        gather("climbmix", tmp_path, num_shards=4)
    assert "climbmix lacks training files 1, 2, 3 of 4" in raised.value.message
    assert "cannot reach http://127.0.0.1:9" in raised.value.message
    assert "autoresearch prepare --dataset climbmix --num-shards 4" in raised.value.hint
    assert train_texts("climbmix", tmp_path, num_shards=1) == stories("s0", 30)


def test_shards_put_there_by_hand_serve_without_a_network(
    hub: HubServer, tmp_path: Path, waits: list[float], monkeypatch
):
    folder = tmp_path / "climbmix" / "given"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("shard_00000.parquet", "shard_00003.parquet"):
        (folder / name).write_bytes(hub.repos[CLIMBMIX].files[name])
    with pytest.raises(DataMissing, match=r"shard_06542\.parquet is missing") as raised:
        gather("climbmix", tmp_path)
    assert str(folder) in raised.value.message
    (folder / "shard_06542.parquet").write_bytes(hub.repos[CLIMBMIX].files["shard_06542.parquet"])
    gather("climbmix", tmp_path)
    assert train_texts("climbmix", tmp_path) == stories("s0", 30) + stories("s3", 30)
    assert validation_texts("climbmix", tmp_path) == stories("held", 30)


def test_a_damaged_shard_put_there_by_hand_is_named_and_stays_where_it_is(
    hub: HubServer, tmp_path: Path, waits, monkeypatch
):
    folder = tmp_path / "climbmix" / "given"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    files = hub.repos[CLIMBMIX].files
    (folder / "shard_00000.parquet").write_bytes(files["shard_00000.parquet"][:-20])
    (folder / "shard_06542.parquet").write_bytes(files["shard_06542.parquet"])
    for _ in range(2):
        with pytest.raises(DataMissing, match=r"shard_00000\.parquet: not a whole parquet file"):
            gather("climbmix", tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.hub_address)
    gather("climbmix", tmp_path, num_shards=1)
    assert train_texts("climbmix", tmp_path) == stories("s0", 30)


def test_a_listing_whose_hashes_are_none_is_refused(hub: HubServer, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("hub_server.git_sha1", lambda data: "../../../../tmp/x")
    with pytest.raises(DataCorrupt, match="the listing has no hash of"):
        gather("climbmix", tmp_path, num_shards=1)


def test_shards_put_there_by_hand_are_checked_and_not_fetched_again(hub: HubServer, tmp_path: Path):
    folder = tmp_path / "climbmix" / "given"
    folder.mkdir(parents=True)
    (folder / "shard_00000.parquet").write_bytes(hub.repos[CLIMBMIX].files["shard_00000.parquet"])
    (folder / "shard_00001.parquet").write_bytes(b"half a shard")
    gather("climbmix", tmp_path, num_shards=2)
    assert hub.downloads() == {"shard_00001.parquet": 1, "shard_06542.parquet": 1}
    assert train_texts("climbmix", tmp_path) == stories("s0", 30) + stories("s1", 30)


@pytest.mark.slow
def test_a_listing_of_many_pages_is_read_to_its_end(hub: HubServer, tmp_path: Path):
    files = {f"shard_{n:05d}.parquet": parquet(stories(f"m{n}", 3, words=3)) for n in range(15)}
    hub.repos["someone/many"] = Repo(files)
    assert gather("hf:someone/many", tmp_path).num_files == 14
    assert any("cursor=12" in path for _, path in hub.requests)


def test_training_shards_hold_no_validation_document(hub: HubServer, tmp_path: Path):
    hub.repos[TINY] = Repo({"t.parquet": parquet(stories("tiny", 200))})
    gather("tinystories", tmp_path)
    held_out = set(validation_texts("tinystories", tmp_path))
    for shard in open_corpus("tinystories", tmp_path).train_shards:
        assert not held_out & set(read_documents(shard))


def test_the_record_beside_the_shards_has_this_form(hub: HubServer, tmp_path: Path):
    files = hub.repos[CLIMBMIX].files
    gather("climbmix", tmp_path, num_shards=1)
    body = json.loads((tmp_path / "climbmix" / "shards.json").read_text())
    sha256 = {
        "v": hashlib.sha256(files["shard_06542.parquet"]).hexdigest(),
        "t": hashlib.sha256(files["shard_00000.parquet"]).hexdigest(),
    }
    assert body == {
        "format": "autoresearch-shards",
        "version": 1,
        "dataset": "climbmix",
        "source": {
            "kind": "hub",
            "repository": "karpathy/climbmix-400b-shuffle",
            "revision": "main",
            "commit": hub.repos[CLIMBMIX].commit,
        },
        "num_files": 5,
        "num_shards": 1,
        "validation": {
            "file": "shards/validation.parquet",
            "bytes": len(files["shard_06542.parquet"]),
            "sha256": sha256["v"],
            "documents": 30,
            "number": None,
            "source": "shard_06542.parquet",
            "source_sha256": sha256["v"],
            "left_out": 0,
        },
        "training": [
            {
                "file": "shards/shard_00000.parquet",
                "bytes": len(files["shard_00000.parquet"]),
                "sha256": sha256["t"],
                "documents": 30,
                "number": 0,
                "source": "shard_00000.parquet",
                "source_sha256": sha256["t"],
                "left_out": 0,
            }
        ],
        "overlap": {
            "exact_documents": 0,
            "ngram_share": 0.0,
            "num_ngrams": 900,
            "num_training_documents": 30,
            "examples": [],
        },
    }
    assert read_record(tmp_path / "climbmix") is not None


def test_a_record_that_is_no_record_is_named(hub: HubServer, tmp_path: Path):
    gather("climbmix", tmp_path, num_shards=1)
    (tmp_path / "climbmix" / "shards.json").write_text('{"format": "autoresearch-shards", "version": 9}')
    with pytest.raises(DataCorrupt, match=r"shards\.json") as raised:
        gather("climbmix", tmp_path, num_shards=1)
    assert "rm -f" in raised.value.hint
