"""Statistics of a corpus: each number is what a plain count of the same documents gives."""

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from autoresearch.contract.prepared import Prepared
from autoresearch.contract.token_shards import write_token_shard
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.contract.tokenizing import NAME_LENGTH
from autoresearch.report import corpus_statistics as module
from autoresearch.report.corpus import corpus_picture, corpus_text, save_corpus_picture
from autoresearch.report.corpus_statistics import CorpusStatistics, Speed, statistics_of

BYTES = Tokenizer([bytes([value]) for value in range(256)])
WORDS = ["ship", "sea", "whale", "captain", "harpoon", "storm", "island", "rope", "sail", "night", "deck", "boat"]


def prepared_of(home: Path, *shards: Sequence[str], row_len: int = 64, names: Sequence[str] = ()) -> Prepared:
    """Prepared data of these documents, one token a byte, without a validation text."""
    folder = home / "tokens" / BYTES.sha256[:NAME_LENGTH]
    folder.mkdir(parents=True)
    (home / "prepared-1").mkdir()
    (home / "prepared-1" / "tokenizer.json").write_text(BYTES.to_json())
    entries = []
    for number, texts in enumerate(shards):
        digest = f"{number:064x}"[::-1]
        shard = write_token_shard(folder, digest[:NAME_LENGTH], map(BYTES.encode_array, texts), np.uint16)
        facts = {path.name: {"bytes": 0, "sha256": ""} for path in (shard.tokens_path, shard.offsets_path)}
        entries.append(
            {
                "text": names[number] if names else f"shard_{number}.parquet",
                "text_sha256": digest,
                "num_documents": shard.num_documents,
                "num_tokens": shard.num_tokens,
                "num_bytes": sum(len(text.encode()) for text in texts),
                "files": facts,
            }
        )
    counts = {
        f"train_{unit}": sum(entry[f"num_{unit}"] for entry in entries) for unit in ("documents", "tokens", "bytes")
    }
    manifest = {
        **{"dataset": "toy", "preset": "tiny", "vocab_size": 260, "max_seq_len": row_len - 1},
        **{"counts": counts, "shards": entries, "hashes": {"tokenizer": BYTES.sha256}, "files": {}},
        "command": "autoresearch prepare",
    }
    return Prepared(home / "prepared-1", manifest)


def texts_of(lengths: Sequence[int]) -> list[str]:
    """Texts of these lengths that have nothing in common."""
    rng = np.random.default_rng(0)
    return ["".join(chr(97 + letter) for letter in rng.integers(0, 26, length)) for length in lengths]


@pytest.mark.slow
def test_documents_tokens_and_bytes_are_counted_by_shard_and_in_all(tmp_path: Path) -> None:
    found = statistics_of(prepared_of(tmp_path, ["one", "two two"], ["θάλασσα"]), time_budget=20)
    assert [(shard.name, shard.num_documents, shard.num_tokens) for shard in found.shards] == [
        ("shard_0.parquet", 2, 10),
        ("shard_1.parquet", 1, 14),
    ]
    assert (found.num_documents, found.num_tokens, found.num_bytes, found.bytes_per_token) == (3, 24, 24, 1.0)


def test_lengths_are_those_of_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EXACT_LENGTHS", 64)  # longer ones are counted by powers of two
    lengths = [1, 2, 3, 4, 63, 64, 65, 127, 128, 300]
    found = statistics_of(prepared_of(tmp_path, texts_of(lengths[:5]), texts_of(lengths[5:])), time_budget=20).lengths
    assert found.mean == sum(lengths) / 10
    assert (found.median, found.longest, found.over_a_row) == (63, 300, 0.5)  # 64 tokens and BOS do not fit 64 places
    assert {(one.shortest, one.longest): one.num_documents for one in found.bins if one.num_documents} == {
        (1, 1): 1,
        (2, 3): 2,
        (4, 7): 1,
        (32, 63): 1,
        (64, 127): 3,
        (128, 255): 1,
        (256, 511): 1,
    }


def test_quantiles_are_lengths_that_so_many_documents_do_not_exceed(tmp_path: Path) -> None:
    found = statistics_of(prepared_of(tmp_path, texts_of(range(1, 101))), time_budget=20).lengths
    assert (found.median, found.p90, found.p99, found.longest) == (50, 90, 99, 100)


@pytest.mark.parametrize("at_once", [1, 3, 1 << 22])
def test_equal_documents_are_counted_whatever_shard_they_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(module, "_HASHES_AT_ONCE", at_once)
    prepared = prepared_of(tmp_path, ["same", "other", "same"], ["same", "Same", "another", "other"])
    found = statistics_of(prepared, time_budget=20).duplicates
    assert (found.exact_documents, found.exact_tokens) == (3, len("same") * 2 + len("other"))


@pytest.mark.slow
def test_nearly_equal_documents_are_found_in_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, 300)) for _ in range(6)]
    prepared = prepared_of(tmp_path, texts, [texts[2] + " and so on", texts[4] + " amen"])
    found = statistics_of(prepared, time_budget=20).duplicates
    assert (found.exact_documents, found.near_sample, found.near_documents) == (0, 8, 2)
    monkeypatch.setattr(module, "NEAR_SAMPLE", 2)  # the first and the last
    found = statistics_of(prepared, time_budget=20).duplicates
    assert (found.near_sample, found.near_documents) == (2, 0)


