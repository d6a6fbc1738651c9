"""The embedded corpus: its files, its split, and the script that makes it."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import lzma
import re
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.contract import corpora
from autoresearch.contract.corpora import Corpus, CorpusKind, open_corpus, read_documents, transfer_documents
from autoresearch.vocabulary import DataCorrupt, DataMissing, Slice
from autoresearch_corpus import build

SPEC = find_spec("autoresearch_corpus")
assert SPEC is not None and SPEC.submodule_search_locations
FOLDER = Path(SPEC.submodule_search_locations[0])
MANIFEST: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
NARRATIVE = ("train.parquet", "search.parquet", "confirm.parquet", "certify.parquet")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return open_corpus("embedded", tmp_path_factory.getbasetemp())


# ---- the files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NARRATIVE, "addresses.parquet"])
def test_every_file_is_what_the_manifest_says(name: str) -> None:
    entry, path = MANIFEST["files"][name], FOLDER / name
    documents = list(read_documents(path))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
    assert path.stat().st_size == entry["file_bytes"]
    assert build.text_sha256(documents) == entry["text_sha256"]
    assert len(documents) == entry["documents"]
    assert sum(len(document.encode()) for document in documents) == entry["bytes"]
    assert f"`{entry['sha256']}`" in (FOLDER / "PROVENANCE.md").read_text(encoding="utf-8")


def test_nothing_else_lies_in_the_folder_and_it_stays_small() -> None:
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert {path.name for path in files} == {
        *MANIFEST["files"],
        "__init__.py",
        "build.py",
        "manifest.json",
        "PROVENANCE.md",
    }
    assert sum(path.stat().st_size for path in files) < 3_000_000


def test_the_known_first_lines(corpus: Corpus) -> None:
    train = list(corpus.train_documents())
    assert train[0].startswith(
        "Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition, seemed to unite"
    )
    assert sum(d.startswith("Call me Ishmael. Some years ago—never mind how long precisely—") for d in train) == 1
    assert (
        sum(d.startswith("It is a truth universally acknowledged, that a single man in possession") for d in train) == 1
    )
    search = next(corpus.validation_documents(Slice.SEARCH))
    assert search.startswith("Harriet Smith's intimacy at Hartfield was soon a settled thing.")
    assert next(transfer_documents()).startswith(
        "Gentlemen of the Senate and Gentlemen of the House of Representatives:"
    )


def test_the_text_has_no_headings_and_no_markup_of_the_sources(corpus: Corpus) -> None:
    paragraphs = {p for d in corpus.train_documents() for p in d.split("\n\n")}
    for part in Slice:
        paragraphs |= {p for d in corpus.validation_documents(part) for p in d.split("\n\n")}
    heading = re.compile(r"(chapter ([ivxl]+|\d+)\.?.{0,60}|volume [iv]+|finis|the end|\[.*volume.*\])", re.IGNORECASE)
    assert [p for p in paragraphs if heading.fullmatch(p)] == []
    assert not any("gutenberg" in p.lower() or "  " in p or "\r" in p for p in paragraphs)
    assert any("£20,000" in p for p in paragraphs), "non-ASCII text is kept as it is"
    assert any("\n" in p for p in paragraphs), "verse has its line ends"


# ---- the split -------------------------------------------------------------------------------------------------------


def test_every_chapter_of_every_work_is_in_exactly_one_file() -> None:
    where: dict[tuple[str, int], list[str]] = {}
    for name in NARRATIVE:
        for work, entry in MANIFEST["files"][name]["works"].items():
            for chapter in entry["chapters"]:
                where.setdefault((work, chapter), []).append(name)
    assert all(len(files) == 1 for files in where.values())
    counts = {work: len([key for key in where if key[0] == work]) for work, _ in where}
    assert counts == {
        "Emma": 55,
        "Mansfield Park": 48,
        "Northanger Abbey": 31,
        "Persuasion": 24,
        "Pride and Prejudice": 61,
        "Sense and Sensibility": 50,
        "Moby-Dick": 135,
    }


@pytest.mark.parametrize("name", NARRATIVE[1:])
def test_every_slice_has_chapters_of_all_seven_works_and_enough_text(name: str) -> None:
    entry = MANIFEST["files"][name]
    assert len(entry["works"]) == 7
    assert 230_000 <= entry["bytes"] <= 320_000  # 66,000 tokens at 2.85 bytes each, with a margin
    assert max(work["bytes"] for work in entry["works"].values()) < 0.3 * entry["bytes"]


def test_training_keeps_most_of_the_text_and_the_addresses_are_a_small_share() -> None:
    assert MANIFEST["files"]["train.parquet"]["bytes"] > 4_200_000
    assert 500_000 <= MANIFEST["files"]["addresses.parquet"]["bytes"] <= 800_000
    assert len(MANIFEST["files"]["addresses.parquet"]["works"]) == 16


def test_no_paragraph_of_a_slice_occurs_in_training_or_in_another_slice(corpus: Corpus) -> None:
    long = {
        part: {p for d in corpus.validation_documents(part) for p in d.split("\n\n") if len(p) > build.DUPLICATE_CHARS}
        for part in Slice
    }
    train = {p for d in corpus.train_documents() for p in d.split("\n\n")}
    for part in Slice:
        assert len(long[part]) > 200
        assert not long[part] & train
    for one, other in itertools.combinations(Slice, 2):
        assert not long[one] & long[other]


def test_documents_are_about_two_thousand_characters(corpus: Corpus) -> None:
    sizes = [len(d) for part in Slice for d in corpus.validation_documents(part)]
    sizes += [len(d) for d in corpus.train_documents()] + [len(d) for d in transfer_documents()]
    assert 1_800 < sum(sizes) / len(sizes) < 2_200
    assert max(sizes) < 2 * build.DOCUMENT_CHARS


# ---- opening it ------------------------------------------------------------------------------------------------------


def test_the_corpus_hashes_are_those_of_the_manifest(corpus: Corpus) -> None:
    assert corpus.kind is CorpusKind.EMBEDDED
    digest = hashlib.sha256()
    for name in NARRATIVE:
        digest.update(f"{MANIFEST['files'][name]['sha256']}\n".encode())
    assert corpus.corpus_sha256() == digest.hexdigest()


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's data that a test may damage."""
    folder = tmp_path / "copy"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(corpora, "_embedded_dir", lambda: folder)
    return folder


