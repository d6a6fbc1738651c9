"""Frames on a socket: what goes in comes out, and nothing malformed, oversized or late gets through."""

import json
import math
import socket
import struct
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.contract import frames
from autoresearch.contract.frames import MAX_HEADER_BYTES, BrokenFrame, encode, receive, send


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    yield left, right
    left.close()
    right.close()


def raw(header: bytes) -> bytes:
    return struct.pack(">I", len(header)) + header


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=8).filter(lambda key: key != "n"), JSON_VALUES, max_size=4), st.binary())
def test_what_is_sent_is_received(header, payload):
    left, right = socket.socketpair()
    with left, right:
        send(left, header, payload)
        assert receive(right, len(payload)) == ({**header, "n": len(payload)}, payload)


def test_the_bytes_of_a_frame():
    assert encode({"op": "answer", "shape": [2, 3]}, 24) == b'\x00\x00\x00\x24{"op":"answer","shape":[2,3],"n":24}'


def test_frames_follow_each_other_without_a_gap(pair):
    left, right = pair
    send(left, {"op": "one"}, b"abc")
    send(left, {"op": "two"}, memoryview(b"defg"))
    assert receive(right, 10) == ({"op": "one", "n": 3}, b"abc")
    assert receive(right, 10) == ({"op": "two", "n": 4}, b"defg")


def test_a_payload_larger_than_the_socket_holds_arrives_whole(pair):
    left, right = pair
    payload = bytes(range(256)) * 16_384  # 4 MiB
    sender = threading.Thread(target=send, args=(left, {"op": "weights"}, payload))
    sender.start()
    header, got = receive(right, len(payload), 30.0)
    sender.join()
    assert header == {"op": "weights", "n": len(payload)}
    assert got == payload


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (b"not json", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b'{"n":' + b"9" * 5_000 + b"}", "not JSON"),  # more digits than Python reads: a ValueError of its own
        (b"[1]", "not a JSON object"),
        (b"3", "not a JSON object"),
        (b"{}", "payload of None bytes"),
        (b'{"n":-1}', "payload of -1 bytes"),
        (b'{"n":101}', "payload of 101 bytes, at most 100"),
        (b'{"n":true}', "payload of True bytes"),
        (b'{"n":1.0}', "payload of 1.0 bytes"),
        (b'{"n":"1"}', "payload of '1' bytes"),
        (b'{"n":NaN}', "payload of nan bytes"),
    ],
)
def test_a_malformed_frame_is_refused(pair, header, complaint):
    left, right = pair
    left.sendall(raw(header))
    with pytest.raises(BrokenFrame, match=complaint):
        receive(right, 100)


def test_a_header_beyond_the_limit_is_refused_before_it_is_read(pair):
    left, right = pair
    left.sendall(struct.pack(">I", MAX_HEADER_BYTES + 1))
    with pytest.raises(BrokenFrame, match="at most 65536 are accepted"):
        receive(right, 100)


def test_our_own_header_beyond_the_limit_is_refused():
    with pytest.raises(BrokenFrame, match="header of"):
        encode({"op": "x" * MAX_HEADER_BYTES})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_json_does_not_know_is_not_sent(pair, value):
    left, right = pair
    with pytest.raises(BrokenFrame):
        send(left, {"val_bpb": value})
    left.close()
    with pytest.raises(BrokenFrame, match="closed"):  # not one byte of it went out
        receive(right, 0)


@pytest.mark.parametrize("sent", [0, 3, 4, 10, len(encode({"op": "x"}, 5)), len(encode({"op": "x"}, 5)) + 4])
def test_a_frame_cut_anywhere_is_a_closed_channel(pair, sent):
    left, right = pair
    left.sendall((encode({"op": "x"}, 5) + b"12345")[:sent])
    left.close()
    with pytest.raises(BrokenFrame, match="closed the channel"):
        receive(right, 100)


def test_sending_to_a_closed_channel_is_a_broken_frame(pair):
    left, right = pair
    right.close()
    with pytest.raises(BrokenFrame):
        send(left, {"op": "x"}, b"1" * 10_000_000)


def test_a_silent_sender_is_late(pair):
    with pytest.raises(BrokenFrame, match="timed out"):
        receive(pair[1], 10, 0.01)


class Dripping:
    """A channel that always has one byte more, and a clock that moves 10 ms with each."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.now = 100.0
        self.timeouts: list[float | None] = []

    def monotonic(self) -> float:
        return self.now

    def gettimeout(self) -> None:
        return None

    def settimeout(self, seconds: float | None) -> None:
        self.timeouts.append(seconds)

    def recv_into(self, view: memoryview) -> int:
        self.now += 0.01
        view[0] = self.data[0]
        self.data = self.data[1:]
        return 1


def test_a_sender_that_drips_bytes_cannot_outlive_the_deadline(monkeypatch):
    channel = Dripping(encode({"op": "x"}, 5_000) + bytes(5_000))
    monkeypatch.setattr(frames, "time", SimpleNamespace(monotonic=channel.monotonic))
    with pytest.raises(BrokenFrame, match="timed out"):
        receive(channel, 10_000, 1.0)
    assert channel.now == pytest.approx(101.0, abs=0.011)


def test_a_deadline_is_for_one_frame_and_leaves_the_socket_as_it_was(pair):
    left, right = pair
    right.settimeout(7.0)
    send(left, {"op": "x"})
    receive(right, 0, 30.0)
    assert right.gettimeout() == 7.0
    with pytest.raises(BrokenFrame):
        receive(right, 0, 0.01)
    assert right.gettimeout() == 7.0


def test_headers_are_json_that_other_programs_read():
    body = encode({"op": "rows", "dtype": "<u2", "epoch": 1, "progress": 0.125}, 6)[4:]
    assert json.loads(body) == {"op": "rows", "dtype": "<u2", "epoch": 1, "progress": 0.125, "n": 6}
