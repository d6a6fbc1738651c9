"""tools/pt2gguf.py says what `autoresearch export` is asked for."""

import importlib.util
from pathlib import Path

from autoresearch.cli.parser import parse

TOOL = Path(__file__).parents[2] / "tools" / "pt2gguf.py"


def test_its_arguments_are_those_of_export():
    spec = importlib.util.spec_from_file_location("pt2gguf", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    options = parse(tool.export_arguments(["model.pt", "--tokenizer", "t.json", "--out", "m.gguf", "--type", "q8_0"]))
    assert (options.checkpoint, options.format, options.type, options.out) == ("model.pt", "gguf", "q8_0", "m.gguf")
