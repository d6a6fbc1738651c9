"""Which device this machine trains on: its name, memory, number types that pay, and peak arithmetic where it is known.

Standard library only; torch is imported by `detect`, and only when an accelerator may be used. MLX is never imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autoresearch.backends.machine import (
    GIB,
    Machine,
    accelerators_are_hidden,
    hide_accelerators_environment,
    read_machine,
)
from autoresearch.backends.peak_flops import apple_estimate_of, peak_flops_of
from autoresearch.hostile_text import one_line
from autoresearch.vocabulary import UsageError

__all__ = [
    "BACKEND_VARIABLE",
    "GIB",
    "KNOWN_BACKENDS",
    "Hardware",
    "Machine",
    "TorchFound",
    "accelerators_are_hidden",
    "choose",
    "default_preset",
    "detect",
    "device_kind",
    "experiment_file",
    "file_in_force",
    "hide_accelerators_environment",
    "import_torch",
    "read_machine",
    "requested_backend",
]

BACKEND_VARIABLE = "AUTORESEARCH_BACKEND"
KNOWN_BACKENDS = ("auto", "cuda", "rocm", "xpu", "mps", "mlx", "cpu")
TORCH_FILE, MLX_FILE = "train.py", "train_mlx.py"
# A "40 GB" card reports 39.4 to 39.6 GiB, so the threshold is in the maker's decimal gigabytes: 37.25 GiB.
STANDARD_MEMORY_GB = 40e9 / GIB
_REFERENCE_BLAS_NOTE = (
    "MLX's CPU build brings a reference BLAS: matrix products measured 12x slower than with OpenBLAS loaded before it"
)


@dataclass(frozen=True)
class Hardware:
    """The device that trains.

    memory_gb is GiB: the accelerator's own, or the machine's for cpu, mps and mlx. cores are the CPU cores this process may
    use, whatever the backend. peak_flops is dense bf16 per second, or None where nothing trustworthy is known. dtypes
    are the number types that pay, fastest first. note says, in one sentence, what the user might not expect. driver is what
    stands between the framework and the chip, with versions; on_cpu: the arithmetic runs on the CPU's cores.
    """

    backend: str  # "cuda" | "rocm" | "xpu" | "mps" | "mlx" | "cpu"
    chip: str
    memory_gb: float
    cores: int
    peak_flops: float | None
    dtypes: tuple[str, ...]
    peak_is_estimate: bool = False
    note: str = ""
    driver: str = ""
    on_cpu: bool = False


@dataclass(frozen=True)
class TorchFound:
    """The torch module, or why there is none."""

    module: Any | None
    problem: str = ""


def detect(allow_accelerator: bool = True, *, file: str | None = None) -> Hardware:
    """The device that trains here. With `allow_accelerator=False` it is the CPU, and torch is not imported.

    The environment variable AUTORESEARCH_BACKEND (auto, cuda, rocm, xpu, mps, mlx, cpu) narrows the choice; `cuda` is also
    met by a ROCm build, whose device torch calls cuda. file: the experiment file, where it is known: train.py runs on torch
    and train_mlx.py on MLX, whatever else is installed.

    Raises:
        UsageError: the variable names no known backend, one that cannot be used here, or one that the file does not run on.
    """
    return choose_for(read_machine(), import_torch, requested_backend(os.environ), allow_accelerator, file)


def requested_backend(environment: Mapping[str, str]) -> str:
    """The backend asked for: one of KNOWN_BACKENDS; unset and empty mean auto.

    Raises:
        UsageError: unknown name; the message lists the known ones.
    """
    name = environment.get(BACKEND_VARIABLE, "").strip().lower() or "auto"
    if name not in KNOWN_BACKENDS:
        known = ", ".join(KNOWN_BACKENDS)
        raise UsageError(f"unknown {BACKEND_VARIABLE} {name!r}; known: {known}", hint=f"export {BACKEND_VARIABLE}=auto")
    return name


def experiment_file(backend: str) -> str:
    """The experiment file that runs on a backend."""
    return MLX_FILE if backend == "mlx" else TORCH_FILE


def file_in_force(allow_accelerator: bool = True) -> str:
    """The experiment file of the backend in force. Neither torch nor MLX is imported for it.

    Raises:
        UsageError: AUTORESEARCH_BACKEND names no known backend.
    """
    is_mlx = mlx_in_force(read_machine(), requested_backend(os.environ), allow_accelerator)
    return experiment_file("mlx" if is_mlx else "cpu")


def mlx_in_force(machine: Machine, requested: str, allow_accelerator: bool = True) -> bool:
    """Whether MLX trains here unless a file says otherwise.

    `auto` means MLX on Apple silicon where it is installed. On Linux it must be asked for. On a Mac it computes on the GPU,
    which cannot be hidden from it: where accelerators are not allowed, torch on the CPU is left.
    """
    if not allow_accelerator and machine.system == "Darwin":
        return False
    return requested == "mlx" or (
        requested == "auto" and allow_accelerator and machine.is_apple_silicon and machine.mlx_build == "metal"
    )


def choose_for(
    machine: Machine,
    find_torch: Callable[[], TorchFound],
    requested: str,
    allow_accelerator: bool,
    file: str | None,
) -> Hardware:
    """The hardware that an experiment file trains on; see `detect`.

    Raises:
        UsageError: as `detect` does.
    """
    is_mlx = mlx_in_force(machine, requested, allow_accelerator)
    if file == MLX_FILE and not is_mlx:
        if requested not in ("auto", "mlx"):
            raise UsageError(
                f"{MLX_FILE} runs on MLX, and {BACKEND_VARIABLE}={requested}", hint=f"export {BACKEND_VARIABLE}=mlx"
            )
        if not allow_accelerator and machine.system == "Darwin":
            raise UsageError(
                "this contract counts CPU seconds, and MLX on a Mac computes on the GPU, which cannot be hidden from it",
                hint=f"--contract small   (or --file {TORCH_FILE})",
            )
        is_mlx = True
    if file == TORCH_FILE and is_mlx:
        if requested == "mlx":
            raise UsageError(
                f"{TORCH_FILE} runs on torch, and {BACKEND_VARIABLE}=mlx", hint=f"unset {BACKEND_VARIABLE}"
            )
        return choose(machine, find_torch, "mps")
    if is_mlx:
        return choose(machine, find_torch, "mlx")
    if not allow_accelerator:
        return choose(machine, find_torch, "cpu")
    return choose(machine, find_torch, requested)


def choose(machine: Machine, find_torch: Callable[[], TorchFound], requested: str = "auto") -> Hardware:
    """The hardware of `machine`, best first: mlx on Apple silicon, cuda or rocm, xpu, mps, cpu.

    `find_torch` is not called for `cpu` and `mlx`, nor for `auto` where the kernel shows no accelerator: importing torch
    takes 1.6 s, and the orchestrator has no other use for it.

    Raises:
        UsageError: `requested` cannot be used; the hint says what to install.
    """
    if mlx_in_force(machine, requested):
        return _mlx(machine)
    if requested == "cpu" or (requested == "auto" and not machine.may_have_gpu):
        return _cpu(machine)
    torch = find_torch()
    found = _accelerator(machine, torch, requested)
    if found is not None:
        return found
    if requested != "auto":
        raise UsageError(
            f"{BACKEND_VARIABLE}={requested}, but {_why_not(machine, torch, requested)}", hint=_remedy(torch)
        )
    note = ""
    if machine.has_nvidia_smi:
        note = f"nvidia-smi is here, but {_why_not(machine, torch, 'cuda')}"
    elif machine.is_apple_silicon:
        note = _why_not(machine, torch, "mps")
    return _cpu(machine, note)


def device_kind(hw: Hardware, blas: str = "") -> str:
    """Backend and chip, as the fingerprint holds them: results from two kinds of device are never compared.

    blas: name of the library that does MLX's matrix products on a CPU where it is not its own; it changes what a budget
    buys twelvefold. Kinds that begin with "cpu" are held to the examination's tolerances of a CPU.
    """
    if hw.backend == "mlx" and hw.on_cpu:
        return f"cpu-mlx{f'+{blas}' if blas else ''}:{hw.chip}"
    return f"{hw.backend}:{hw.chip}"


def default_preset(hw: Hardware) -> str:
    """The contract to use when the user names none: what the device finishes in its budget and holds in its memory."""
    if hw.on_cpu or hw.backend == "cpu":
        return "tiny"
    if hw.backend in ("cuda", "rocm") and hw.memory_gb >= STANDARD_MEMORY_GB:
        return "standard"
    return "small"


def import_torch() -> TorchFound:
    """The torch module. One that is absent or does not load (a missing system library) is an answer, not an error."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name == "torch":
            return TorchFound(None, "torch is not installed")
        return TorchFound(None, f"torch does not import: {error}")
    except (ImportError, OSError) as error:
        return TorchFound(None, f"torch does not import: {error}")
    return TorchFound(torch)


