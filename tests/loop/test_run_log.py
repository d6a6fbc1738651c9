"""What may be read from a candidate's raw output: bounded and cleaned, whatever it wrote."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.loop.run_log import SUMMARY_KEYS, claimed_summary, last_loss, read_log, tail_of, why_it_ended

SUMMARY = """step 00007 | loss: 5.300
---
val_bpb:          0.997900
training_seconds: 300.1
total_seconds:    325.9
peak_vram_mb:     45060.2
mfu_percent:      39.80
total_tokens_M:   499.6
num_steps:        953
num_params_M:     50.3
depth:            8
"""


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_short_log_is_read_whole(tmp_path):
    path = tmp_path / "log"
    path.write_bytes("one\ntwo é\n".encode())
    assert read_log(path) == "one\ntwo é\n"


def test_bytes_that_are_no_text_do_not_stop_the_reading(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"good\xff\xfebad\x00\n")
    assert read_log(path) == "good\ufffd\ufffdbad\x00\n"


def test_a_long_log_keeps_head_and_tail_and_says_what_it_left_out(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"FIRST" + b"x" * 3_000_000 + b"LAST")
    text = read_log(path)
    assert text.startswith("FIRST") and text.endswith("LAST")
    assert f"{3_000_009 - 256 * 1024} bytes left out" in text
    assert len(text) < 300_000


# -- tail -------------------------------------------------------------------------------------------------------------


def test_a_progress_line_shows_only_its_last_state():
    assert tail_of("step 1\rstep 2\rstep 3\nend\n") == "step 3\nend"


def test_windows_line_ends_keep_their_line():
    assert tail_of("one\r\ntwo\r\n") == "one\ntwo"


def test_escapes_that_colour_move_and_clear_are_removed():
    assert tail_of("\x1b[31mred\x1b[0m \x1b[2J\x1b[1;1Hhome\x1b[?25l\x1bc") == "red home"


def test_characters_that_control_a_terminal_or_turn_text_around_are_removed():
    assert tail_of("a\x07b\x00c\x9bmd\u202ee\u2066f\u200bg\ufeffh\xad\u061ci") == "abcdefghi"
    assert tail_of("\ttab, é and 漢 stay") == "    tab, é and 漢 stay"


def test_blank_lines_do_not_push_out_the_reason():
    assert tail_of("reason\n" + "\n \n" * 100) == "reason"


def test_the_tail_has_at_most_the_lines_asked_for():
    text = "\n".join(str(number) for number in range(100))
    assert tail_of(text).splitlines() == [str(number) for number in range(80, 100)]
    assert tail_of(text, 2) == "98\n99"


@given(st.text())
def test_a_tail_is_bounded_and_holds_nothing_that_drives_a_terminal(text):
    lines = tail_of(text * 3).split("\n")
    assert len(lines) <= 20
    assert all(len(line) <= 200 for line in lines)
    kinds = {unicodedata.category(char) for line in lines for char in line}
    turns = {unicodedata.bidirectional(char) for line in lines for char in line}
    assert not kinds & {"Cc", "Cs", "Zl", "Zp"}
    assert not turns & {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


# -- loss -------------------------------------------------------------------------------------------------------------


def test_the_last_loss_is_the_one_printed_last(tmp_path):
    path = tmp_path / "log"
    path.write_text("loss: 9.5\n" + "x" * 1000 + "\rstep 1 | loss: 6.25 | lr\rstep 2 | loss: 5 ")
    assert last_loss(path) == 5.0


@pytest.mark.parametrize(
    "text", ["", "no number here\n", "loss: nan\n", "loss: 3.0\n" + "x" * 500, "loss: " + "9" * 390]
)
def test_there_is_no_loss_before_one_is_printed_long_after_or_beyond_all_numbers(tmp_path, text):
    path = tmp_path / "log"
    path.write_text(text)
    assert last_loss(path) is None


# -- claims -----------------------------------------------------------------------------------------------------------


def test_the_summary_gives_the_known_numbers_and_never_the_score():
    assert claimed_summary(SUMMARY) == {
        "training_seconds": 300.1,
        "total_seconds": 325.9,
        "peak_vram_mb": 45060.2,
        "mfu_percent": 39.8,
        "total_tokens_M": 499.6,
        "num_steps": 953.0,
        "num_params_M": 50.3,
        "depth": 8.0,
    }


def test_only_the_last_block_counts():
    assert claimed_summary(SUMMARY + "---\nnum_steps:  12\n") == {"num_steps": 12.0}


def test_lines_before_any_block_claim_nothing():
    assert claimed_summary("num_steps:  12\ndepth:  3\n") == {}


def test_unknown_keys_are_not_taken():
    assert claimed_summary("x\n---\nval_bpb:   0.1\ncommit:   7\n__class__:   1\ndepth:   4\n") == {"depth": 4.0}


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e999", "1.2.3", "9" * 400, "0x10", "", "12 MB", "٣"])
def test_a_value_that_is_no_plain_finite_number_is_not_taken(value):
    assert claimed_summary(f"x\n---\nnum_steps:   {value}\ndepth:   4\n") == {"depth": 4.0}


def test_thousands_may_be_separated():
    assert claimed_summary("x\n---\nnum_steps:   1,234\n") == {"num_steps": 1234.0}


@given(st.text(alphabet="-\n:. ,0123456789einf_abdehpstu\r"))
def test_claims_are_finite_numbers_under_known_keys(text):
    claimed = claimed_summary("\n---\n" + text)
    assert set(claimed) <= set(SUMMARY_KEYS)
    assert all(math.isfinite(value) and value >= 0 for value in claimed.values())


# -- why it ended -----------------------------------------------------------------------------------------------------


def test_the_fast_fail_of_the_field_is_a_divergence():
    assert why_it_ended("step 3 | loss: nan\nFAIL\n", 1) == (True, "loss became NaN or exceeded 100")


def test_fail_inside_a_line_or_long_ago_is_no_divergence():
    assert why_it_ended("a FAIL in a line\n", 1)[0] is False
    assert why_it_ended("FAIL\n" + "more\n" * 10, 1)[0] is False


@pytest.mark.parametrize(
    "text",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB\n",
        "Traceback (most recent call last):\nMemoryError\n",
        "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\n",
    ],
)
def test_every_way_to_run_out_of_memory_is_named_alike(text):
    assert why_it_ended(text, 1) == (False, "out of memory")


def test_the_last_error_line_is_the_reason():
    text = 'KeyError: 1\n\nDuring handling\n\nTraceback (most recent call last):\n  File "t.py", line 1\nValueError: no heads\n'
    assert why_it_ended(text, 1) == (False, "ValueError: no heads")


def test_an_error_of_a_package_is_a_reason_too():
    assert why_it_ended("torch._dynamo.exc.BackendCompilerException: gcc\n", 1)[1].endswith("Exception: gcc")


def test_a_word_that_only_begins_like_an_error_is_no_reason():
    assert why_it_ended("Errors were found: 3\n", 3) == (
        False,
        "ended with exit code 3 before it was done",
    )


def test_a_signal_is_named_when_the_log_says_nothing():
    assert why_it_ended("step 1\n", -9) == (False, "killed by signal 9")


def test_a_silent_exit_says_that_no_weights_came():
    assert why_it_ended("", 0) == (False, "ended with exit code 0 before it was done")


@given(st.text(), st.none() | st.integers(-64, 255))
def test_the_reason_is_one_bounded_line(text, code):
    _diverged, reason = why_it_ended(text, code)
    assert reason
    assert len(reason.splitlines()) == 1
    assert len(reason) <= 200
