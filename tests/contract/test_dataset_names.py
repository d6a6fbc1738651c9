"""What --dataset may say, and which folder of the cache belongs to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.contract.dataset_names import (
    FilesName,
    HubName,
    KnownName,
    canonical,
    dataset_dir,
    hub_folder,
    parse_dataset,
    prepare_command,
)
from autoresearch.vocabulary import DataMissing, UsageError


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("climbmix", KnownName("climbmix")),
        ("hf:owner/name", HubName("owner/name")),
        ("hf:name", HubName("name")),
        ("hf:o/n:en", HubName("o/n", "en")),
        ("hf:o/n:en:train@v1.0#body text", HubName("o/n", "en", "train", "v1.0", "body text")),
        ("hf:o/n@refs/pr/3", HubName("o/n", revision="refs/pr/3")),
        ("/a/b.jsonl#body", FilesName(Path("/a/b.jsonl"), "body")),
        ("/a/folder", FilesName(Path("/a/folder"))),
    ],
)
def test_names_are_read_and_spelled_again(text, name):
    assert parse_dataset(text) == name
    assert canonical(name) == text


def test_a_relative_path_is_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert parse_dataset("./x.txt") == parse_dataset("x.txt") == FilesName(tmp_path / "x.txt")
    (tmp_path / "a#b.txt").write_text("")
    assert parse_dataset("a#b.txt") == FilesName(tmp_path / "a#b.txt"), "a mark that belongs to a name"


@pytest.mark.parametrize(
    "text", ["hf:", "hf:a/b/c", "hf:../x", "hf:o/n:..", "hf:-o/n", "hf:o/n@../../x", "hf:o/n::x", "hf:o n"]
)
def test_what_is_no_name_of_the_hub_is_refused(text):
    with pytest.raises(UsageError, match="is not hf:owner/name"):
        parse_dataset(text)


def test_an_unknown_word_names_the_known_ones():
    with pytest.raises(
        UsageError, match="unknown dataset 'pile'; known: embedded, climbmix, tinystories, fineweb-edu, wikitext"
    ):
        parse_dataset("pile")


word = st.text("abcAB.-_0", min_size=1, max_size=6).filter(lambda text: text[0] not in ".-" and ".." not in text)
hub_names = st.builds(
    HubName,
    repository=st.builds("{}/{}".format, word, word),
    config=word,
    split=st.none() | word,
    revision=st.none() | word,
    column=st.none() | word,
)


@pytest.mark.slow
@given(one=hub_names, other=hub_names)
def test_different_datasets_of_the_hub_have_different_folders(one: HubName, other: HubName):
    assert parse_dataset(canonical(one)) == one
    assert (hub_folder(one) == hub_folder(other)) == (one == other)
    assert "/" not in hub_folder(one)


@pytest.mark.parametrize("dataset", ["climbmix", "made-up", "hf:o/n", "hf:o/n:en:train@v1"])
def test_a_dataset_lies_directly_in_the_cache(tmp_path: Path, dataset: str):
    assert dataset_dir(dataset, tmp_path).parent == tmp_path


def test_files_that_were_never_prepared_have_no_folder(tmp_path: Path):
    (tmp_path / "x y.txt").write_text("hello")
    with pytest.raises(DataMissing, match="is not prepared") as raised:
        dataset_dir(str(tmp_path / "x y.txt"), tmp_path / "cache")
    assert (
        raised.value.hint
        == prepare_command(str(tmp_path / "x y.txt"))
        == f"autoresearch prepare --dataset '{tmp_path}/x y.txt'"
    )