def _accelerator(machine: Machine, torch: TorchFound, requested: str) -> Hardware | None:
    """The best accelerator among those `requested` admits, or None."""
    if torch.module is not None and requested in ("auto", "cuda", "rocm") and torch.module.cuda.is_available():
        found = _cuda_or_rocm(machine, torch.module)
        if requested != "rocm" or found.backend == "rocm":
            return found
    if requested in ("auto", "xpu") and _has_xpu(torch.module):
        return _xpu(machine, torch.module)
    if requested in ("auto", "mps") and machine.is_apple_silicon:
        if torch.module is None:
            return _mps(machine, note=f"{torch.problem}: train.py needs pip install 'autoresearch[mps]'")
        if torch.module.backends.mps.is_available():
            return _mps(machine)
    return None


def _cuda_or_rocm(machine: Machine, torch: Any) -> Hardware:
    properties = torch.cuda.get_device_properties(0)
    chip = one_line(properties.name)
    is_rocm = torch.version.hip is not None
    if is_rocm:
        half: tuple[str, ...] = ("bfloat16",) if torch.cuda.is_bf16_supported() else ("float16",)
        driver = _joined(("amdgpu", machine.amd_driver), ("ROCm", torch.version.hip))
    else:
        # Not is_bf16_supported(): it says yes to emulation on Volta and Turing, which is slower than float32.
        capability = torch.cuda.get_device_capability(0)
        half = ("bfloat16",) if capability >= (8, 0) else ("float16",) if capability >= (7, 0) else ()
        driver = _joined(("NVIDIA", machine.nvidia_driver), ("CUDA", getattr(torch.version, "cuda", None)))
    return Hardware(
        backend="rocm" if is_rocm else "cuda",
        chip=chip,
        memory_gb=properties.total_memory / GIB,
        cores=machine.cores,
        peak_flops=peak_flops_of(chip),
        dtypes=(*half, "float32"),
        driver=driver,
    )


