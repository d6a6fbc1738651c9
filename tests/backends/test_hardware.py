"""Detection with fake torch modules for every backend, and the real CPU of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from autoresearch.backends import hardware
from autoresearch.backends.hardware import (
    Hardware,
    TorchFound,
    choose,
    choose_for,
    default_preset,
    detect,
    device_kind,
    experiment_file,
    file_in_force,
    hide_accelerators_environment,
    requested_backend,
)
from autoresearch.backends.machine import (
    Machine,
    accelerators_are_hidden,
    cpu_flags,
    cpu_name,
    find_mlx,
    kernel_shows_accelerator,
    mlx_build,
    nvidia_driver,
    os_version,
)
from autoresearch.backends.peak_flops import APPLE_TFLOPS_ESTIMATE, PEAK_TFLOPS
from autoresearch.vocabulary import UsageError

GIB = 2**30
LINUX = Machine("Linux", "x86_64", "Intel(R) Xeon(R) Processor @ 2.50GHz", frozenset({"avx512f"}), 24 * GIB, 2)
MAC = Machine("Darwin", "arm64", "Apple M4 Max", frozenset(), 64 * GIB, 16)
MLX_MAC = replace(MAC, mlx="0.32.4", mlx_build="metal", os_version="macOS 15.1")
MLX_LINUX = replace(LINUX, mlx="0.32.4", mlx_build="cpu", os_version="Linux 6.1.0")


def fake_torch(
    *,
    cuda: str = "",
    memory: int = 80 * GIB,
    capability: tuple[int, int] = (9, 0),
    hip: str | None = None,
    xpu: str = "",
    mps: bool = False,
) -> TorchFound:
    """A torch that has exactly these devices."""

    def device(name: str) -> Any:
        return SimpleNamespace(
            is_available=lambda: bool(name),
            get_device_properties=lambda index: SimpleNamespace(name=name, total_memory=memory),
            get_device_capability=lambda index: capability,
            is_bf16_supported=lambda: True,  # CUDA's own answer is yes even where bf16 is emulated
        )

    return TorchFound(
        SimpleNamespace(
            __version__="2.9.0",
            version=SimpleNamespace(hip=hip),
            cuda=device(cuda),
            xpu=device(xpu),
            backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
        )
    )


NO_TORCH = TorchFound(None, "torch is not installed")


def test_an_h100_is_known_by_its_exact_name_with_the_published_peak() -> None:
    hw = choose(LINUX, lambda: fake_torch(cuda="NVIDIA H100 80GB HBM3", memory=79 * GIB))
    assert (hw.backend, hw.chip, hw.peak_flops) == ("cuda", "NVIDIA H100 80GB HBM3", 989.5e12)
    assert hw.dtypes == ("bfloat16", "float32")
    assert hw.memory_gb == pytest.approx(79)
    assert not hw.peak_is_estimate


@pytest.mark.parametrize("name", ["NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H100", "NVIDIA Whatever 1"])
def test_a_name_that_is_not_in_the_table_has_no_peak(name: str) -> None:
    assert choose(LINUX, lambda: fake_torch(cuda=name)).peak_flops is None


@pytest.mark.parametrize(
    ("capability", "dtypes"),
    [((8, 0), ("bfloat16", "float32")), ((7, 5), ("float16", "float32")), ((6, 1), ("float32",))],
)
def test_bf16_on_cuda_needs_compute_capability_8(capability: tuple[int, int], dtypes: tuple[str, ...]) -> None:
    assert choose(LINUX, lambda: fake_torch(cuda="NVIDIA T", capability=capability)).dtypes == dtypes


def test_a_hip_build_is_rocm_and_meets_a_request_for_cuda() -> None:
    torch = fake_torch(cuda="AMD Instinct MI300X", memory=192 * GIB, hip="6.4")
    for requested in ("auto", "rocm", "cuda"):
        hw = choose(LINUX, lambda: torch, requested)
        assert (hw.backend, hw.peak_flops) == ("rocm", 1307e12)


def test_a_cuda_build_does_not_meet_a_request_for_rocm() -> None:
    with pytest.raises(UsageError, match="rocm"):
        choose(LINUX, lambda: fake_torch(cuda="NVIDIA H200"), "rocm")


def test_an_intel_gpu_is_xpu_without_a_peak() -> None:
    hw = choose(LINUX, lambda: fake_torch(xpu="Intel(R) Arc(TM) B580", memory=12 * GIB))
    assert (hw.backend, hw.chip, hw.peak_flops) == ("xpu", "Intel(R) Arc(TM) B580", None)


def test_cuda_comes_before_xpu() -> None:
    assert choose(LINUX, lambda: fake_torch(cuda="NVIDIA L4", xpu="Intel Arc")).backend == "cuda"
    assert choose(LINUX, lambda: fake_torch(cuda="NVIDIA L4", xpu="Intel Arc"), "xpu").backend == "xpu"


def test_an_old_torch_without_xpu_falls_to_the_cpu() -> None:
    torch = fake_torch()
    del torch.module.xpu  # type: ignore[union-attr]
    assert choose(LINUX, lambda: torch).backend == "cpu"


def test_apple_peaks_are_flagged_as_estimates() -> None:
    hw = choose(MAC, lambda: fake_torch(mps=True))
    assert (hw.backend, hw.chip, hw.memory_gb) == ("mps", "Apple M4 Max", 64.0)
    assert hw.peak_flops == 15.2e12
    assert hw.peak_is_estimate


def test_an_unknown_apple_chip_has_no_peak_and_no_estimate() -> None:
    mac = Machine("Darwin", "arm64", "Apple M9", frozenset(), 16 * GIB, 8)
    hw = choose(mac, lambda: fake_torch(mps=True))
    assert hw.peak_flops is None
    assert not hw.peak_is_estimate


def test_an_apple_machine_without_torch_is_still_recognised_and_says_what_is_missing() -> None:
    hw = choose(MAC, lambda: NO_TORCH)
    assert (hw.backend, hw.chip) == ("mps", "Apple M4 Max")
    assert "torch is not installed" in hw.note


def test_nvidia_smi_is_only_a_hint_that_names_the_missing_torch() -> None:
    machine = Machine("Linux", "x86_64", "CPU", frozenset(), 8 * GIB, 4, has_nvidia_smi=True)
    hw = choose(machine, lambda: NO_TORCH)
    assert hw.backend == "cpu"
    assert "nvidia-smi is here, but torch is not installed" in hw.note
    assert "sees no cuda device" in choose(machine, fake_torch).note


def test_a_plain_cpu_machine_has_nothing_to_note() -> None:
    assert choose(LINUX, lambda: NO_TORCH).note == ""


@pytest.mark.parametrize("flag", ["amx_bf16", "avx512_bf16"])
def test_bf16_on_a_cpu_needs_units_for_it(flag: str) -> None:
    fast = Machine("Linux", "x86_64", "CPU", frozenset({flag}), GIB, 1)
    assert choose(fast, lambda: NO_TORCH).dtypes == ("bfloat16", "float32")
    assert choose(LINUX, lambda: NO_TORCH).dtypes == ("float32",)


def test_choosing_the_cpu_never_looks_for_torch() -> None:
    def explode() -> TorchFound:
        raise AssertionError("torch was looked for")

    assert choose(LINUX, explode, "cpu").backend == "cpu"


def test_detect_without_accelerators_is_the_cpu_even_when_cuda_is_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "cuda")
    monkeypatch.setattr(hardware, "import_torch", lambda: fake_torch(cuda="NVIDIA H200"))
    assert detect(allow_accelerator=False).backend == "cpu"
    assert detect().chip == "NVIDIA H200"


def test_the_environment_variable_can_hold_detection_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "import_torch", lambda: fake_torch(cuda="NVIDIA H200"))
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "cpu")
    assert detect().backend == "cpu"


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'tpu'; known: auto, cuda, rocm, xpu, mps, mlx, cpu") as caught:
        requested_backend({"AUTORESEARCH_BACKEND": "tpu"})
    assert caught.value.hint
    assert requested_backend({}) == requested_backend({"AUTORESEARCH_BACKEND": " "}) == "auto"
    assert requested_backend({"AUTORESEARCH_BACKEND": "CUDA"}) == "cuda"


def test_a_requested_backend_that_is_not_here_says_what_to_install() -> None:
    with pytest.raises(UsageError, match="torch is not installed") as caught:
        choose(LINUX, lambda: NO_TORCH, "cuda")
    assert "pip install 'autoresearch[train]'" in caught.value.hint
    with pytest.raises(UsageError, match="needs Apple silicon and this is Linux"):
        choose(LINUX, fake_torch, "mps")
    with pytest.raises(UsageError, match=r"torch 2\.9\.0 sees no cuda device"):
        choose(LINUX, fake_torch, "cuda")


def test_a_torch_that_does_not_load_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # makes `import torch` raise ImportError
    found = hardware.import_torch()
    assert found.module is None
    assert "torch" in found.problem


@pytest.mark.parametrize(
    ("backend", "memory_gb", "preset"),
    [
        ("cuda", 79.6, "standard"),
        ("cuda", 39.4, "standard"),  # what a 40 GB A100 reports
        ("cuda", 24.0, "small"),
        ("rocm", 192.0, "standard"),
        ("rocm", 24.0, "small"),
        ("xpu", 48.0, "small"),
        ("mps", 128.0, "small"),
        ("cpu", 512.0, "tiny"),
    ],
)
def test_the_default_preset_follows_backend_and_memory(backend: str, memory_gb: float, preset: str) -> None:
    assert default_preset(Hardware(backend, "chip", memory_gb, 8, None, ("float32",))) == preset


def test_device_kind_tells_backends_and_chips_apart() -> None:
    on_cpu, on_gpu = choose(MAC, lambda: NO_TORCH, "cpu"), choose(MAC, lambda: NO_TORCH)
    assert device_kind(on_cpu) == "cpu:Apple M4 Max"
    assert device_kind(on_gpu) == "mps:Apple M4 Max"


def test_cpuinfo_of_x86_gives_name_and_flags() -> None:
    first = "processor\t: 0\nmodel name\t: AMD  EPYC 9654\nflags\t\t: fpu avx512_bf16\n\n"
    text = first + "processor\t: 1\nmodel name\t: other\n"
    assert cpu_name(text) == "AMD EPYC 9654"
    assert cpu_flags(text) == {"fpu", "avx512_bf16"}


def test_cpuinfo_of_arm_names_the_part() -> None:
    text = "processor\t: 0\nFeatures\t: fp asimd bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"
    assert cpu_name(text).endswith("CPU 0x41/0xd40")
    assert cpu_flags(text) == {"fp", "asimd", "bf16"}


def test_a_missing_cpuinfo_still_gives_a_name() -> None:
    assert cpu_name("")
    assert cpu_flags("") == frozenset()


def test_this_machine_is_read_without_torch() -> None:
    hw = detect(allow_accelerator=False)
    assert hw.backend == "cpu"
    assert hw.chip
    assert hw.chip.isprintable()
    assert 0.1 < hw.memory_gb < 100_000
    assert 1 <= hw.cores <= (os.cpu_count() or 1)
    assert hw.dtypes[-1] == "float32"


def test_hidden_accelerators_are_invisible_to_a_child_and_the_import_is_light() -> None:
    code = (
        "import sys; from autoresearch.backends.hardware import detect; hw = detect(False);"
        "heavy = {'torch', 'mlx', 'numpy', 'psutil'} & set(sys.modules); print(hw.backend, sorted(heavy))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **hide_accelerators_environment()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stdout == "cpu []\n"


def test_every_family_of_accelerators_has_its_variable() -> None:
    hidden = hide_accelerators_environment()
    assert hidden["CUDA_VISIBLE_DEVICES"] == ""
    assert {"HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR"} <= set(hidden)


def test_peaks_are_in_tflops_and_plausible() -> None:
    for name, tflops in PEAK_TFLOPS.items():
        assert 50 <= tflops <= 3000, name
        assert name.startswith(("NVIDIA ", "AMD ")), name
    assert PEAK_TFLOPS["NVIDIA H100 PCIe"] < PEAK_TFLOPS["NVIDIA H100 80GB HBM3"] < PEAK_TFLOPS["NVIDIA B200"]


def test_apple_estimates_grow_from_base_to_ultra() -> None:
    for generation in ("M1", "M2", "M3"):
        tiers = [APPLE_TFLOPS_ESTIMATE[f"Apple {generation}{tier}"] for tier in ("", " Pro", " Max", " Ultra")]
        assert tiers == sorted(tiers)
        assert 2 <= tiers[0] < tiers[-1] <= 60


def test_torch_is_not_asked_where_the_kernel_shows_no_accelerator(tmp_path) -> None:
    def never() -> TorchFound:
        raise AssertionError("torch was asked")

    machine = replace(LINUX, may_have_gpu=False)
    assert choose(machine, never).backend == "cpu"
    assert not kernel_shows_accelerator(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert kernel_shows_accelerator(tmp_path)


# -- MLX --------------------------------------------------------------------------------------------------------------


def no_torch_asked() -> TorchFound:
    raise AssertionError("torch was looked for")


def test_auto_prefers_mlx_on_apple_silicon_and_never_asks_torch() -> None:
    hw = choose(MLX_MAC, no_torch_asked)
    assert (hw.backend, hw.chip, hw.dtypes, hw.on_cpu) == ("mlx", "Apple M4 Max", ("bfloat16", "float32"), False)
    assert hw.peak_flops == 15.2e12 and hw.peak_is_estimate
    assert hw.driver == "macOS 15.1, MLX 0.32.4"
    assert default_preset(hw) == "small"


def test_a_mac_whose_mlx_cannot_be_imported_uses_torch() -> None:
    half = replace(MAC, mlx="0.32.4", mlx_build="")
    assert choose(half, lambda: fake_torch(mps=True)).backend == "mps"


def test_mlx_on_linux_is_used_only_when_it_is_asked_for_and_is_the_cpu() -> None:
    assert choose(MLX_LINUX, lambda: NO_TORCH).backend == "cpu"
    hw = choose(MLX_LINUX, no_torch_asked, "mlx")
    assert (hw.backend, hw.on_cpu, hw.dtypes, hw.peak_flops) == ("mlx", True, ("float32",), None)
    assert "OpenBLAS" in hw.note
    assert default_preset(hw) == "tiny"


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (LINUX, "MLX is not installed"),
        (replace(LINUX, mlx="0.32.4"), "without the package for this machine"),
    ],
)
def test_mlx_that_is_asked_for_and_missing_says_what_to_install(machine: Machine, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        choose(machine, no_torch_asked, "mlx")
    assert caught.value.hint == "pip install 'autoresearch[mlx]'"


def test_the_cuda_build_of_mlx_is_refused() -> None:
    with pytest.raises(UsageError, match="CUDA build"):
        choose(replace(LINUX, mlx="0.32.4", mlx_build="cuda"), no_torch_asked, "mlx")


@pytest.mark.parametrize(
    ("installed", "system", "build"),
    [
        (set(), "Darwin", ""),
        ({"mlx", "mlx-metal"}, "Darwin", "metal"),
        ({"mlx", "mlx-cpu"}, "Linux", "cpu"),
        ({"mlx", "mlx-cuda-12"}, "Linux", "cuda"),
        ({"mlx", "mlx-cpu", "mlx-cuda"}, "Linux", "cuda"),
        ({"mlx"}, "Linux", ""),
    ],
)
def test_what_mlx_computes_on_follows_from_its_packages(installed: set[str], system: str, build: str) -> None:
    assert mlx_build(installed, system) == build


def test_looking_for_mlx_imports_nothing_of_it() -> None:
    code = "import sys; from autoresearch.backends.machine import find_mlx; find_mlx(); print('mlx' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "False\n"


def test_no_mlx_is_found_where_its_folder_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_mlx() == ("", "")


def test_the_kinds_of_mlx_mps_and_cpu_differ_and_a_cpu_is_held_to_a_cpus_tolerance() -> None:
    on_gpu, on_cpu = choose(MLX_MAC, no_torch_asked), choose(MLX_LINUX, no_torch_asked, "mlx")
    assert device_kind(on_gpu) == "mlx:Apple M4 Max"
    assert device_kind(on_cpu) == f"cpu-mlx:{LINUX.cpu}"
    assert device_kind(on_cpu, "libopenblasp-r0.3.21") == f"cpu-mlx+libopenblasp-r0.3.21:{LINUX.cpu}"
    assert device_kind(choose(LINUX, no_torch_asked, "cpu")) == f"cpu:{LINUX.cpu}"


def chosen(machine: Machine, requested: str, allow_accelerator: bool, file: str | None) -> Hardware:
    return choose_for(machine, lambda: fake_torch(mps=machine.is_apple_silicon), requested, allow_accelerator, file)


@pytest.mark.parametrize(
    ("machine", "requested", "allowed", "file", "backend"),
    [
        (MLX_MAC, "auto", True, None, "mlx"),
        (MLX_MAC, "auto", True, "train.py", "mps"),
        (MLX_MAC, "mps", True, "train.py", "mps"),
        (MLX_MAC, "auto", True, "train_mlx.py", "mlx"),
        (MLX_MAC, "auto", False, None, "cpu"),  # a contract that counts CPU seconds
        (MLX_MAC, "mlx", False, "train.py", "cpu"),
        (MLX_LINUX, "auto", False, "train_mlx.py", "mlx"),
        (MLX_LINUX, "auto", True, "train_mlx.py", "mlx"),
        (MLX_LINUX, "mlx", False, None, "mlx"),
        (MLX_LINUX, "auto", True, "train.py", "cpu"),
        (MLX_LINUX, "cuda", False, "train.py", "cpu"),
    ],
)
def test_the_experiment_file_decides_between_torch_and_mlx(
    machine: Machine, requested: str, allowed: bool, file: str | None, backend: str
) -> None:
    assert chosen(machine, requested, allowed, file).backend == backend


@pytest.mark.parametrize(
    ("machine", "requested", "allowed", "file", "message"),
    [
        (MLX_LINUX, "mlx", True, "train.py", "train.py runs on torch"),
        (MLX_LINUX, "cpu", True, "train_mlx.py", "train_mlx.py runs on MLX"),
        (MLX_MAC, "mps", True, "train_mlx.py", "train_mlx.py runs on MLX"),
        (MLX_MAC, "auto", False, "train_mlx.py", "counts CPU seconds"),
        (LINUX, "auto", True, "train_mlx.py", "MLX is not installed"),
    ],
)
def test_a_file_that_cannot_run_on_what_was_asked_for_is_refused(
    machine: Machine, requested: str, allowed: bool, file: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        chosen(machine, requested, allowed, file)
    assert caught.value.hint


def test_the_file_in_force_is_that_of_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (experiment_file("mlx"), experiment_file("mps"), experiment_file("cpu")) == (
        "train_mlx.py",
        "train.py",
        "train.py",
    )
    monkeypatch.setattr(hardware, "read_machine", lambda: MLX_MAC)
    assert file_in_force() == "train_mlx.py"
    assert file_in_force(allow_accelerator=False) == "train.py"
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "mps")
    assert file_in_force() == "train.py"
    monkeypatch.setattr(hardware, "read_machine", lambda: MLX_LINUX)
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "mlx")
    assert file_in_force(allow_accelerator=False) == "train_mlx.py"


# -- drivers ----------------------------------------------------------------------------------------------------------


def test_the_nvidia_driver_is_read_from_the_kernels_text() -> None:
    old = (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: gcc 12"
    )
    new = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (builder@host)\n"
    assert (nvidia_driver(old), nvidia_driver(new), nvidia_driver("")) == ("535.183.01", "570.124.06", "")


def test_drivers_are_told_with_what_they_run() -> None:
    torch = fake_torch(cuda="NVIDIA L4")
    torch.module.version.cuda = "12.8"  # type: ignore[union-attr]
    machine = replace(LINUX, nvidia_driver="570.124.06", amd_driver="6.8.5", os_version="Linux 6.1.0")
    assert choose(machine, lambda: torch).driver == "NVIDIA 570.124.06, CUDA 12.8"
    assert choose(LINUX, lambda: torch).driver == "CUDA 12.8"
    rocm = fake_torch(cuda="AMD Instinct MI300X", hip="6.4")
    assert choose(machine, lambda: rocm).driver == "amdgpu 6.8.5, ROCm 6.4"
    assert choose(machine, lambda: NO_TORCH, "cpu").driver == "Linux 6.1.0"
    assert choose(replace(MAC, os_version="macOS 15.1"), lambda: fake_torch(mps=True)).driver == "macOS 15.1"
    xpu = fake_torch(xpu="Intel(R) Arc(TM) B580")
    assert choose(machine, lambda: xpu).driver == "Linux 6.1.0"


def test_the_operating_system_is_named_as_its_users_do() -> None:
    assert os_version("Darwin", "15.1", "24.1.0") == "macOS 15.1"
    assert os_version("Linux", "", "6.1.0-13-amd64") == "Linux 6.1.0-13-amd64"


def test_hidden_accelerators_are_recognised_by_all_their_variables() -> None:
    assert accelerators_are_hidden({**hide_accelerators_environment(), "PATH": "/bin"})
    assert not accelerators_are_hidden({"CUDA_VISIBLE_DEVICES": ""})
    assert not accelerators_are_hidden({})
