"""A checkpoint at several widths, by the name that earlier projects of this field gave it.

    python tools/quantize_eval.py logs/nov21/7 --bits 2,3,4

is `autoresearch quantize logs/nov21/7 --bits 2,3,4`; `autoresearch quantize --help` lists the flags.
"""

from __future__ import annotations

import sys

from autoresearch.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["quantize", *sys.argv[1:]]))