def _joined(*parts: tuple[str, str | None]) -> str:
    """ "NVIDIA 550.54.14, CUDA 12.4": the parts whose version is known."""
    return ", ".join(f"{name} {one_line(version)}".strip() for name, version in parts if version)


def _has_xpu(torch: Any | None) -> bool:
    """Whether this torch sees an Intel GPU; builds before 2.4 have no `torch.xpu`."""
    return torch is not None and hasattr(torch, "xpu") and bool(torch.xpu.is_available())


def _xpu(machine: Machine, torch: Any) -> Hardware:
    properties = torch.xpu.get_device_properties(0)
    half = ("bfloat16",) if torch.xpu.is_bf16_supported() else ()
    return Hardware(
        backend="xpu",
        chip=one_line(properties.name),
        memory_gb=properties.total_memory / GIB,
        cores=machine.cores,
        peak_flops=None,
        dtypes=(*half, "float32"),
        driver=_joined(("Level Zero", getattr(properties, "driver_version", None)), ("", machine.os_version)),
    )


def _mps(machine: Machine, note: str = "") -> Hardware:
    """Apple's GPU shares the machine's memory. bf16 needs macOS 14, which every supported torch asks for anyway."""
    estimate = apple_estimate_of(machine.cpu)
    return Hardware(
        backend="mps",
        chip=machine.cpu,
        memory_gb=machine.memory_bytes / GIB,
        cores=machine.cores,
        peak_flops=estimate,
        dtypes=("bfloat16", "float32"),
        peak_is_estimate=estimate is not None,
        note=note,
        driver=machine.os_version,
    )


def _mlx(machine: Machine) -> Hardware:
    """MLX: Apple's GPU on a Mac, the CPU elsewhere.

    Raises:
        UsageError: it is not installed, cannot be imported, or is its CUDA build, which nothing here was tried on.
    """
    if not machine.mlx_build:
        lacks = "MLX is not installed"
        if machine.mlx:
            lacks = f"mlx {machine.mlx} is installed without the package for this machine, and does not import"
        raise UsageError(f"{BACKEND_VARIABLE}=mlx, but {lacks}", hint="pip install 'autoresearch[mlx]'")
    if machine.mlx_build == "cuda":
        raise UsageError(
            f"mlx {machine.mlx} is the CUDA build, and only MLX on Apple silicon and its CPU build are supported",
            hint=f"export {BACKEND_VARIABLE}=cuda   (train.py with torch)",
        )
    is_metal = machine.mlx_build == "metal"
    estimate = apple_estimate_of(machine.cpu) if is_metal else None
    return Hardware(
        backend="mlx",
        chip=machine.cpu,
        memory_gb=machine.memory_bytes / GIB,
        cores=machine.cores,
        peak_flops=estimate,
        # bf16 products on the CPU build go through a plain loop: 12x slower than float32 in OpenBLAS
        dtypes=("bfloat16", "float32") if is_metal else ("float32",),
        peak_is_estimate=estimate is not None,
        note="" if is_metal else _REFERENCE_BLAS_NOTE,
        driver=_joined(("", machine.os_version), ("MLX", machine.mlx)),
        on_cpu=not is_metal,
    )


def _cpu(machine: Machine, note: str = "") -> Hardware:
    """bf16 on a CPU pays only with matrix or vector units for it; elsewhere torch converts every operand."""
    has_bf16 = bool(machine.cpu_flags & {"amx_bf16", "avx512_bf16"})
    return Hardware(
        backend="cpu",
        chip=machine.cpu,
        memory_gb=machine.memory_bytes / GIB,
        cores=machine.cores,
        peak_flops=None,
        dtypes=("bfloat16", "float32") if has_bf16 else ("float32",),
        note=note,
        driver=machine.os_version,
        on_cpu=True,
    )


def _why_not(machine: Machine, torch: TorchFound, backend: str) -> str:
    if torch.module is None and not (backend == "mps" and not machine.is_apple_silicon):
        return torch.problem
    if backend == "mps" and not machine.is_apple_silicon:
        return f"mps needs Apple silicon and this is {machine.system} on {machine.architecture}"
    return f"torch {torch.module.__version__} sees no {backend} device" if torch.module else torch.problem


def _remedy(torch: TorchFound) -> str:
    if torch.module is None:
        return "pip install 'autoresearch[train]'"
    return f"unset {BACKEND_VARIABLE}, or install the torch build for this device, then: autoresearch doctor"
