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
    APPLE_TFLOPS_ESTIMATE,
    PEAK_TFLOPS,
    Hardware,
    Machine,
    TorchFound,
    _kernel_shows_accelerator,
    choose,
    cpu_flags,
    cpu_name,
    default_preset,
    detect,
    device_kind,
    hide_accelerators_environment,
    requested_backend,
)
from autoresearch.vocabulary import UsageError

GIB = 2**30
LINUX = Machine("Linux", "x86_64", "Intel(R) Xeon(R) Processor @ 2.50GHz", frozenset({"avx512f"}), 24 * GIB, 2)
MAC = Machine("Darwin", "arm64", "Apple M4 Max", frozenset(), 64 * GIB, 16)


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
    with pytest.raises(UsageError, match=r"'tpu'; known: auto, cuda, rocm, xpu, mps, cpu") as caught:
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
    assert not _kernel_shows_accelerator(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert _kernel_shows_accelerator(tmp_path)