def test_an_altered_file_of_equal_size_is_found_by_its_hash(copied: Path) -> None:
    path = copied / "search.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    corpus = open_corpus("embedded", copied)
    for ask in (corpus.corpus_sha256, corpus.validation_sha256):
        with pytest.raises(DataCorrupt, match=r"search\.parquet was altered") as raised:
            ask()
        assert "pip install" in raised.value.hint
    with pytest.raises(DataCorrupt, match=r"search\.parquet"):
        list(corpus.validation_documents(Slice.SEARCH))
    corpus.train_sha256()  # the training text is whole


def test_a_truncated_file_is_refused_at_opening(copied: Path) -> None:
    path = copied / "train.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataCorrupt, match=r"train\.parquet has \d+ bytes, expected \d+"):
        open_corpus("embedded", copied)


def test_a_file_that_has_gone_is_missing(copied: Path) -> None:
    (copied / "certify.parquet").unlink()
    with pytest.raises(DataMissing, match=r"certify\.parquet"):
        open_corpus("embedded", copied)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}', '{"format": 1, "files": {}}'])
def test_a_broken_manifest_is_corrupt(copied: Path, content: str) -> None:
    (copied / "manifest.json").write_text(content)
    with pytest.raises(DataCorrupt, match=r"manifest\.json"):
        open_corpus("embedded", copied)


def test_an_installation_without_the_package_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(corpora, "find_spec", lambda name: None)
    with pytest.raises(DataMissing, match="autoresearch_corpus is not installed") as raised:
        open_corpus("embedded", tmp_path)
    assert "pip install" in raised.value.hint
    with pytest.raises(DataMissing):
        next(transfer_documents())


