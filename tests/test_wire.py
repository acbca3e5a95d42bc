"""wire.py: who is still there, and how long a slow reader is waited for; over a served house in test_sse_served.py."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from waitress.channel import ClientDisconnected

from tests.readers import LONG, wait_until
from wire import SLOW_READER_RATE, ReplyTask, was_reset

PATIENCE, WATERMARK = 30.0, 1000


class Slow:
    """A channel on a clock of ours, whose reader takes `step` bytes each time that `pace` seconds are over."""

    def __init__(self, step: int, pace: float) -> None:
        self.step, self.pace, self.now = step, pace, 0.0
        self.patience, self.connected = PATIENCE, True
        self.adj = SimpleNamespace(outbuf_high_watermark=WATERMARK)
        self.total_outbufs_len, self.closed = WATERMARK, 0
        # It plays its own lock, server and trigger.
        self.outbuf_lock = self.server = self.trigger = self
        self._task = ReplyTask(self, SimpleNamespace(version="1.1"))  # type: ignore[arg-type]  # as much of a channel as it needs

    def say(self, size: int) -> None:
        """One more piece, and the wait for room that comes before the next one."""
        self.total_outbufs_len += size
        self._task._wait_for_reader()

    def timer(self) -> float:
        return self.now

    def wait_for(self, made_room: Callable[[], bool], patience: float) -> bool:
        end = self.now + max(0.0, patience)
        while not made_room() and self.step and self.now + self.pace <= end:
            self.now += self.pace
            self.total_outbufs_len -= self.step
        self.now = self.now if made_room() else end
        return made_room()

    def handle_close(self) -> None:
        self.closed += 1

    def pull_trigger(self, thunk: Callable[[], None] | None = None) -> None:
        if thunk is not None:
            thunk()

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        """Nobody else is there."""


# Readers who are slow.


def cut_off(reader: Slow, size: int) -> float:
    """Speak in pieces of this size until the reader is given up; the moment of it."""
    for _ in range(1000):
        try:
            reader.say(size)
        except ClientDisconnected:
            assert reader.closed == 1
            return reader.now
    raise AssertionError("it is still waited for")


@pytest.mark.parametrize("size", [1, 10, 100, 100_000])
def test_a_reader_that_takes_a_byte_at_a_time_for_ever_is_cut_off_when_its_patience_is_over(size):
    assert PATIENCE * 0.7 < cut_off(Slow(step=1, pace=0.1), size) < PATIENCE * 1.01


def test_a_reader_that_takes_what_is_asked_of_it_is_never_cut_off():
    reader = Slow(step=SLOW_READER_RATE // 8, pace=1 / 8)
    for _ in range(1000):
        reader.say(SLOW_READER_RATE)
    assert (reader.closed, reader.now) == (0, pytest.approx(1000, rel=0.01))


def test_a_reader_that_pauses_has_its_patience_back_once_it_has_read_for_it():
    reader = Slow(step=SLOW_READER_RATE * 20, pace=20.0)
    for _ in range(10):
        reader.say(SLOW_READER_RATE * 20)
    assert (reader.closed, reader.now) == (0, 200.0)
    reader.step //= 2
    assert 200.0 + PATIENCE <= cut_off(reader, reader.step) <= 200.0 + 2 * PATIENCE


def test_what_a_fast_reader_has_read_is_no_patience_in_stock():
    reader = Slow(step=10**9, pace=0.001)
    for _ in range(100):
        reader.say(10**9)
    reader.step, began = 0, reader.now
    assert cut_off(reader, 1) == began + PATIENCE


# Readers who are gone.


@pytest.fixture
def pair() -> Iterator[tuple[Any, socket.socket]]:
    """A channel, and the socket of its reader."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname(), LONG)
        ours, _ = server.accept()
    with ours, theirs:
        yield SimpleNamespace(socket=ours), theirs


def test_a_reader_who_listens_is_there_whether_or_not_he_has_said_his_last_word(pair):
    channel, reader = pair
    assert not was_reset(channel)
    reader.sendall(b"more")
    assert not was_reset(channel)
    reader.shutdown(socket.SHUT_WR)
    assert channel.socket.recv(10) == b"more"
    assert channel.socket.recv(10) == b""
    assert not was_reset(channel)


def test_a_reader_who_has_reset_the_connection_is_gone(pair):
    channel, reader = pair
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reader.close()
    assert wait_until(lambda: was_reset(channel))


def test_a_reader_who_left_politely_is_gone_once_something_was_written_to_him(pair):
    channel, reader = pair
    reader.close()
    channel.socket.sendall(b"x")
    assert wait_until(lambda: was_reset(channel))


def test_a_connection_that_we_have_closed_has_no_reader(pair):
    channel, _ = pair
    channel.socket.close()
    assert was_reset(channel)
    channel.socket = None
    assert was_reset(channel)
