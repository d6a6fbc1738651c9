"""Processes that measure: what a fresh one is given before the file runs."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from measuring import order_for

from autoresearch.bench.children import FreshProcess
from autoresearch.vocabulary import AutoresearchError

MAPS = "from prepare import Tokenizer, evaluate_bpb, make_dataloader\nprint(open('/proc/self/maps').read())\nraise SystemExit(0)\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc says which libraries are mapped, on Linux only")
@pytest.mark.parametrize(("name", "is_loaded"), [("train_mlx.py", True), ("train.py", False)])
def test_a_blas_is_loaded_for_the_file_of_mlx_alone(smoke, tmp_path: Path, name: str, is_loaded: bool) -> None:
    found = importlib.util.find_spec("_ctypes_test")  # a library that nothing else here loads
    if found is None or found.origin is None:
        pytest.skip("this Python came without _ctypes_test")
    (tmp_path / name).write_text(MAPS)
    environment = {**os.environ, "AUTORESEARCH_CONTRACT": "smoke"}
    run = FreshProcess(environment, lambda: None, blas=Path(found.origin))
    with pytest.raises(AutoresearchError, match="ended after 0 steps"):
        run(order_for(tmp_path / name, parent=os.getpid()), tmp_path / "log", tmp_path / "cache")
    assert (Path(found.origin).name in (tmp_path / "log").read_text()) == is_loaded
