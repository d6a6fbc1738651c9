"""Which device this machine trains on: its name, memory, number types that pay, and peak arithmetic where it is known.

Standard library only; torch is imported by `detect`, and only when an accelerator may be used.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch.hostile_text import one_line
from autoresearch.vocabulary import UsageError

BACKEND_VARIABLE = "AUTORESEARCH_BACKEND"
KNOWN_BACKENDS = ("auto", "cuda", "rocm", "xpu", "mps", "cpu")
GIB = 2.0**30
# A "40 GB" card reports 39.4 to 39.6 GiB, so the threshold is in the maker's decimal gigabytes: 37.25 GiB.
STANDARD_MEMORY_GB = 40e9 / GIB

PEAK_TFLOPS: Mapping[str, float] = {
    # Hopper and Blackwell, data centre
    "NVIDIA H100 80GB HBM3": 989.5,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H200": 989.5,
    "NVIDIA GH200 480GB": 989.5,
    "NVIDIA B200": 2250.0,
    # Ampere and Ada, data centre and workstation
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100-PCIE-40GB": 312.0,
    "NVIDIA A100 80GB PCIe": 312.0,
    "NVIDIA A40": 149.7,
    "NVIDIA L4": 121.0,
    "NVIDIA L40": 181.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA RTX 6000 Ada Generation": 363.0,
    # GeForce: half the fp16-accumulate figure that is often quoted
    "NVIDIA GeForce RTX 3090": 71.0,
    "NVIDIA GeForce RTX 4080": 97.5,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA GeForce RTX 5090": 209.5,
    # AMD; the two-die MI250 and MI250X show as two devices, so half of the card each
    "AMD Instinct MI210": 181.0,
    "AMD Instinct MI250": 181.0,
    "AMD Instinct MI250X": 191.5,
    "AMD Instinct MI300A": 980.0,
    "AMD Instinct MI300X": 1307.0,
    "AMD Instinct MI325X": 1307.0,
    "AMD Instinct MI350X": 2300.0,
    "AMD Radeon PRO W7900": 122.0,
    "AMD Radeon RX 7900 XT": 103.0,
    "AMD Radeon RX 7900 XTX": 123.0,
}
"""Dense bf16 with fp32 accumulation, in TFLOPS (1e12 per second), by the exact name the driver reports.

