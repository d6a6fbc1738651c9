"""Whole widths for tensors so that their average is a given number of bits, such as 2.5."""

from __future__ import annotations

from collections.abc import Mapping

from autoresearch.quantize.codebooks import lloyd_max
from autoresearch.vocabulary import UsageError


def allocate(
    sizes: Mapping[str, int],
    average: float,
    widths: range,
    sensitivities: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """Bits for each tensor: the average over all weights is at most `average`, and as near as whole widths come.

    HIGGS (arXiv 2411.17525): the loss of a model grows by the sum of a_i t_i^2, where t_i^2 is the relative squared error of
    tensor i and a_i its sensitivity. t_i^2 at b bits is Lloyd-Max's on N(0, 1), which every rotated tensor has. The
    greedy choice, always the step that saves most per bit, is optimal but for the last steps, since the error is convex.

    sizes: weights of each tensor. sensitivities: a_i, 1 where it is not given: a relative error of one layer's matrix costs
        as much whatever its size, so that small matrices get more bits than large embeddings.

    Raises:
        UsageError: the average lies outside the widths, or a sensitivity is negative.
    """
    if not widths or not widths[0] <= average <= widths[-1]:
        raise UsageError(f"no widths average to {average} bits", hint=f"choose {widths[0]} to {widths[-1]}")
    weighed = {name: (sensitivities or {}).get(name, 1.0) for name in sizes}
    if not all(value >= 0 for value in weighed.values()):
        raise UsageError(
            "a sensitivity is negative", hint="give the rise of the loss per relative squared error, from 0"
        )
    bits = dict.fromkeys(sizes, widths[0])
    spare = average * sum(sizes.values()) - widths[0] * sum(sizes.values())

    def saved_per_bit(name: str) -> float:
        now, then = lloyd_max(bits[name]).distortion, lloyd_max(bits[name] + 1).distortion
        return weighed[name] * (now - then) / sizes[name]

    while True:
        fitting = [name for name in sizes if bits[name] < widths[-1] and sizes[name] <= spare + 1e-9]
        if not fitting:
            return bits
        chosen = max(fitting, key=lambda name: (saved_per_bit(name), name))
        bits[chosen] += 1
        spare -= sizes[chosen]