def scanned_crop(lengths: Sequence[int], num_documents: int, row_len: int) -> float:
    """The published rule as a scan over a list: what `_published_crop` does with a sorted one."""
    endless = iter(list(lengths) * 50)
    buffer = [next(endless) + 1 for _ in range(module.BUFFER_SIZE)]
    space, placed, lost = row_len, 0, 0
    for _ in range(num_documents):
        fitting = [length for length in buffer if length <= space]
        chosen = max(fitting) if fitting else min(buffer)
        buffer.remove(chosen)
        placed, lost = placed + min(chosen, space), lost + max(0, chosen - space)
        space = space - min(chosen, space) or row_len
        buffer.append(next(endless) + 1)
    return lost / (placed + lost)


def test_the_published_loader_crops_what_a_plain_scan_crops_and_ours_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUFFER_SIZE", 20)
    lengths = np.random.default_rng(2).lognormal(3.5, 1.0, 300).astype(int).clip(1).tolist()
    found = statistics_of(prepared_of(tmp_path, texts_of(lengths)), time_budget=20).packing
    assert found.published_cropped == pytest.approx(scanned_crop(lengths, 300, 64))
    assert found.published_cropped > 0.05
    assert found.cropped == 0
    assert (found.row_len, found.num_documents) == (64, 300)


def test_documents_that_fit_exactly_are_cropped_by_nobody(tmp_path: Path) -> None:
    found = statistics_of(prepared_of(tmp_path, texts_of([63] * 40)), time_budget=20)
    assert (found.packing.published_cropped, found.packing.cropped, found.packing.bos) == (0, 0, 1 / 64)
    assert (found.epoch.num_rows, found.epoch.num_tokens) == (40, 40 * 63)


def test_the_time_to_exhaust_an_epoch_is_its_tokens_over_the_speed_or_unknown(tmp_path: Path) -> None:
    prepared = prepared_of(tmp_path, texts_of([63] * 40))
    measured = statistics_of(prepared, time_budget=20, speed=Speed(126.0, "session nov21, experiment 7")).epoch
    assert (measured.seconds, measured.per_budget, measured.tok_sec) == (20.0, 1.0, 126.0)
    unknown = statistics_of(prepared, time_budget=20).epoch
    assert (unknown.seconds, unknown.per_budget, unknown.tok_sec, unknown.speed_from) == (None, None, None, None)


@pytest.fixture
def found(tmp_path: Path) -> CorpusStatistics:
    prepared = prepared_of(tmp_path, texts_of(range(1, 200)), texts_of([70] * 20), names=["a.parquet", "<b>\x1b[2J&"])
    return statistics_of(prepared, time_budget=20, speed=Speed(1000.0, "session nov21, experiment 7"))


def test_the_json_has_these_keys_and_no_other(found: CorpusStatistics) -> None:
    body = json.loads(json.dumps(found.as_json()))
    assert list(body) == [
        *("dataset", "contract", "vocab_size", "num_documents", "num_tokens", "num_bytes", "shards", "lengths"),
        *("duplicates", "packing", "epoch", "bytes_per_token"),
    ]
    assert list(body["shards"][0]) == ["name", "num_documents", "num_tokens", "num_bytes", "bytes_per_token"]
    assert list(body["lengths"]) == ["mean", "median", "p90", "p99", "longest", "over_a_row", "bins"]
    assert list(body["lengths"]["bins"][0]) == ["shortest", "longest", "num_documents"]
    assert list(body["duplicates"]) == ["exact_documents", "exact_tokens", "near_sample", "near_documents"]
    assert list(body["packing"]) == ["row_len", "num_documents", "cropped", "published_cropped", "bos"]
    assert list(body["epoch"]) == ["num_rows", "num_tokens", "tok_sec", "speed_from", "seconds", "per_budget"]


def test_the_page_fits_its_width_and_says_every_number(found: CorpusStatistics) -> None:
    page = corpus_text(found, width=110)
    assert max(map(len, page.splitlines())) <= 110
    assert "\x1b" not in page
    for words in (
        "219 documents, 21,300 tokens, 21,300 bytes of text: 1.00 bytes a token",
        "64 to 127   38.4%  ████████████████████████████████████████",
        f"cropped by packing: 0.00% of the tokens, by the published best-fit loader {found.packing.published_cropped:.2%}",
        "at 1.0k tokens/s (session nov21, experiment 7)",
        "a.parquet",
    ):
        assert words in page
    assert corpus_text(found, width=60).count("\n") == page.count("\n")


@pytest.mark.slow
def test_of_many_shards_the_page_shows_the_first_and_the_last(tmp_path: Path) -> None:
    prepared = prepared_of(tmp_path, *[[f"text {number}"] for number in range(30)])
    page = corpus_text(statistics_of(prepared, time_budget=20))
    assert "shard_5.parquet" in page and "shard_24.parquet" in page and "shard_12.parquet" not in page
    assert "… 18 more, in --json …" in page


def test_the_picture_is_well_formed_with_a_bar_for_each_bin_and_each_packer(
    tmp_path: Path, found: CorpusStatistics
) -> None:
    path = save_corpus_picture(found, tmp_path / "picture.svg")
    assert path.read_text() == corpus_picture(found)
    root = ElementTree.parse(path).getroot()
    space = "{http://www.w3.org/2000/svg}"
    titles = [title.text for title in root.iter(f"{space}title")]
    assert len(titles) == len(found.lengths.bins) + 4
    assert "64 to 127 tokens: 84 documents" in titles
    assert f"published best fit: {found.packing.published_cropped:.2%}" in titles
    text = " ".join(element.text or "" for element in root.iter(f"{space}text"))
    assert "toy: documents by length in tokens" in text
    assert "time to exhaust it: 21s" in text
