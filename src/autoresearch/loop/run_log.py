"""What may be read from a candidate's raw output: bounded, cleaned, shown, never decided on."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from autoresearch.hostile_text import plain_line

_KEPT_HEAD = 64 * 1024
_KEPT_TAIL = 192 * 1024
_LOSS = re.compile(r"loss:\s*([0-9]+(?:\.[0-9]+)?)")
# the last line of a traceback: Python's own names, and those of this package's errors, which a recipe meets
_ERROR = re.compile(
    r"[A-Za-z_.]{1,80}(Error|Exception|Interrupt|Exit|Iteration)\b|autoresearch\.[a-z_.]{1,60}\.[A-Z]\w{0,40}: "
)
_SUMMARY_LINE = re.compile(r"([A-Za-z_]{1,32}):\s+([0-9][0-9.,]{0,24})\s*")
SUMMARY_KEYS = (
    "training_seconds",
    "total_seconds",
    "peak_vram_mb",
    "mfu_percent",
    "total_tokens_M",
    "num_steps",
    "num_params_M",
    "depth",
)


def read_log(path: Path) -> str:
    """The run's output as text: all of it, or head and tail when it is long."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size <= _KEPT_HEAD + _KEPT_TAIL:
            return stream.read().decode(errors="replace")
        head = stream.read(_KEPT_HEAD)
        stream.seek(size - _KEPT_TAIL)
        tail = stream.read()
    cut = f"\n[... {size - _KEPT_HEAD - _KEPT_TAIL} bytes left out ...]\n"
    return head.decode(errors="replace") + cut + tail.decode(errors="replace")


def tail_of(text: str, lines: int = 20) -> str:
    """The last lines that say something, made safe (`hostile_text`), at most 200 characters each."""
    found: list[str] = []
    for line in reversed(text.replace("\r\n", "\n").split("\n")):
        if len(found) == lines:
            break
        if clean := plain_line(line, 200):
            found.append(clean)
    return "\n".join(reversed(found))


def last_loss(path: Path) -> float | None:
    """The loss printed last, for the live line; None when there is none yet."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        stream.seek(max(0, size - 400))
        found = _LOSS.findall(stream.read().decode(errors="replace"))
    loss = float(found[-1]) if found else math.inf
    return loss if math.isfinite(loss) else None  # 400 digits are no number


def claimed_summary(text: str) -> dict[str, float]:
    """Numbers of the candidate's own `---` block, by the field's keys: for the tables, never for a decision."""
    claimed: dict[str, float] = {}
    block = text.rsplit("\n---\n", 1)
    for line in block[-1].splitlines() if len(block) == 2 else []:
        match = _SUMMARY_LINE.fullmatch(line)
        if match and match[1] in SUMMARY_KEYS:
            try:
                value = float(match[2].replace(",", ""))
            except ValueError:
                continue  # "1.2.3" is not a number of ours
            if math.isfinite(value):
                claimed[match[1]] = value
    return claimed


def why_it_ended(text: str, code: int | None) -> tuple[bool, str]:
    """(whether it diverged by its own fast-fail, one line that says why a run ended without a score)."""
    tail = tail_of(text, 40)
    lines = tail.splitlines()
    if any(line.strip() == "FAIL" for line in lines[-5:]):
        return True, "loss became NaN or exceeded 100"
    lowered = tail.lower()
    if "out of memory" in lowered or "memoryerror" in lowered or "can't allocate memory" in lowered:
        return False, "out of memory"
    errors = [line for line in lines if _ERROR.match(line)]
    if errors:
        return False, errors[-1]
    if code is not None and code < 0:
        return False, f"killed by signal {-code}"
    return False, f"ended with exit code {code} before it was done"
