"""Which device nodes a candidate gets: those of the leased accelerator, and none when it is to run without one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PLAIN_DEVICES = ("null", "zero", "full", "random", "urandom")
_NVIDIA_SHARED = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")


@dataclass(frozen=True)
class _Gpu:
    """One NVIDIA device as the driver lists it. bus: PCI address, whose order is that of CUDA_DEVICE_ORDER=PCI_BUS_ID."""

    bus: str
    minor: int
    uuid: str


@dataclass(frozen=True)
class Lease:
    """Device nodes to pass through, and what the variables of visible devices must then say."""

    nodes: list[Path] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)


def device_nodes(
    environment: Mapping[str, str], dev_root: Path = Path("/dev"), proc_root: Path = Path("/proc")
) -> list[Path]:
    """Device nodes of the accelerators that `environment` leases; all of them when it leases none by name."""
    return lease(environment, dev_root, proc_root).nodes


def lease(environment: Mapping[str, str], dev_root: Path = Path("/dev"), proc_root: Path = Path("/proc")) -> Lease:
    """Device nodes of the leased accelerators, and the variables that name them where only these nodes exist.

    NVIDIA: CUDA_VISIBLE_DEVICES by number (in PCI bus order) or UUID, mapped to /dev/nvidiaN through the driver's own
    list. CUDA numbers the devices that it can open, so numbers are rewritten as UUIDs, which mean the same with any set
    of nodes. A MIG slice is reached through its card, and which one only the driver knows: every card is passed.

    AMD: HIP_VISIBLE_DEVICES, else ROCR_VISIBLE_DEVICES, by number in the order of the render nodes, renumbered from 0
    for the same reason; by UUID it cannot be told which node is meant, and all are passed. This was not tried on an AMD
    machine.
    """
    nvidia, amd = _nvidia(environment, dev_root, proc_root), _amd(environment, dev_root)
    return Lease([*nvidia.nodes, *amd.nodes], {**nvidia.variables, **amd.variables})


def _nvidia(environment: Mapping[str, str], dev_root: Path, proc_root: Path) -> Lease:
    if not (dev_root / "nvidiactl").exists():
        return Lease()
    leased = _leased(environment.get("CUDA_VISIBLE_DEVICES"))
    if leased == []:
        return Lease()
    nodes = [dev_root / name for name in _NVIDIA_SHARED if (dev_root / name).exists()]
    nodes += sorted((dev_root / "nvidia-caps").glob("*"))
    every = sorted(path for path in dev_root.glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit())
    gpus = _nvidia_gpus(proc_root)
    if leased is None or not gpus:
        return Lease(nodes + every)
    chosen: list[_Gpu] = []
    for name in leased:
        found = _named(name, gpus)
        if found is None:  # a MIG slice
            return Lease(nodes + every)
        chosen += found
    minors = {gpu.minor for gpu in chosen}
    nodes += [path for path in every if int(path.name.removeprefix("nvidia")) in minors]
    named = all(gpu.uuid for gpu in chosen)
    return Lease(nodes, {"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in chosen)} if named else {})


def _leased(value: str | None) -> list[str] | None:
    """Names in a variable of visible devices: None when it is not set, empty when it hides all.

    As CUDA has it, the list ends at the first name that is no device, such as -1.
    """
    if value is None or value.strip().lower() == "all":
        return None
    names = []
    for name in (part.strip() for part in value.split(",")):
        if not name or name.startswith("-") or name.lower() in ("none", "void", "nodevfiles"):
            break
        names.append(name)
    return names


def _named(name: str, gpus: list[_Gpu]) -> list[_Gpu] | None:
    """The device of this number or UUID (an unambiguous beginning will do); empty when there is none, None for a MIG slice."""
    if name.isdigit():
        return gpus[int(name) : int(name) + 1]
    if name.startswith("MIG-"):
        return None
    found = [gpu for gpu in gpus if gpu.uuid.startswith(name)]
    return found if len(found) == 1 else []


def _nvidia_gpus(proc_root: Path) -> list[_Gpu]:
    """What /proc/driver/nvidia/gpus/*/information says, in the order of PCI addresses."""
    gpus = []
    for path in (proc_root / "driver" / "nvidia" / "gpus").glob("*/information"):
        fields = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        minor = fields.get("Device Minor", "").strip()
        if minor.isdigit():
            gpus.append(_Gpu(path.parent.name.lower(), int(minor), fields.get("GPU UUID", "").strip()))
    return sorted(gpus, key=lambda gpu: gpu.bus)


def _amd(environment: Mapping[str, str], dev_root: Path) -> Lease:
    if not (dev_root / "kfd").exists():
        return Lease()
    names = [environment[name] for name in ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES") if name in environment]
    leased = _leased(names[0]) if names else None
    if leased == []:
        return Lease()
    nodes = sorted((dev_root / "dri").glob("renderD*"), key=lambda path: int(path.name.removeprefix("renderD")))
    if leased is None or not all(name.isdigit() for name in leased):
        return Lease([dev_root / "kfd", *nodes])
    chosen = [nodes[number] for number in sorted(map(int, leased)) if number < len(nodes)]
    renumbered = ",".join(str(number) for number in range(len(chosen)))
    return Lease([dev_root / "kfd", *chosen], {"HIP_VISIBLE_DEVICES": renumbered, "ROCR_VISIBLE_DEVICES": renumbered})
