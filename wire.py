"""Replies on the wire: what waitress is taught of headers, drains, and readers who leave, stop or read slowly."""

from __future__ import annotations

import select
import time
from contextlib import suppress
from typing import Any

from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.server import BaseWSGIServer
from waitress.task import WSGITask

from api.visit import VISIT, WRITTEN_BY_SERVER
from services import Load

# A reader that stops holds a thread for so many seconds; one that reads so many bytes a second is waited for.
SLOW_READER_SECONDS, SLOW_READER_RATE = 30.0, 16 * 1024


class ReplyTask(WSGITask):  # type: ignore[misc]  # waitress ships no types
    """One reply. A reader that has hung up is noticed by the second piece that it does not get: waitress would write
    two more."""

    def __init__(self, channel: ReplyChannel, request: Any) -> None:
        super().__init__(channel, request)
        self._patience = channel.patience

    def write(self, data: bytes) -> None:
        if was_reset(self.channel):
            raise ClientDisconnected
        if self.channel.total_outbufs_len > self.channel.adj.outbuf_high_watermark:
            self._wait_for_reader()
        super().write(data)

    def _wait_for_reader(self) -> None:
        """Patience ends for good with readers that stop, and comes back with what they read."""
        unread = self.channel.total_outbufs_len
        waited = wait_for_reader(self.channel, self._patience)
        earned = (unread - self.channel.total_outbufs_len) / SLOW_READER_RATE
        self._patience = min(self.channel.patience, self._patience - waited + earned)

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[WRITTEN_BY_SERVER] = True
        return environ

    def build_response_header(self) -> bytes:
        """While draining each connection ends with its reply, or a busy client would keep the process for ever. The
        headers of a visit are written as they are: waitress would check, spell and sort twenty of them one by one, a
        tenth of a cached hit."""
        if self.channel.load.draining:
            self.request.headers["CONNECTION"] = "close"  # as if the client had asked for it
        header: bytes = super().build_response_header()
        visit = self.get_environment().get(VISIT)
        return header if visit is None else header[:-2] + visit.header_lines() + b"\r\n"


class ReplyChannel(HTTPChannel):  # type: ignore[misc]  # waitress ships no types
    """One connection."""

    task_class = ReplyTask
    timer = staticmethod(time.monotonic)
    load: Load
    patience: float

    def writable(self) -> bool:
        if self.will_close and self.total_outbufs_len:  # waitress would wait for room that never comes
            self.handle_close()
            return False
        return bool(super().writable())

    def received(self, data: bytes) -> bool:
        try:
            return bool(super().received(data))
        except ValueError:  # its parser trips over some addresses and lengths
            self.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self.handle_close()
            return False


def speak_for_the_house(
    server: BaseWSGIServer, load: Load, slow_reader_seconds: float = SLOW_READER_SECONDS
) -> None:
    """Let a server reply in this way."""

    class Channel(ReplyChannel):
        pass

    Channel.load, Channel.patience = load, slow_reader_seconds
    server.channel_class = Channel


def was_reset(channel: HTTPChannel) -> bool:
    """Whether the other side is gone. One that has only said its last word may still be listening."""
    watched = select.poll()
    with suppress(TypeError, ValueError, OSError):  # closed by the I/O loop in this very moment
        watched.register(channel.socket, 0)
        return bool(watched.poll(0))
    return True


def wait_for_reader(channel: HTTPChannel, patience: float) -> float:
    """The seconds until the reader had made room. Raises ClientDisconnected where it did not in time."""
    began: float = channel.timer()
    channel.server.pull_trigger()
    with channel.outbuf_lock:
        made_room = channel.outbuf_lock.wait_for(
            lambda: not channel.connected or channel.total_outbufs_len <= channel.adj.outbuf_high_watermark,
            patience,
        )
    if not made_room:
        channel.server.trigger.pull_trigger(channel.handle_close)  # with what it has not read
        raise ClientDisconnected
    waited: float = channel.timer() - began
    return waited
