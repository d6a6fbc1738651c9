"""What a benchmark shows on a terminal: a block per measurement, then the comparison. Plain lines, no colours."""

from __future__ import annotations

from autoresearch.backends.hardware import Hardware
from autoresearch.bench.benchmark import OURS, YOURS, Benchmark, Comparison, Measurement
from autoresearch.bench.record import (
    Circumstances,
    eval_seconds,
    mfu_percent,
    share_of,
    tokens_per_second,
    within_budget,
)
from autoresearch.bench.sampling import Spread, spread_of
from autoresearch.contract.rules import Clock, Rules

_LABEL = 16  # columns
_PART_NAMES = {"forward_backward": "forward+backward"}
_UNITS = {Clock.WALL: "seconds", Clock.CPU: "CPU seconds", Clock.STEPS: "micro-steps"}


def benchmark_text(benchmark: Benchmark, where: Circumstances) -> str:
    """All of it, a block each, with an empty line between."""
    head = _line(
        "machine",
        f"{where.hardware.chip} ({where.hardware.backend}, {where.threads} CPU thread{'s' if where.threads > 1 else ''});"
        f" contract {where.rules.preset}",
    )
    blocks = [head, *(_block(measured, where) for measured in benchmark.measurements)]
    blocks += [_comparison(found, benchmark, where) for found in benchmark.comparisons]
    if where.notes:
        blocks.append("\n".join(f"note: {note}" for note in where.notes))
    return "\n\n".join(blocks)


def _block(measured: Measurement, where: Circumstances) -> str:
    first, rules = measured.first, where.rules
    lines = [f"{where.paths[measured.label]}, {_mode_text(measured)}, {first['library']} on {first['device']}"]
    micro = f" in {first['micro_steps']} micro-steps" if first["micro_steps"] > 1 else ""
    unit = "whole step" if first["micro_steps_known"] else "batch"
    lines.append(
        _line(
            "text",
            f"{first['text']} tokens of {first['dataset']}, rows of {first['seq_len']};"
            f" {measured.tokens_per_step:,} tokens a {unit.rpartition(' ')[2]}{micro}",
        )
    )
    warm_up = ", ".join(str(run["warm_up_steps"]) for run in measured.runs)
    clock = "CPU time" if rules.clock is Clock.CPU else "wall time"
    counted = f"{clock} of {measured.step.num_samples} after a warm-up of {warm_up}"
    lines.append(_line(unit, f"{_spread_text(measured.step)}  {counted}"))
    for name, spread in measured.part_spreads().items():
        shown = f"{_spread_text(spread)}{share_of(spread, measured.step):6.1f} %"
        lines.append(_line(f"  {_PART_NAMES.get(name, name)}", shown))
    overhead = measured.overhead_seconds
    if overhead is None:
        lines.append(_line("  parts", f"not measured: {measured.parts_problem}"))
    else:
        part = 100 * overhead / measured.step.median
        lines.append(_line("  overhead", f"{_milliseconds(overhead):>12}{'':26}{part:6.1f} %"))
    lines += [
        _line("tokens/s", _speed_text(measured, rules)),
        _line("MFU", _mfu_text(measured, where.hardware)),
        _line(
            "peak memory", f"{max(run['memory']['mb'] for run in measured.runs):,.0f} MiB ({first['memory']['kind']})"
        ),
        _line("start-up", _startup_text(measured)),
        _line("evaluation", _evaluation_text(measured, rules)),
        _line("budget", _budget_text(measured, rules)),
    ]
    return "\n".join(lines)


def _comparison(found: Comparison, benchmark: Benchmark, where: Circumstances) -> str:
    pair = {measured.label: measured for measured in benchmark.measurements if measured.mode is found.mode}
    ours, yours = pair[OURS], pair[YOURS]
    ratio = found.ratio
    interval = f"95 %: {ratio.interval[0]:.3f} to {ratio.interval[1]:.3f}, " if ratio.interval else ""
    lines = [
        f"{where.paths[YOURS]} takes {ratio.ratio:.3f} times as long per token as {where.paths[OURS]}"
        f" ({interval}{len(ratio.pairs)} pair{'s' if len(ratio.pairs) > 1 else ''} of processes, order {found.order})"
    ]
    theirs = yours.part_spreads()
    for name, spread in ours.part_spreads().items():
        if name in theirs and spread.median > 0:
            scale = ours.tokens_per_step / yours.tokens_per_step
            lines.append(
                _line(f"  {_PART_NAMES.get(name, name)}", f"{theirs[name].median / spread.median * scale:9.3f}")
            )
    if ours.tokens_per_step != yours.tokens_per_step or ours.first["seq_len"] != yours.first["seq_len"]:
        lines.append(
            f"  not the same work: steps of {ours.tokens_per_step:,} and {yours.tokens_per_step:,} tokens,"
            f" rows of {ours.first['seq_len']} and {yours.first['seq_len']}"
        )
    return "\n".join(lines)


def _line(label: str, text: str) -> str:
    return f"  {label:<{_LABEL + 2}}{text}"


def _mode_text(measured: Measurement) -> str:
    if measured.compiled is None:
        return "as the file decides"
    return "compiled" if measured.compiled else "eager"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.2f} ms"


def _spread_text(spread: Spread) -> str:
    return f"{_milliseconds(spread.median):>12}  {f'({1000 * spread.q1:,.2f} to {1000 * spread.q3:,.2f})':<24}"


def _speed_text(measured: Measurement, rules: Rules) -> str:
    speed = f"{tokens_per_second(measured):,.0f}"
    if rules.clock is not Clock.CPU:
        return speed
    wall = measured.tokens_per_step / measured.wall_step.median
    return f"{speed} per CPU second; {wall:,.0f} by the clock on the wall"


def _mfu_text(measured: Measurement, hardware: Hardware) -> str:
    percent = mfu_percent(measured, hardware.peak_flops)
    if percent is not None:
        return f"{percent:.1f} %{' (the peak is an estimate)' if hardware.peak_is_estimate else ''}"
    if hardware.peak_flops is None:
        return "n/a (the peak of this device is not known)"
    return "n/a (the file does not say its FLOPs per token)"


def _startup_text(measured: Measurement) -> str:
    said = f"{measured.first['startup_seconds']:.1f} s to the first batch"
    later = [run["startup_seconds"] for run in measured.runs[1:]]
    if later:
        said += f", {spread_of(later).median:.1f} s in later processes"
    if measured.parts:
        said += f"; of it imports {measured.parts['import_seconds']:.1f} s, building {measured.parts['build_seconds']:.1f} s"
    compiling = measured.compile_seconds
    return said if compiling is None else f"{said}, compiling {compiling:.1f} s (nothing cached)"


def _evaluation_text(measured: Measurement, rules: Rules) -> str:
    seconds = eval_seconds(measured)
    if seconds is None or measured.parts is None:
        return "not measured"
    each = spread_of(measured.parts["eval_batch_seconds"]).median
    rows = min(measured.first["rows"], rules.num_eval_rows)
    return f"{seconds:.1f} s: {measured.parts['num_eval_batches']} batches of {rows} rows at {_milliseconds(each)}"


def _budget_text(measured: Measurement, rules: Rules) -> str:
    within = within_budget(measured, rules)
    budget = f"{rules.time_budget:g} {_UNITS[rules.clock]}"
    return f"{within.steps:,} steps, {within.tokens:,} tokens in {budget}"
