"""Speed and memory of preparation (text shards into token shards) beside the published loader's way, in one run.

    python benchmarks/tokenizing.py [--shards 4] [--megabytes 20] [--rounds 3]

Text: synthetic, words of syllables by Zipf's law over 100,000 of them, log-normal lengths (median 450 words), parquet with
row groups of 1,024 documents. Vocabulary 8192, trained on the first shard. Every way reads the parquet files itself and
runs in a process of its own, so that its memory is its own:

    one, two     `tokenize_shards` with that many processes, to files with hashes
    reference    our own plain writing of the published loader's way: 128 documents at a time through tiktoken's
                 encode_ordinary_batch with 8 threads into Python lists, BOS in front of each; nothing is written

Rounds are interleaved; the best of each counts. Prints one JSON object: tokens a second of wall time and of CPU time,
and the memory peak of the largest process (MB). Also what training the tokenizer took.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from autoresearch.contract.corpora import read_documents
from autoresearch.contract.file_facts import file_sha256
from autoresearch.contract.tokenizer import Tokenizer, train_tokenizer
from autoresearch.contract.tokenizing import TextShard, tokenize_shards

VOCAB_SIZE = 8192
NUM_WORDS = 100_000


class Shards:
    """Reads what this benchmark wrote."""

    def shard_documents(self, shard: Path) -> Iterator[str]:
        """The documents of one file."""
        return read_documents(shard)


def write_shards(folder: Path, num_shards: int, megabytes: float) -> None:
    """The synthetic corpus."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    ends = ("", "n", "r", "s")
    syllables = [a + b + c for a in "bcdfghlmnprstvw" for b in "aeiou" for c in ends]
    words = np.array(["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(NUM_WORDS)])
    cumulated = np.cumsum(1 / np.arange(10, NUM_WORDS + 10))
    cumulated /= cumulated[-1]
    for number in range(num_shards):
        texts, size = [], 0
        while size < megabytes * 1e6:
            length = max(8, int(rng.lognormal(np.log(450), 1.0)))
            chosen = words[np.searchsorted(cumulated, rng.random(length))]
            texts.append(". ".join(" ".join(chosen[start : start + 12]) for start in range(0, length, 12)))
            size += len(texts[-1])
        pq.write_table(pa.table({"text": texts}), folder / f"shard_{number:05d}.parquet", row_group_size=1024)


def ours(folder: Path, num_processes: int) -> int:
    """Tokens written."""
    target = folder / f"tokens-{num_processes}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    shutil.copy(folder / "tokenizer.json", target)
    shards = [TextShard(path, file_sha256(path)) for path in sorted(folder.glob("*.parquet"))]
    return sum(facts.num_tokens for _, facts in tokenize_shards(target, Shards(), shards, num_processes))


def reference(folder: Path) -> int:
    """Tokens made, without BOS."""
    tokenizer = Tokenizer.from_directory(folder)
    bos, encoding = tokenizer.get_bos_token_id(), tokenizer._encoding
    num_tokens = 0
    for path in sorted(folder.glob("*.parquet")):
        documents = read_documents(path)
        while texts := list(islice(documents, 128)):
            lists = encoding.encode_ordinary_batch(texts, num_threads=8)
            for tokens in lists:
                tokens.insert(0, bos)
            num_tokens += sum(map(len, lists)) - len(lists)
    return num_tokens


def train(folder: Path) -> int:
    """Characters that the tokenizer was trained on."""
    texts = list(read_documents(folder / "shard_00000.parquet"))
    (folder / "tokenizer.json").write_text(train_tokenizer(iter(texts), VOCAB_SIZE).to_json())
    return sum(map(len, texts))


def measured(work: Callable[..., int], *arguments: object) -> dict[str, float]:
    """Run it in a new process: what it counted, wall and CPU seconds, peak memory of the largest process in MB."""
    context = get_context("spawn")
    theirs, ours_end = context.Pipe()
    process = context.Process(target=_report, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    found: dict[str, float] = ours_end.recv()
    process.join()
    return found


def _report(connection: Connection, work: Callable[..., int], arguments: tuple[object, ...]) -> None:
    start = time.perf_counter()
    counted = work(*arguments)
    wall = time.perf_counter() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    connection.send(
        {
            "counted": counted,
            "wall": wall,
            "cpu": sum(one.ru_utime + one.ru_stime for one in used),
            "peak_mb": max(one.ru_maxrss for one in used) / unit,
        }
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--megabytes", type=float, default=20.0, help="text in each shard")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder, options.shards, options.megabytes)
        training = measured(train, folder)
        ways: dict[str, list[dict[str, float]]] = {"one": [], "two": [], "reference": []}
        for _ in range(options.rounds):
            ways["one"].append(measured(ours, folder, 1))
            ways["two"].append(measured(ours, folder, 2))
            ways["reference"].append(measured(reference, folder))
    result: dict[str, object] = {
        "shards": options.shards,
        "megabytes_each": options.megabytes,
        "million_tokens": round(ways["one"][0]["counted"] / 1e6, 2),
        "training_cpu_seconds": round(training["cpu"], 1),
        "training_peak_mb": round(training["peak_mb"]),
        "load": round(os.getloadavg()[0], 1),
    }
    assert len({run["counted"] for runs in ways.values() for run in runs}) == 1, "the ways disagree"
    speeds = {}
    for way, runs in ways.items():
        speeds[way] = max(run["counted"] / run["cpu"] for run in runs)
        result[way] = {
            "million_tokens_per_second": round(max(run["counted"] / run["wall"] for run in runs) / 1e6, 2),
            "million_tokens_per_cpu_second": round(speeds[way] / 1e6, 2),
            "peak_mb": round(max(run["peak_mb"] for run in runs)),
        }
    result["ratio_per_cpu_second"] = round(speeds["two"] / speeds["reference"], 2)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