# ---- the script: R's format ------------------------------------------------------------------------------------------

HEADER = b"X\n" + struct.pack(">iii", 2, 0x040201, 0x020300)
NIL = struct.pack(">i", 0xFE)


def r_chars(text: str | None, *, latin1: bool = False) -> bytes:
    if text is None:
        return struct.pack(">ii", 9, -1)
    data = text.encode("latin-1" if latin1 else "utf-8")
    return struct.pack(">ii", 9 | (4 if latin1 else 8) << 12, len(data)) + data


def r_strings(*texts: str | None, flags: int = 0) -> bytes:
    return struct.pack(">ii", 16 | flags, len(texts)) + b"".join(map(r_chars, texts))


def r_integers(*values: int) -> bytes:
    return struct.pack(f">ii{len(values)}i", 13, len(values), *values)


def r_named_list(symbol: bytes, **values: bytes) -> bytes:
    names = struct.pack(">i", 2 | 0x400) + symbol + r_strings(*values) + NIL
    return struct.pack(">ii", 19 | 0x200, len(values)) + b"".join(values.values()) + names


R_NAMES = struct.pack(">i", 1) + r_chars("names")
R_FIRST_SYMBOL = struct.pack(">i", 0xFF | 1 << 8)  # a reference to the first symbol of the stream


def test_strings_with_na_and_both_encodings_are_decoded() -> None:
    body = struct.pack(">ii", 16, 3) + r_chars("£ — é") + r_chars(None) + r_chars("é", latin1=True)
    assert build.RReader(HEADER + body).read() == ["£ — é", None, "é"]


def test_version_3_names_its_encoding_and_a_repeated_symbol_is_a_reference() -> None:
    first, second = r_named_list(R_NAMES, y=NIL), r_named_list(R_FIRST_SYMBOL, x=r_integers(-1, 7))
    body = struct.pack(">ii", 19, 2) + first + second
    header = b"X\n" + struct.pack(">iii", 3, 0, 0) + struct.pack(">i", 5) + b"UTF-8"
    assert build.RReader(header + body).read() == [{"y": None}, {"x": [-1, 7]}]


@pytest.mark.parametrize("data", [b"RDX3", HEADER[:-1], HEADER + r_strings("abc")[:-1], HEADER + struct.pack(">i", 3)])
def test_another_format_or_a_cut_one_is_an_error_and_not_a_guess(data: bytes) -> None:
    with pytest.raises(ValueError):
        build.RReader(data).read()


def xz_blob(plain: bytes) -> bytes:
    return b"Z" + lzma.compress(plain, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])


@pytest.mark.parametrize("pack", [zlib.compress, xz_blob, lambda plain: b"0" + plain], ids=["zlib", "xz", "plain"])
def test_a_lazy_load_database_gives_its_objects_by_name(pack: Callable[[bytes], bytes]) -> None:
    plain = HEADER + r_strings("line one", "line two")
    blob = struct.pack(">I", len(plain)) + pack(plain)
    # the inner list is read first, so it spells its symbol and the outer one refers to it
    inner = r_named_list(R_NAMES, book=r_integers(3, len(blob)))
    index = HEADER + r_named_list(R_FIRST_SYMBOL, variables=inner)
    assert build.decode_r_database(gzip.compress(index), b"???" + blob) == {"book": ["line one", "line two"]}


def test_a_debian_package_gives_the_files_asked_for() -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        entry = tarfile.TarInfo("./usr/x.txt")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"whale"))
    deb = b"!<arch>\n"
    for name, body in (("debian-binary", b"2.0\n\n"[:5]), ("data.tar.xz", data.getvalue())):
        deb += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
    assert build.deb_members(deb, ["usr/x.txt"]) == {"usr/x.txt": b"whale"}


# ---- the script: cleaning, dealing, cutting --------------------------------------------------------------------------


