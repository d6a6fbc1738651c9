"""What a candidate is started with: a clean environment, and our own interpreter, isolated."""

from __future__ import annotations

import os
import sys
from pathlib import PurePath

from autoresearch.backends.hardware import hide_accelerators_environment

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "ROCM_PATH", "SYSTEMROOT")
ACCELERATOR_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
)
INDUCTOR = "inductor"  # names of the two compile caches inside a cache folder
TRITON = "triton"
_NAME = "candidate"


def clean_environment(
    scratch: PurePath, *, accelerators: bool, threads: int, cache: PurePath | None = None
) -> dict[str, str]:
    """The candidate's whole environment, by allow-list: no keys, no home, no paths to text.

    scratch: where it may write, as it sees that folder itself; cache: the same for its compile caches, inside `scratch`
    by default.
    threads: for CPU maths. One by default: two threads on a shared machine ran 1.7x to 11x slower than one, because
    their barriers spin; PASSIVE waiting takes the worst of that away.
    """
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if accelerators:
        environment.update({name: os.environ[name] for name in ACCELERATOR_VARIABLES if name in os.environ})
        # a number in CUDA_VISIBLE_DEVICES then means the same device to CUDA as to devices.device_nodes
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    else:
        environment.update(hide_accelerators_environment())
    scratch_path = str(scratch)
    caches = scratch if cache is None else cache
    environment.update(
        {
            "HOME": scratch_path,
            "TMPDIR": scratch_path,
            "XDG_CACHE_HOME": scratch_path,
            "TORCHINDUCTOR_CACHE_DIR": str(caches / INDUCTOR),
            "TRITON_CACHE_DIR": str(caches / TRITON),
            "USER": _NAME,  # getpass.getuser() then needs no /etc/passwd
            "LOGNAME": _NAME,
            "PYTHONSAFEPATH": "1",  # -P is not inherited by child interpreters
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
            "PYTHONIOENCODING": "utf-8",
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    )
    return environment


def interpreter(module: str) -> list[str]:
    """Command that runs one of our modules with the referee's own interpreter, isolated; never through `uv run`."""
    return [sys.executable, "-P", "-s", "-B", "-m", module]
