"""Statistics of a corpus for people: a page in the terminal and a picture that needs no library (SVG)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from autoresearch.files import write_whole
from autoresearch.hostile_text import one_line
from autoresearch.report.corpus_statistics import NEAR_SIMILARITY, CorpusStatistics, LengthBin, ShardCount
from autoresearch.report.text import count, cut, duration, pad

_BAR = 40  # columns of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉"
_MOST_SHARDS = 12  # lines of shards; the middle of more is left out
_INK, _BLUE, _RED, _GREY = "#1f2933", "#2f6fb0", "#c0453a", "#d5dae0"


def corpus_text(found: CorpusStatistics, width: int = 100) -> str:
    """The whole page, lines of at most `width` columns."""
    lengths, same, packing = found.lengths, found.duplicates, found.packing
    lines = [
        f"{one_line(found.dataset)}, contract {found.contract}, vocabulary {found.vocab_size}",
        f"{found.num_documents:,} documents, {found.num_tokens:,} tokens, {found.num_bytes:,} bytes of text: "
        f"{found.bytes_per_token:.2f} bytes a token",
        "",
        f"tokens a document: mean {lengths.mean:,.0f}, median {lengths.median:,}, 90 % have at most {lengths.p90:,}, "
        f"99 % {lengths.p99:,}, the longest {lengths.longest:,}",
        *_histogram(lengths.bins, found.num_documents),
        f"{lengths.over_a_row:.1%} are longer than a row of {packing.row_len}",
        "",
        f"duplicates: {same.exact_documents:,} documents ({same.exact_documents / found.num_documents:.2%}) equal an "
        f"earlier one, {same.exact_tokens / found.num_tokens:.2%} of the tokens",
        f"nearly so (Jaccard {NEAR_SIMILARITY}): {same.near_documents:,} of a sample of {same.near_sample:,}",
        "",
        f"cropped by packing: {packing.cropped:.2%} of the tokens, by the published best-fit loader "
        f"{packing.published_cropped:.2%} ({packing.num_documents:,} documents)",
        f"an epoch: {found.epoch.num_rows:,} rows, {found.epoch.num_tokens:,} tokens to train on",
        f"time to exhaust it: {_time_to_exhaust(found)}",
        "",
        *_shard_lines(found.shards),
    ]
    return "\n".join(cut(line, width) for line in lines)


def corpus_picture(found: CorpusStatistics) -> str:
    """The picture as SVG text, 860 x 420: the histogram, and what packing throws away."""
    bins, packing = found.lengths.bins, found.packing
    most = max((one.num_documents for one in bins), default=1)
    step = 520 / max(1, len(bins))
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 420" width="860" height="420" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}">',
        '<rect width="860" height="420" fill="white"/>',
        _label(30, 28, f"{one_line(found.dataset)}: documents by length in tokens", size=16),
        _label(
            30,
            48,
            f"{count(found.num_documents)} documents, {count(found.num_tokens)} tokens, "
            f"{found.bytes_per_token:.2f} bytes a token, vocabulary {found.vocab_size}",
        ),
    ]
    for number, one in enumerate(bins):
        height = 290 * one.num_documents / most
        left = 50 + number * step
        title = f"{one.shortest} to {one.longest} tokens: {one.num_documents:,} documents"
        parts.append(_bar(left + 1, 370 - height, step - 2, height, _BLUE, title))
        parts.append(_label(left + step / 2, 388, count(one.shortest), anchor="middle", size=10))
        if one.num_documents:
            percent = f"{one.num_documents / found.num_documents:.1%}"
            parts.append(_label(left + step / 2, 366 - height, percent, anchor="middle", size=9))
    parts += [_line(50, 370, 570, 370), _label(310, 408, "tokens (each bar up to twice that)", anchor="middle")]
    parts.append(_label(620, 84, f"thrown away in rows of {packing.row_len}", size=13))
    shares = (("published best fit", packing.published_cropped, _RED), ("this packer", packing.cropped, _BLUE))
    scale = max(0.01, *(share for _, share, _ in shares))
    for number, (name, share, colour) in enumerate(shares):
        top = 100 + 50 * number
        parts += [
            _bar(620, top, 200, 18, _GREY, name),
            _bar(620, top, 200 * share / scale, 18, colour, f"{name}: {share:.2%}"),
            _label(620, top + 32, f"{name}: {share:.2%} of the tokens"),
        ]
    same = found.duplicates
    facts = [
        f"{found.lengths.over_a_row:.1%} of documents are longer than a row",
        f"{same.exact_documents / found.num_documents:.2%} equal an earlier one",
        f"{same.near_documents} of {same.near_sample:,} looked at nearly do",
        f"an epoch: {count(found.epoch.num_tokens)} tokens",
        "time to exhaust it: "
        + ("unknown, nothing measured" if found.epoch.seconds is None else duration(found.epoch.seconds)),
    ]
    parts += [_label(620, 240 + 22 * number, fact) for number, fact in enumerate(facts)]
    return "\n".join([*parts, "</svg>", ""])


def save_corpus_picture(found: CorpusStatistics, path: Path) -> Path:
    """Write the picture, whole or not at all; returns `path`. Raises DiskError when it cannot be written."""
    write_whole(path, corpus_picture(found))
    return path


def _histogram(bins: Sequence[LengthBin], num_documents: int) -> list[str]:
    most = max((one.num_documents for one in bins), default=1)
    digits = max((len(f"{one.longest:,}") for one in bins), default=1)
    lines = []
    for one in bins:
        eighths = round(8 * _BAR * one.num_documents / most)
        bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        if one.num_documents and not bar:
            bar = _EIGHTHS[1]
        share = f"{one.num_documents / num_documents:.1%}"
        lines.append(
            f"  {one.shortest:>{digits},} to {one.longest:>{digits},}  {pad(share, 6, right=True)}  {bar}".rstrip()
        )
    return lines


def _time_to_exhaust(found: CorpusStatistics) -> str:
    epoch = found.epoch
    if epoch.tok_sec is None or epoch.seconds is None:
        return "unknown, no trial of this contract has been measured here"
    speed = f"{count(epoch.tok_sec)} tokens/s ({epoch.speed_from})"
    return f"{duration(epoch.seconds)} at {speed}; a trial takes {epoch.per_budget:.2g} of it"


def _shard_lines(shards: Sequence[ShardCount]) -> list[str]:
    shown = list(shards)
    if len(shown) > _MOST_SHARDS:
        half = _MOST_SHARDS // 2
        shown = [*shown[:half], *shown[-half:]]
    names = [cut(one_line(shard.name), 40) for shard in shown]
    widest = max(len("shard"), *(len(name) for name in names))
    lines = [f"{pad('shard', widest)}  {'documents':>12}  {'tokens':>15}  bytes/token"]
    for name, shard in zip(names, shown, strict=True):
        ratio = f"{shard.num_bytes / shard.num_tokens:.2f}" if shard.num_tokens else "-"
        lines.append(f"{pad(name, widest)}  {shard.num_documents:>12,}  {shard.num_tokens:>15,}  {ratio:>11}")
    if len(shown) < len(shards):
        lines.insert(1 + len(shown) // 2, f"… {len(shards) - len(shown)} more, in --json …")
    return lines


def _label(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _bar(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    size = f'width="{max(0.0, width):.1f}" height="{max(0.0, height):.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}"><title>{escape(title)}</title></rect>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{_INK}"/>'