Source: the makers' data sheets, without their 2:4 sparsity factor; not measured here. 989.5 is also what the published
train.py divides by. Lists of earlier ports quote GeForce cards at twice these values (419 for a 5090, 330 for a 4090:
sparse, or fp16 accumulation), MI325X at 2615 (sparse) and every H100 and H200 at 756 (the PCIe card's). A name that is
not here, a MIG slice or a virtual function among them, has no peak: a wrong denominator is worse than no MFU.
"""

APPLE_TFLOPS_ESTIMATE: Mapping[str, float] = {
    "Apple M1": 2.6,
    "Apple M1 Pro": 5.2,
    "Apple M1 Max": 10.4,
    "Apple M1 Ultra": 20.8,
    "Apple M2": 3.6,
    "Apple M2 Pro": 6.8,
    "Apple M2 Max": 13.6,
    "Apple M2 Ultra": 27.2,
    "Apple M3": 3.6,
    "Apple M3 Pro": 7.0,
    "Apple M3 Max": 14.2,
    "Apple M3 Ultra": 28.4,
    "Apple M4": 3.8,
    "Apple M4 Pro": 7.6,
    "Apple M4 Max": 15.2,
}
"""Estimates, in TFLOPS, for the fullest version of each chip: always shown as estimates.

Apple publishes no bf16 figure. These follow its fp32 rate, which the GPUs up to M4 are not known to exceed in bf16. A
list twice as large is also in use; its authors measured 14 where it says 34 (M5 Max), so MFU on Apple silicon orders
runs on one chip and compares nothing else. M5 is left out: the two sources disagree by 2.4x.
"""


@dataclass(frozen=True)
class Hardware:
    """The device that trains.

    memory_gb is GiB: the accelerator's own, or the machine's for cpu and mps. cores are the CPU cores this process may
    use, whatever the backend. peak_flops is dense bf16 per second, or None where nothing trustworthy is known. dtypes
    are the number types that pay, fastest first. note says, in one sentence, what the user might not expect.
    """

    backend: str  # "cuda" | "rocm" | "xpu" | "mps" | "cpu"
    chip: str
    memory_gb: float
    cores: int
    peak_flops: float | None
    dtypes: tuple[str, ...]
    peak_is_estimate: bool = False
    note: str = ""


@dataclass(frozen=True)
class Machine:
    """What the operating system says without any framework. memory_bytes is physical memory."""

    system: str  # "Linux", "Darwin", ...
    architecture: str  # "x86_64", "arm64", ...
    cpu: str
    cpu_flags: frozenset[str]
    memory_bytes: int
    cores: int
    has_nvidia_smi: bool = False
    may_have_gpu: bool = True  # False where the kernel shows no accelerator: torch need not be asked

    @property
    def is_apple_silicon(self) -> bool:
        return self.system == "Darwin" and self.architecture == "arm64"


@dataclass(frozen=True)
class TorchFound:
    """The torch module, or why there is none."""

    module: Any | None
    problem: str = ""


def detect(allow_accelerator: bool = True) -> Hardware:
    """The device that trains here. With `allow_accelerator=False` it is the CPU, and torch is not imported.

    The environment variable AUTORESEARCH_BACKEND (auto, cuda, rocm, xpu, mps, cpu) narrows the choice; `cuda` is also
    met by a ROCm build, whose device torch calls cuda.

    Raises:
        UsageError: the variable names no known backend, or one that cannot be used here.
    """
    requested = requested_backend(os.environ)
    if not allow_accelerator:
        requested = "cpu"
    return choose(read_machine(), import_torch, requested)


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


def choose(machine: Machine, find_torch: Callable[[], TorchFound], requested: str = "auto") -> Hardware:
    """The hardware of `machine`, best first: cuda or rocm, xpu, mps, cpu.

    `find_torch` is not called for `cpu`, nor for `auto` where the kernel shows no accelerator: importing torch takes
    1.6 s, and the orchestrator has no other use for it.

    Raises:
        UsageError: `requested` cannot be used; the hint says what to install.
    """
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


def device_kind(hw: Hardware) -> str:
    """Backend and chip, as the fingerprint holds them: results from two kinds of device are never compared."""
    return f"{hw.backend}:{hw.chip}"


def default_preset(hw: Hardware) -> str:
    """The contract to use when the user names none: what the device finishes in its budget and holds in its memory."""
    if hw.backend == "cpu":
        return "tiny"
    if hw.backend in ("cuda", "rocm") and hw.memory_gb >= STANDARD_MEMORY_GB:
        return "standard"
    return "small"


def hide_accelerators_environment() -> dict[str, str]:
    """Variables that keep a child process off every accelerator that can be hidden.

    CUDA takes an empty list for none. HIP may take an empty value for unset, so it gets an index that does not exist.
    SYCL is held to CPU devices, since an empty ZE_AFFINITY_MASK may mean all. Apple's GPU cannot be hidden this way:
    there wall time counts. The CUDA value is the documented one; the AMD and Intel ones were not tried on such
    machines.
    """
    return {
        "CUDA_VISIBLE_DEVICES": "",
        "HIP_VISIBLE_DEVICES": "-1",
        "ROCR_VISIBLE_DEVICES": "",
        "ONEAPI_DEVICE_SELECTOR": "*:cpu",
        "ZE_AFFINITY_MASK": "",
    }


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


def read_machine() -> Machine:
    """What the operating system of this machine says."""
    system = platform.system()
    text = _cpuinfo() if system == "Linux" else ""
    return Machine(
        system=system,
        architecture=platform.machine(),
        cpu=cpu_name(text) if system == "Linux" else _sysctl("machdep.cpu.brand_string") or _plain_name(),
        cpu_flags=cpu_flags(text),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cores=_usable_cores(),
        has_nvidia_smi=shutil.which("nvidia-smi") is not None,
        may_have_gpu=system != "Linux" or _kernel_shows_accelerator(Path("/dev")),
    )


def _kernel_shows_accelerator(devices: Path) -> bool:
    """Whether Linux has a device file of NVIDIA, of AMD's compute driver, of a GPU renderer, or of WSL's GPU bridge."""
    patterns = ("nvidia[0-9]*", "nvidiactl", "kfd", "dri/renderD*", "dxg")
    return any(next(devices.glob(pattern), None) is not None for pattern in patterns)


def cpu_name(cpuinfo: str) -> str:
    """The processor's model name in the text of /proc/cpuinfo.

    Arm kernels give no name: there it is the implementer and part number, which tell one core type from another.
    """
    fields = _first_fields(cpuinfo)
    if fields.get("model name"):
        return one_line(fields["model name"])
    if "CPU implementer" in fields:
        return f"{platform.machine()} CPU {fields['CPU implementer']}/{fields.get('CPU part', '?')}"
    return _plain_name()


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """The feature flags of the first processor in the text of /proc/cpuinfo (`flags` on x86, `Features` on Arm)."""
    fields = _first_fields(cpuinfo)
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())


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
            return _mps(machine, note=f"{torch.problem}: train.py needs pip install 'autoresearch[train]'")
        if torch.module.backends.mps.is_available():
            return _mps(machine)
    return None


def _cuda_or_rocm(machine: Machine, torch: Any) -> Hardware:
    properties = torch.cuda.get_device_properties(0)
    chip = one_line(properties.name)
    is_rocm = torch.version.hip is not None
    if is_rocm:
        half: tuple[str, ...] = ("bfloat16",) if torch.cuda.is_bf16_supported() else ("float16",)
    else:
        # Not is_bf16_supported(): it says yes to emulation on Volta and Turing, which is slower than float32.
        capability = torch.cuda.get_device_capability(0)
        half = ("bfloat16",) if capability >= (8, 0) else ("float16",) if capability >= (7, 0) else ()
    return Hardware(
        backend="rocm" if is_rocm else "cuda",
        chip=chip,
        memory_gb=properties.total_memory / GIB,
        cores=machine.cores,
        peak_flops=PEAK_TFLOPS[chip] * 1e12 if chip in PEAK_TFLOPS else None,
        dtypes=(*half, "float32"),
    )


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
    )


def _mps(machine: Machine, note: str = "") -> Hardware:
    """Apple's GPU shares the machine's memory. bf16 needs macOS 14, which every supported torch asks for anyway."""
    estimate = APPLE_TFLOPS_ESTIMATE.get(machine.cpu)
    return Hardware(
        backend="mps",
        chip=machine.cpu,
        memory_gb=machine.memory_bytes / GIB,
        cores=machine.cores,
        peak_flops=None if estimate is None else estimate * 1e12,
        dtypes=("bfloat16", "float32"),
        peak_is_estimate=estimate is not None,
        note=note,
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


def _first_fields(cpuinfo: str) -> dict[str, str]:
    """`key : value` lines; the first processor's value wins."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(errors="replace") if path.is_file() else ""


def _sysctl(name: str) -> str:
    """One value from macOS's sysctl, or an empty string where it cannot be asked."""
    try:
        answer = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return one_line(answer.stdout)


def _plain_name() -> str:
    return one_line(platform.processor()) or platform.machine() or "unknown CPU"


def _usable_cores() -> int:
    """Cores this process may run on: a container or taskset may grant fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
