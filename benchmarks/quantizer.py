"""Speed of the quantizer against round-to-nearest, in one run, with the size and error that each buys.

    python benchmarks/quantizer.py [--quick] [--device cpu] [--threads 1] [--memory-bits 12]

Encodes and decodes one Gaussian float32 matrix by every method, groups of 128 with fp16 scales. GB/s are bytes of float32
weights per second: encoding from weights to packed codes, decoding from packed codes to weights. On a CPU seconds are the
process's CPU seconds, since others may share the machine; the best of several runs. Methods with feedback get the Hessian of random inputs; their factorisation is timed.
`encode_vs_rtn` and `decode_vs_rtn` are speeds over rtn_symmetric's at the same bits. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch

from autoresearch.quantize.turboquant import METHODS, Scheme, quantize_tensor, similarity

BITS = (2, 4)
BASELINE = "rtn_symmetric"


def best(call: Callable[[], Any], device: torch.device, repeats: int) -> tuple[float, Any]:
    """The shortest time of several calls, and what the last one gave: CPU seconds on a CPU, else wall seconds."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times, given = [], None
    for _ in range(repeats):
        finish(device)
        started = clock()
        given = call()
        finish(device)
        times.append(clock() - started)
    return min(times), given


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def measure(weights: torch.Tensor, hessian: torch.Tensor, scheme: Scheme, repeats: int) -> dict[str, Any]:
    """One method at one width: size, error, speeds."""
    encode, tensor = best(lambda: quantize_tensor(weights, scheme, hessian, name="w"), weights.device, repeats)
    decode, restored = best(tensor.dequantize, weights.device, max(3, repeats))
    cosine, sqnr_db = similarity(weights, restored)
    gigabytes = weights.numel() * 4 / 1e9
    return {
        "method": scheme.method,
        "bits": scheme.bits,
        "entropy_coded": "stream" in tensor.arrays,
        "bits_per_weight": round(tensor.bits_per_weight, 4),
        "cosine": cosine,
        "sqnr_db": sqnr_db,
        "encode_gb_s": gigabytes / encode,
        "decode_gb_s": gigabytes / decode,
        "encode_seconds_per_million": encode / weights.numel() * 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small matrix, two runs each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--memory-bits", type=int, default=12, help="log2 of the trellis's states")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    rows, cols, repeats = (256, 256, 2) if flags.quick else (1024, 512, 5)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(rows, cols, generator=generator).to(flags.device)
    inputs = torch.randn(4 * cols, cols, generator=generator)
    hessian = (inputs.T @ inputs).to(flags.device)
    found = []
    for bits in BITS:
        for method, how in METHODS.items():
            once = 1 if how.grid == "trellis" else repeats
            found.append(measure(weights, hessian, Scheme(method, bits, memory_bits=flags.memory_bits), once))
        found.append(measure(weights, hessian, Scheme("turboquant", bits, entropy=True), repeats))
        baseline = next(row for row in found if row["method"] == BASELINE and row["bits"] == bits)
        for row in found:
            if row["bits"] == bits:
                row["encode_vs_rtn"] = row["encode_gb_s"] / baseline["encode_gb_s"]
                row["decode_vs_rtn"] = row["decode_gb_s"] / baseline["decode_gb_s"]
    about = {
        "device": flags.device,
        "threads": flags.threads,
        "torch": torch.__version__,
        "shape": [rows, cols],
        "memory_bits": flags.memory_bits,
    }
    print(json.dumps(about | {"rows": found}, indent=1))


if __name__ == "__main__":
    main()
