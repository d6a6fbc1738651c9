"""The methods that can be compared, by name: what each needs, and the forms that a list of them makes.

Ours are `scheme.METHODS`; a library's stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from autoresearch.quantize import library, scheme
from autoresearch.quantize.codec import TurboCodec
from autoresearch.quantize.evaluate import Form, check_bits
from autoresearch.quantize.measuring import Codec
from autoresearch.vocabulary import UsageError


@dataclass(frozen=True)
class Method:
    """is_random: another seed gives another code. needs_hessians: it wants calibration text."""

    name: str
    about: str
    is_random: bool
    needs_hessians: bool = False


def known_methods() -> dict[str, Method]:
    """Every method by name, ours first."""
    ours = [Method(name, how.title, how.rotated, how.feedback) for name, how in scheme.METHODS.items()]
    hqq = Method(library.METHOD, "HQQ, a maintained library's (extra: pip install hqq)", False)
    return {method.name: method for method in (*ours, hqq)}


# Data-free and with calibration. The trellis codes are better at 2 bits and take minutes to encode: named by who wants them.
DEFAULT_METHODS = "turboquant,turboquant_ldlq"

_ENTROPY_CODER = "constriction"

Missing = tuple[str, float | None, str]
"""A method that is left out, at which width (None: at any), and why."""


def chosen_methods(text: str) -> list[Method]:
    """The methods that a comma-separated list names; `all` is every one.

    Raises:
        UsageError: an unknown one; the message names the known ones.
    """
    known = known_methods()
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return list(known.values())
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None or not names:
        raise UsageError(
            f"unknown method {unknown or text!r}; known: {', '.join(known)}, or all", hint="--method turboquant"
        )
    return [known[name] for name in dict.fromkeys(names)]


def chosen_bits(text: str) -> list[float]:
    """The widths that a comma-separated list names, each once, in its order.

    Raises:
        UsageError: one is no number from 1 to 8.
    """
    found = []
    for part in text.split(","):
        try:
            found.append(float(part))
        except ValueError as error:
            raise UsageError(f"{part.strip()!r} is no number of bits", hint="--bits 2,3,4") from error
    return list(dict.fromkeys(check_bits(bits) for bits in found))


CodecFor = Callable[[Method, float, int], Codec[Any] | str]
"""The codec of a method at a width with a seed, or why there is none."""


def codec_for(
    method: Method, bits: float, seed: int, *, device: str = "cpu", metadata: Mapping[str, str] | None = None
) -> Codec[Any] | str:
    """Ours, or the library's where it is installed. metadata: texts for the header of our files."""
    if method.name == library.METHOD:
        if bits not in library.WIDTHS:
            return f"the library packs {', '.join(map(str, library.WIDTHS))} bits"
        return library.why_not_here() or library.HqqCodec(int(bits), device)
    how = scheme.METHODS[method.name]
    if how.grid == "uniform" and find_spec(_ENTROPY_CODER) is None:  # found out now, not after hours of other cells
        return f"entropy coding needs the package {_ENTROPY_CODER} (pip install 'autoresearch[quantize]')"
    low, high = how.widths
    if not low <= bits <= high:
        return f"it has widths from {low:g} to {high:g} bits"
    width = int(bits) if bits == int(bits) else bits
    return TurboCodec(scheme.Scheme(method.name, width, seed=seed), metadata or {}, device)


def forms_of(
    methods: Sequence[Method],
    widths: Sequence[float],
    seeds: Sequence[int],
    *,
    no_calibration: str = "",
    codec_of: CodecFor = codec_for,
) -> tuple[list[Form], list[Missing]]:
    """Every method at every width with every seed (a method without randomness: the first alone), and what is left out.

    no_calibration: why there is no calibration text, where there is none.
    """
    forms: list[Form] = []
    missing: list[Missing] = []
    for method in methods:
        if method.needs_hessians and no_calibration:
            missing.append((method.name, None, f"it feeds errors back by calibration text: {no_calibration}"))
            continue
        for bits in widths:
            for seed in seeds if method.is_random else seeds[:1]:
                codec = codec_of(method, bits, seed)
                if isinstance(codec, str):
                    missing.append((method.name, bits, codec))
                    break
                forms.append(Form(method.name, bits, seed, codec, method.needs_hessians))
    return forms, missing
