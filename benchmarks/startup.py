"""How long a run waits for its first document, on a synthetic corpus of token shards as large as you like.

    python benchmarks/startup.py [--gigabytes 10] [--megabytes-a-shard 128] [--rounds 5]

The shards are sparse files of the right size (their tokens read as zeros and take no disk) with real offsets of log-normal
documents (median 400 tokens, mean about 900); the folder is removed at the end. Measured in a new process each time:
interpreter and imports; `open_prepared` (manifest, and the size of every file); the first document of a shard as an array,
read. What a disk adds for the first pages is not in it. Prints one JSON object, in milliseconds, medians; CPU time beside
wall time, because a busy machine multiplies the latter.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from autoresearch.contract import prepared as module
from autoresearch.contract.rules import Rules, rules_for
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.contract.tokenizing import NAME_LENGTH

MEDIAN_LENGTH, SIGMA = 400.0, 1.2735  # log-normal: mean = median * exp(sigma^2 / 2) = 900
OPENS = """
import time
def now(): return time.perf_counter(), time.process_time()
begun = now()
import sys; from pathlib import Path
from autoresearch.contract.prepared import open_prepared
from autoresearch.contract.rules import rules_for
imported = now()
prepared = open_prepared(rules_for("standard"), "climbmix", Path(sys.argv[1]))
opened = now()
tokens, offsets = prepared.shards[len(prepared.shards) // 2].open()
document = tokens[offsets[1000] : offsets[1001]].copy()
assert len(document) and prepared.num_train_tokens
read = now()
marks = [begun, imported, opened, read]
for earlier, later in zip(marks, marks[1:]):
    print(*(b - a for a, b in zip(earlier, later)))
"""


def write_corpus(cache: Path, rules: Rules, gigabytes: float, megabytes_a_shard: float) -> int:
    """A prepared folder and its shards; how many shards."""
    home = cache / "climbmix"
    tokenizer = Tokenizer([bytes([value]) for value in range(256)])
    tokens_dir = home / "tokens" / tokenizer.sha256[:NAME_LENGTH]
    folder = home / "prepared-synthetic"
    tokens_dir.mkdir(parents=True)
    folder.mkdir()
    rng = np.random.default_rng(0)
    entries = []
    num_shards = max(1, round(gigabytes * 1000 / megabytes_a_shard))
    num_documents = round(megabytes_a_shard * 1e6 / 2 / 900)
    lengths = np.maximum(1, rng.lognormal(np.log(MEDIAN_LENGTH), SIGMA, num_documents)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    for number in range(num_shards):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        name = digest[:NAME_LENGTH]
        np.save(tokens_dir / f"{name}.offsets.npy", offsets)
        with (tokens_dir / f"{name}.tokens.npy").open("wb") as stream:
            header = {"descr": "<u2", "fortran_order": False, "shape": (int(offsets[-1]),)}
            np.lib.format.write_array_header_1_0(stream, header)
            stream.truncate(stream.tell() + 2 * int(offsets[-1]))
        paths = [tokens_dir / f"{name}.tokens.npy", tokens_dir / f"{name}.offsets.npy"]
        entries.append(
            {
                "text": f"shard_{number:05d}.parquet",
                "text_sha256": digest,
                "num_documents": num_documents,
                "num_tokens": int(offsets[-1]),
                "num_bytes": 4 * int(offsets[-1]),
                "files": {path.name: {"bytes": path.stat().st_size, "sha256": digest} for path in paths},
            }
        )
    rows = np.zeros((4, rules.max_seq_len + 1), dtype=np.uint16)
    (folder / "tokenizer.json").write_text(tokenizer.to_json())
    for name in module._FILE_NAMES[1:]:
        np.save(folder / name, rows)
    facts = {name: {"bytes": (folder / name).stat().st_size, "sha256": ""} for name in module._FILE_NAMES}
    manifest = {
        **{"format": module.FORMAT, "version": module.FORMAT_VERSION, "preset": rules.preset, "dataset": "climbmix"},
        **{"recipe": module._hash_of(module._recipe(rules)), "command": "autoresearch prepare", "created": ""},
        **{
            "hashes": {"tokenizer": tokenizer.sha256, "corpus": "", "validation": ""},
            "files": facts,
            "shards": entries,
        },
        "counts": {"train_tokens": num_shards * int(offsets[-1])},
    }
    (folder / module.MANIFEST_NAME).write_text(json.dumps(manifest))
    module._pointer_path(home, rules).write_text(json.dumps({"directory": folder.name}))
    return num_shards


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=10.0, help="of tokens")
    parser.add_argument("--megabytes-a-shard", type=float, default=128.0, help="about what a shard of ClimbMix gives")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rules = rules_for("standard")
    times: list[list[float]] = []
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        num_shards = write_corpus(cache, rules, options.gigabytes, options.megabytes_a_shard)
        num_bytes = sum(path.stat().st_size for path in cache.rglob("*.tokens.npy"))
        for _ in range(options.rounds):
            command = [sys.executable, "-c", OPENS, name]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            times.append([float(word) for word in said])
    medians = [round(1000 * statistics.median(column), 1) for column in zip(*times, strict=True)]
    phases = ("imports", "open_prepared", "first_document")
    print(
        json.dumps(
            {
                "gigabytes": round(num_bytes / 1e9, 2),
                "shards": num_shards,
                "wall_ms": dict(zip(phases, medians[::2], strict=True)),
                "cpu_ms": dict(zip(phases, medians[1::2], strict=True)),
                "load": round(os.getloadavg()[0], 1),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