def test_a_novel_is_cut_at_its_headings_and_loses_its_boilerplate() -> None:
    lines = [
        "EMMA",
        "",
        "CHAPTER I",
        "",
        "A line",
        "and its  end.",
        "",
        "VOLUME II",
        "",
        "Chapter 2",
        "Two.",
        "",
        "FINIS",
    ]
    assert build.austen_chapters("Emma", [*lines, "A NOTE ON THE TEXT", "never"]) == [
        build.Chapter("Emma", 1, ("A line and its end.",)),
        build.Chapter("Emma", 2, ("Two.",)),
    ]


def test_verse_of_the_whale_gets_its_line_ends_back() -> None:
    text = "CHAPTER 9. The Sermon.\n\nHe sang:\n\n     The ribs and terrors     Arched  over me\n"
    assert build.moby_dick_chapter(9, text).paragraphs == ("He sang:", "The ribs and terrors\nArched over me")
    with pytest.raises(ValueError, match="chapter 8 begins with"):
        build.moby_dick_chapter(8, text)


def test_chapters_are_dealt_by_the_written_rule() -> None:
    parts = [build.part_of(number) for number in range(1, 28)]
    assert [i for i, part in enumerate(parts, 1) if part != "train"] == [4, 10, 16, 22]
    assert [part for part in parts if part != "train"] == ["search", "confirm", "certify", "search"]


def test_the_manifest_follows_the_written_rule() -> None:
    for name in NARRATIVE:
        for entry in MANIFEST["files"][name]["works"].values():
            assert {f"{build.part_of(number)}.parquet" for number in entry["chapters"]} == {name}


def test_a_training_paragraph_that_holds_validation_text_is_dropped_and_reported() -> None:
    quoted, short = "q" * 81, "s" * 80
    train = [build.Chapter("w", 1, ("kept", f"he said: {quoted}!", short))]
    held_out = [build.Chapter("w", 4, (quoted, short))]
    kept, dropped = build.without_repeats(train, held_out)
    assert kept == [build.Chapter("w", 1, ("kept", short))]
    assert dropped == [f"he said: {quoted}!"]


sentences = st.text(alphabet="abc", min_size=1, max_size=300).map(lambda s: s.capitalize() + ".")
paragraphs = st.lists(sentences, min_size=1, max_size=30).map(" ".join)


@pytest.mark.slow
@given(st.lists(paragraphs, min_size=1, max_size=30))
def test_documents_hold_the_chapter_exactly_once_and_are_never_empty(chapter: list[str]) -> None:
    documents = build.documents_of(build.Chapter("w", 1, tuple(chapter)))
    assert "".join("".join(documents).split()) == "".join("".join(chapter).split())
    assert all(documents)
    whole = "\n\n".join(chapter)
    assert all(document in whole for document in documents)
    # an even share is at most 2,500 of 2,000 characters, and half a paragraph may hang over at either end
    assert max(map(len, documents)) <= 2.25 * build.DOCUMENT_CHARS + 2


@given(paragraphs)
def test_sentences_joined_by_spaces_give_the_paragraph_back(paragraph: str) -> None:
    assert " ".join(build.sentences_of(paragraph)) == paragraph


def test_a_title_does_not_end_a_sentence() -> None:
    text = 'Mr. Knightley came. "Indeed!" Mrs. Weston was glad. She smiled.'
    assert build.sentences_of(text) == ["Mr. Knightley came.", '"Indeed!"', "Mrs. Weston was glad.", "She smiled."]


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    documents = [f"document {i} — é" for i in range(1_200)]
    for name in ("a", "b"):
        build.write_parquet(tmp_path / name, documents)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert list(read_documents(tmp_path / "a")) == documents


def test_the_file_table_is_rewritten_between_its_markers() -> None:
    provenance = (FOLDER / "PROVENANCE.md").read_text(encoding="utf-8")
    assert build.with_file_table(provenance, MANIFEST["files"]) == provenance
    with pytest.raises(SystemExit, match="lost its markers"):
        build.with_file_table("nothing here", MANIFEST["files"])
