"""The same as `autoresearch bench`, for those who look in tools/: where a step's time goes, for one file or two.

python tools/bench.py train.py --compare ../other/train.py
"""

from __future__ import annotations

import sys

from autoresearch.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["bench", *sys.argv[1:]]))
