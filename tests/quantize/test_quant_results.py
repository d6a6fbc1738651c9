"""The files of an evaluation and of a benchmark, as others read them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoresearch.quantize import results
from autoresearch.quantize.benchmark import FAIR_BASELINE, summaries
from autoresearch.quantize.benchmark_report import LeftOut, benchmark_json, benchmark_text
from autoresearch.quantize.cells import Cell
from autoresearch.quantize.evaluate import Form, QuantRow
from autoresearch.quantize.intervals import Interval
from autoresearch.quantize.measuring import Fidelity, Measured, TensorFacts
from autoresearch.quantize.origin import Origin
from autoresearch.quantize.pictures import save_pictures
from autoresearch.quantize.recommending import recommend
from autoresearch.quantize.scoring import RowBits

DOCS = (Path(__file__).parents[2] / "docs" / "quantize.md").read_text(encoding="utf-8")

SETTING = results.Setting(
    checkpoint="logs/nov21/7",
    sha256="ab" * 32,
    origin=Origin("nov21", 7, "0123456789abcdef", "tiny", 1.9),
    preset="tiny",
    dataset="embedded",
    validation_sha256="cd" * 32,
    num_rows=2,
    num_tokens=512,
    num_bytes=1500,
    calibration_tokens=65536,
    noise=0.015,
    noise_from="the prior of contract tiny",
    scorer="reference",
    device="cpu",
)


def row(bits: int, size: int, lost: float | None) -> QuantRow:
    facts = (
        TensorFacts("wte.weight", (64, 32), "turboquant", bits, 64 * 32 * bits // 8),
        TensorFacts("x0_lambdas", (2,), "kept", None, 8),
    )
    after = None if lost is None else RowBits(np.array([1.0, 2.0]), np.array([1, 1]))
    measured = Measured(size, facts, Fidelity(0.01, 0.995, 0.99), after, 0.5, 0.25, 2.0, 512.0)
    loss = None if lost is None else Interval(lost, lost - 0.001, lost + 0.001)
    score = None if lost is None else 1.9 + lost
    return QuantRow(Form("turboquant", bits, 0, None), measured, 8000, 1.9, score, loss)


ROWS = [row(4, 1100, 0.0021), row(2, 600, 0.051), row(1, 400, None)]


def without_time(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.+Z]+", "NOW", text)


def test_the_table_begins_with_the_columns_of_results_tsv_and_is_this():
    lines = without_time(results.tsv_rows(SETTING, ROWS, recommend(ROWS, SETTING.noise))).splitlines()
    assert lines == [
        "0123456\t1.902100\t0.5\t256\tkeep\tquantized turboquant 4 bit of nov21 #7\t7\tturboquant\t4\t1100\t7.455\t3.727"
        "\t7.273\t0.99500\t20.000\t1.900000\t+0.002100\t+0.001100..+0.003100\t2.8\tnov21\tNOW",
        "0123456\t1.951000\t0.5\t256\tdiscard\tquantized turboquant 2 bit of nov21 #7\t7\tturboquant\t2\t600\t13.667\t6.833"
        "\t13.333\t0.99500\t20.000\t1.900000\t+0.051000\t+0.050000..+0.052000\t2.8\tnov21\tNOW",
        "0123456\t0.000000\t0.5\t256\tcrash\tquantized turboquant 1 bit of nov21 #7\t7\tturboquant\t1\t400\t20.500\t10.250"
        "\t20.000\t0.99500\t20.000\t1.900000\t\t\t2.8\tnov21\tNOW",
    ]
    from autoresearch.records.tables import COLUMNS

    assert results.COLUMNS[:6] == COLUMNS[:6]
    assert {len(line.split("\t")) for line in lines} == {len(results.COLUMNS)}


def test_a_hostile_name_makes_no_second_row():
    strange = replace(SETTING, checkpoint="a\tb\nc", origin=Origin())
    text = results.tsv_rows(strange, ROWS[:1], recommend(ROWS[:1], 1.0))
    assert text.count("\n") == 1 and text.count("\t") == len(results.COLUMNS) - 1


def test_rows_are_appended_under_one_header_and_a_torn_line_is_taken_off(tmp_path):
    path = tmp_path / "quant_results.tsv"
    lines = results.tsv_rows(SETTING, ROWS[:1], recommend(ROWS[:1], 1.0))
    results.append_tsv(path, lines)
    whole = path.read_text()
    path.write_text(whole + lines[:30])  # a kill while appending
    results.append_tsv(path, lines)
    assert path.read_text() == whole + lines
    results.append_tsv(path, lines)
    assert path.read_text() == whole + lines + lines


def test_a_strangers_file_of_that_name_is_set_aside_whole(tmp_path):
    path = tmp_path / "quant_results.tsv"
    path.write_text("method\tval_bpb\nold\t1.0\n")
    results.append_tsv(path, "x\n")
    assert (tmp_path / "quant_results.tsv.found").read_text() == "method\tval_bpb\nold\t1.0\n"
    assert path.read_text().splitlines() == ["\t".join(results.COLUMNS), "x"]


def keys_of(value, prefix="") -> set[str]:
    """Names of all keys, with those above them: `contract.preset`."""
    if isinstance(value, list):
        return set().union(*(keys_of(entry, prefix) for entry in value)) if value else set()
    if not isinstance(value, dict):
        return set()
    return {f"{prefix}{key}" for key in value} | set().union(
        *(keys_of(entry, f"{prefix}{key}.") for key, entry in value.items()), set()
    )


def documented(heading: str) -> set[str]:
    """The first column of the table under a heading of docs/quantize.md."""
    section = DOCS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


INTERVAL = {"value", "low", "high"}


def plain(keys: set[str]) -> set[str]:
    """Without the three keys that every interval has."""
    return {key for key in keys if key.rsplit(".", 1)[-1] not in INTERVAL}


def test_every_key_of_the_report_is_documented_and_no_other():
    report = results.report_json(SETTING, ROWS, finished=True)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert plain(keys_of(report)) == documented("quantize.json")
    assert (report["format"], report["version"], report["recommended"]["name"]) == (
        "autoresearch-quantize", 1, "turboquant 4 bit",
    )  # fmt: skip


def test_an_unfinished_report_recommends_nothing():
    report = results.report_json(SETTING, ROWS[:1], finished=False)
    assert report["finished"] is False and report["recommended"] is None


def test_the_table_for_people_ends_with_what_to_take_and_says_what_was_kept():
    text = results.table_text(SETTING, ROWS)
    assert "turboquant 4 bit **" in text and "turboquant 2 bit *" in text
    assert "quantized 1 of 2 tensors, 99.90% of the weights; kept as they are: x0_lambdas" in text
    assert "recommended: turboquant 4 bit: the smallest file whose loss, at most +0.0031 bpb" in text


def cells() -> tuple[RowBits, list[Cell]]:
    before = RowBits(np.array([1000.0, 2000.0, 1500.0]), np.array([500, 900, 700]))
    found = []
    for method, seeds in (("turboquant", (0, 1)), (FAIR_BASELINE, (0,)), ("trellis", (0,))):
        for bits in (2.0, 3.0):
            for seed in seeds:
                rows = before.bits + before.num_bytes * 0.1 * 4**-bits + 3.0 * seed
                found.append(
                    Cell(
                        method,
                        bits,
                        seed,
                        int(300 * bits),
                        2000,
                        1800,
                        bits + 0.1,
                        1.8 * 4**-bits,
                        0.98,
                        0.97,
                        0.5,
                        0.25,
                        1.0,
                        9.0,
                        rows,
                    )
                )
    return before, found


def test_every_key_of_the_benchmark_is_documented_and_no_other():
    before, found = cells()
    report = benchmark_json(SETTING, before, found, [LeftOut("hqq", None, "not installed")], num_cells=len(found))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert plain(keys_of(report)) == documented("benchmark.json")
    assert report["finished"] and report["num_cells"] == 8 and len(report["summaries"]) == 6


def test_the_benchmark_for_people_names_what_was_left_out_and_shows_theory_beside_the_measured():
    before, found = cells()
    text = benchmark_text(SETTING, before, found, [LeftOut("hqq", 3.0, "not installed")])
    assert "left out: hqq 3 bit: not installed" in text
    (line,) = [line for line in text.splitlines() if line.startswith("turboquant 3 bit")]
    assert "14.62" in line and f"{6.0206 * 3.1:.2f}" in line


@pytest.mark.slow
def test_the_pictures_are_drawn_and_have_the_size_that_is_promised(tmp_path):
    pytest.importorskip("matplotlib")
    before, found = cells()
    paths = save_pictures(summaries(before, found), tmp_path, noise=0.015, title="made up")
    assert [path.name for path in paths] == ["pareto_bpb.png", "pareto_sqnr.png"]
    for path in paths:
        head = path.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) == (1350, 900)
