"""What the operating system says of this machine, without importing any framework. Standard library only."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from autoresearch.hostile_text import one_line

GIB = 2.0**30


@dataclass(frozen=True)
class Machine:
    """What the operating system says without any framework. memory_bytes is physical memory.

    mlx: version of the installed MLX, "" where there is none. mlx_build: what it computes on, by the packages beside it:
    "metal" on Apple silicon, "cpu" or "cuda" on Linux, "" where its second package is missing and it cannot be imported.
    """

    system: str  # "Linux", "Darwin", ...
    architecture: str  # "x86_64", "arm64", ...
    cpu: str
    cpu_flags: frozenset[str]
    memory_bytes: int
    cores: int
    has_nvidia_smi: bool = False
    may_have_gpu: bool = True  # False where the kernel shows no accelerator: torch need not be asked
    nvidia_driver: str = ""  # "550.54.14"
    amd_driver: str = ""  # "6.8.5"
    os_version: str = ""  # "macOS 15.1", "Linux 6.1.0"
    mlx: str = ""
    mlx_build: str = ""

    @property
    def is_apple_silicon(self) -> bool:
        return self.system == "Darwin" and self.architecture == "arm64"


def read_machine() -> Machine:
    """What the operating system of this machine says."""
    system = platform.system()
    text = _cpuinfo() if system == "Linux" else ""
    version, build = find_mlx()
    return Machine(
        system=system,
        architecture=platform.machine(),
        cpu=cpu_name(text) if system == "Linux" else _sysctl("machdep.cpu.brand_string") or _plain_name(),
        cpu_flags=cpu_flags(text),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cores=_usable_cores(),
        has_nvidia_smi=shutil.which("nvidia-smi") is not None,
        may_have_gpu=system != "Linux" or kernel_shows_accelerator(Path("/dev")),
        nvidia_driver=nvidia_driver(_text_of(Path("/proc/driver/nvidia/version"))),
        amd_driver=one_line(_text_of(Path("/sys/module/amdgpu/version"))),
        os_version=os_version(system, platform.mac_ver()[0], platform.release()),
        mlx=version,
        mlx_build=build,
    )


def kernel_shows_accelerator(devices: Path) -> bool:
    """Whether Linux has a device file of NVIDIA, of AMD's compute driver, of a GPU renderer, or of WSL's GPU bridge."""
    patterns = ("nvidia[0-9]*", "nvidiactl", "kfd", "dri/renderD*", "dxg")
    return any(next(devices.glob(pattern), None) is not None for pattern in patterns)


def find_mlx() -> tuple[str, str]:
    """Version and build of the installed MLX, from package metadata; nothing is imported. ("", "") without it."""
    if importlib.util.find_spec("mlx") is None:
        return "", ""
    versions = {
        name: version_of(name) for name in ("mlx", "mlx-metal", "mlx-cpu", "mlx-cuda", "mlx-cuda-12", "mlx-cuda-13")
    }
    return versions["mlx"], mlx_build({name for name, version in versions.items() if version}, platform.system())


def mlx_build(installed: set[str], system: str) -> str:
    """What MLX computes on, given the names of its installed packages: see `Machine`."""
    if "mlx" not in installed:
        return ""
    if system == "Darwin":
        return "metal"
    if any(name.startswith("mlx-cuda") for name in installed):
        return "cuda"
    return "cpu" if "mlx-cpu" in installed else ""


def version_of(package: str) -> str:
    """The installed version of a package, without importing it; "" where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def nvidia_driver(text: str) -> str:
    """The driver's version in the text of /proc/driver/nvidia/version, or ""."""
    found = re.search(r"^NVRM version:.*?\b(\d+\.\d+(?:\.\d+)?)\b", text, flags=re.MULTILINE)
    return found.group(1) if found else ""


def os_version(system: str, mac_version: str, release: str) -> str:
    """ "macOS 15.1", or the kernel: "Linux 6.1.0-13-amd64"."""
    return f"macOS {mac_version}" if system == "Darwin" and mac_version else one_line(f"{system} {release}")


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


def accelerators_are_hidden(environment: Mapping[str, str]) -> bool:
    """Whether `hide_accelerators_environment` is in force there."""
    return all(environment.get(name) == value for name, value in hide_accelerators_environment().items())


def _first_fields(cpuinfo: str) -> dict[str, str]:
    """`key : value` lines; the first processor's value wins."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields


def _cpuinfo() -> str:
    return _text_of(Path("/proc/cpuinfo"))


def _text_of(path: Path) -> str:
    """A small file of the kernel's, or "" where there is none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


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
