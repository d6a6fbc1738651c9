"""Quantization methods compared on a checkpoint, by the name that earlier projects of this field gave it.

    python tools/tq_benchmark.py logs/nov21/7 --seeds 5

is `autoresearch tq-benchmark logs/nov21/7 --seeds 5`; `autoresearch tq-benchmark --help` lists the flags.
"""

from __future__ import annotations

import sys

from autoresearch.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["tq-benchmark", *sys.argv[1:]]))
