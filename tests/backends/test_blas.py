"""The fast BLAS under MLX's CPU build: where it is found, what it is called, and that it takes over."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from autoresearch.backends.blas import blas_name, find_openblas, load_blas


def test_it_is_found_behind_the_links_of_a_distribution(tmp_path):
    real = tmp_path / "openblas-pthread" / "libopenblasp-r0.3.21.so"
    real.parent.mkdir()
    real.touch()
    (tmp_path / "libopenblas.so.0").symlink_to(real)
    found = find_openblas([str(tmp_path / "nowhere"), str(tmp_path)])
    assert found == real.resolve()
    assert blas_name(found) == "libopenblasp-r0.3.21"


def test_a_machine_without_it_has_none(tmp_path):
    assert find_openblas([str(tmp_path)]) is None


def test_a_file_that_is_no_library_is_an_error(tmp_path):
    (tmp_path / "libopenblas.so").write_text("no library")
    with pytest.raises(OSError):
        load_blas(tmp_path / "libopenblas.so")


@pytest.mark.mlx
def test_loaded_before_mlx_it_does_the_products():
    pytest.importorskip("mlx.core", reason="needs pip install 'autoresearch[mlx]'")
    library = find_openblas()
    if library is None:
        pytest.skip("needs the system's OpenBLAS (libopenblas0)")
    code = (
        "from pathlib import Path; from autoresearch.backends.blas import load_blas; "
        f"load_blas(Path({str(library)!r})); import mlx.core as mx; a = mx.ones((64, 64)); mx.eval(a @ a)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_DEBUG": "bindings"},  # the dynamic linker says which library serves which symbol
        capture_output=True,
        text=True,
        check=True,
    )
    served = [line for line in child.stderr.splitlines() if "libmlx" in line and "cblas_sgemm" in line]
    assert served
    assert all(f"to {library}" in line for line in served)
