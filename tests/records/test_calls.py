import sqlite3
import threading

import pytest
from ledgers import open_ledger, run_on_small_disk

from autoresearch.records.calls import CallBook, CallState, Cost, Spending
from autoresearch.records.ledger import Ledger
from autoresearch.vocabulary import LedgerError


@pytest.fixture
def book(tmp_path):
    opened = CallBook(tmp_path / "state" / "ledger.sqlite3")
    yield opened
    opened.close()


def begin(book, *, tag="nov21", number=1, provider="openai", worst_usd=0.5, **changes):
    values = {"request_sha256": "a" * 64, "input_tokens": 1000, "most_output_tokens": 4096, "worst_usd": worst_usd}
    return book.begin(tag, number, "improve", provider, "gpt-5", **{**values, **changes})


def test_a_call_comes_back_as_it_went_in(book):
    call_id = begin(book)
    book.end(
        call_id,
        CallState.ANSWERED,
        cost=Cost(900, 300, 100, 250, False, 0.004),
        seconds=12.5,
        reply_sha256="b" * 64,
    )
    (call,) = book.of("nov21")
    assert (call.id, call.tag, call.number, call.purpose) == (call_id, "nov21", 1, "improve")
    assert (call.provider, call.model, call.state, call.why) == ("openai", "gpt-5", CallState.ANSWERED, "")
    assert (call.request_sha256, call.reply_sha256) == ("a" * 64, "b" * 64)
    assert (call.input_tokens, call.output_tokens, call.cached_tokens, call.reasoning_tokens) == (900, 300, 100, 250)
    assert (call.usd, call.worst_usd, call.worst_tokens, call.estimated) == (0.004, 0.5, 5096, False)
    assert call.seconds == 12.5
    assert call.started_at <= call.ended_at


def test_a_call_that_never_ended_counts_at_its_worst(book):
    begin(book)
    assert book.totals("nov21") == Spending(1, 1000, 4096, 0.5, False)
    assert book.totals("nov21").tokens == 5096


def test_a_call_ends_once(book):
    call_id = begin(book)
    book.end(call_id, CallState.FAILED, cost=Cost(), seconds=1.0, why="HTTP 500")
    book.end(call_id, CallState.ANSWERED, cost=Cost(9, 9, usd=9.0), seconds=9.0)
    (call,) = book.of("nov21")
    assert (call.state, call.why, call.usd, call.input_tokens) == (CallState.FAILED, "HTTP 500", 0.0, 0)


def test_a_call_whose_cost_nobody_knows_keeps_its_worst(book):
    book.end(begin(book), CallState.FAILED, cost=None, seconds=3.0, why="stopped")
    assert book.totals("nov21").usd == 0.5


def test_an_answer_that_cannot_be_used_is_still_paid_for(book):
    call_id = begin(book)
    book.end(call_id, CallState.ANSWERED, cost=Cost(10, 5, usd=0.1), seconds=1.0)
    book.mark_unusable(call_id, "no edit in it")
    assert (book.of("nov21")[0].state, book.of("nov21")[0].why) == (CallState.UNUSABLE, "no edit in it")
    assert book.totals("nov21").usd == 0.1


def test_only_an_answer_can_be_called_unusable(book):
    call_id = begin(book)
    book.mark_unusable(call_id, "too early")
    assert book.of("nov21")[0].state is CallState.BEGUN


def test_sums_are_of_one_session_or_one_experiment_of_it(book):
    for tag, number in (("nov21", 1), ("nov21", 2), ("dec24", 1)):
        book.end(begin(book, tag=tag, number=number), CallState.ANSWERED, cost=Cost(10, 1, usd=0.25), seconds=1.0)
    assert book.totals("nov21") == Spending(2, 20, 2, 0.5, False)
    assert book.totals("nov21", 2) == Spending(1, 10, 1, 0.25, False)
    assert book.totals("never") == Spending()
    assert [call.number for call in book.of("nov21", 2)] == [2]


