"""A PyTorch checkpoint as a GGUF file, by the name that earlier projects of this field gave the tool.

    python tools/pt2gguf.py model.pt --tokenizer tokenizer.json --out model.gguf

does the same as `autoresearch export model.pt --format gguf --tokenizer tokenizer.json --out model.gguf`. Other flags go to
`autoresearch export` as they are; `autoresearch export --help` lists them.
"""

from __future__ import annotations

import sys

from autoresearch.cli import main


def export_arguments(arguments: list[str]) -> list[str]:
    """The arguments of `autoresearch` that say the same."""
    return ["export", "--format", "gguf", *arguments]


if __name__ == "__main__":
    raise SystemExit(main(export_arguments(sys.argv[1:])))
