"""Peak arithmetic of known chips, by the exact name that the driver reports. Tables only; one unit, TFLOPS (1e12 per second)."""

from __future__ import annotations

from collections.abc import Mapping

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


def peak_flops_of(chip: str) -> float | None:
    """Dense bf16 FLOP per second of that CUDA or ROCm device; None for a name that is not in the table."""
    return PEAK_TFLOPS[chip] * 1e12 if chip in PEAK_TFLOPS else None


def apple_estimate_of(chip: str) -> float | None:
    """Estimated FLOP per second of that Apple chip's GPU; None for a name that is not in the table."""
    return APPLE_TFLOPS_ESTIMATE[chip] * 1e12 if chip in APPLE_TFLOPS_ESTIMATE else None