def test_an_unknown_price_makes_the_sum_partial_and_not_zero(book):
    book.end(begin(book), CallState.ANSWERED, cost=Cost(10, 1, usd=0.25), seconds=1.0)
    book.end(begin(book, worst_usd=None), CallState.ANSWERED, cost=Cost(10, 1, usd=None), seconds=1.0)
    assert book.totals("nov21") == Spending(2, 20, 2, 0.25, True)


def test_replayed_calls_are_counted_and_their_tokens_are_not(book):
    book.end(begin(book, provider="replay", worst_usd=0.0), CallState.ANSWERED, cost=Cost(10, 1), seconds=0.0)
    assert book.totals("nov21") == Spending(1, 0, 0, 0.0, False)
    assert book.of("nov21")[0].input_tokens == 10


def test_what_a_coding_agent_says_it_spent_is_in_the_sums(book):
    book.add_external("nov21", 3, "improve", "cli", "claude", cost=Cost(5000, 700, usd=0.31), seconds=90.0)
    (call,) = book.of("nov21", 3)
    assert (call.state, call.request_sha256, call.seconds) == (CallState.ANSWERED, None, 90.0)
    assert book.totals("nov21") == Spending(1, 5000, 700, 0.31, False)


def test_absurd_counts_of_a_provider_do_not_break_the_book(book):
    book.end(begin(book), CallState.ANSWERED, cost=Cost(10**40, -5), seconds=1.0)
    assert book.totals("nov21").output_tokens == 0
    assert book.totals("nov21").input_tokens == 2**53


def test_a_reason_is_one_bounded_line_without_controls(book):
    book.end(begin(book), CallState.FAILED, cost=Cost(), seconds=1.0, why="bad\x1b[31m\nworse " + "x" * 5000)
    why = book.of("nov21")[0].why
    assert why.startswith("bad worse xxx")
    assert len(why) <= 400


def test_book_and_ledger_share_a_file_whichever_comes_first(tmp_path):
    ledger = open_ledger(tmp_path / "a")
    book = CallBook(ledger.path)
    begin(book)
    ledger.back_up()
    assert ledger.check() == "ok"
    with sqlite3.connect(ledger.backup_path) as copy:
        assert copy.execute("SELECT count(*) FROM calls").fetchone() == (1,)
    copy.close()
    book.close()
    ledger.close()

    first = CallBook(tmp_path / "b" / "ledger.sqlite3")
    begin(first)
    second = Ledger(first.path)
    assert second.sessions() == []
    assert len(first.of("nov21")) == 1
    second.close()
    first.close()


def test_the_file_is_kept_as_carefully_as_the_ledger(book):
    assert book._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert book._db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_a_damaged_file_is_a_ledger_error_with_a_way_out(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"this is no database, and it is long enough to be looked at" * 20)
    with pytest.raises(LedgerError, match="damaged") as caught:
        CallBook(path)
    assert "mv ledger.sqlite3*" in caught.value.hint


def test_an_emptied_file_beside_its_copy_is_not_begun_anew(tmp_path):
    (tmp_path / "ledger.sqlite3").touch()
    (tmp_path / "ledger.backup.sqlite3").write_bytes(b"a copy")
    with pytest.raises(LedgerError, match="it is empty"):
        CallBook(tmp_path / "ledger.sqlite3")


def test_a_full_disk_is_said_in_our_words(tmp_path):
    printed = run_on_small_disk(
        tmp_path,
        """
        from autoresearch.records.calls import CallBook
        from autoresearch.vocabulary import LedgerError
        book = CallBook(DISK / "ledger.sqlite3")
        try:
            for number in range(5000):
                book.begin("t", number, "p" * 400, "openai", "m", request_sha256="a" * 64, input_tokens=1,
                           most_output_tokens=1, worst_usd=None)
        except LedgerError as error:
            print(error.message)
        """,
    )
    assert "disk full" in printed


def test_two_writers_at_once_lose_nothing(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    CallBook(path).close()

    def write(number):
        own = CallBook(path)
        for _ in range(10):
            own.end(begin(own, number=number), CallState.ANSWERED, cost=Cost(1, 1), seconds=0.0)
        own.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    book = CallBook(path)
    assert book.totals("nov21").tokens == 60
    book.close()
