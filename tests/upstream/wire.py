"""HTTP/1.1 by hand: a fault must decide about every byte, and every close, that a client sees.

A ready-made server repairs what we want broken: it completes bodies, sets lengths and closes politely.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

HEAD_LIMIT = 64 * 1024
PHRASES = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}  # Anthropic's own


@dataclass(frozen=True, slots=True)
class Request:
    verb: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What to send, and how: in one body, or as one chunk per piece, `pause` seconds apart.

    manner is whole, drip, hang, reset (before the first byte), or an end inside the body: cut (a close),
    half_closed (our side only) or reset_inside. Half of the body comes before such an end, or `kept` pieces
    of a chunked one. `seconds` bounds a hang and a half close, and is the time per byte of a drip.
    """

    status: int
    pieces: tuple[bytes, ...]
    content_type: str = "application/json; charset=UTF-8"
    headers: tuple[tuple[str, str], ...] = ()
    chunked: bool = False
    manner: str = "whole"
    wait: float = 0.0
    seconds: float = 0.0
    pause: float = 0.0
    kept: int | None = None


# Told how many pieces left (None: not even a head) and whether the whole reply did. It may be told twice: a
# reset that follows a whole reply takes the delivery back.
Told = Callable[[int | None, bool], None]


class Malformed(Exception):
    """The bytes are no request that this server reads."""


def read_request(buffer: bytearray) -> Request | None:
    """Take the first whole request out of the buffer; None while it is incomplete."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > HEAD_LIMIT:
            raise Malformed
        return None
    verb, target, headers = _head(bytes(buffer[:end]))
    whole = end + 4 + int(headers.get("content-length", 0))
    if len(buffer) < whole:
        return None
    body = bytes(buffer[end + 4 : whole])
    del buffer[:whole]
    return Request(verb, target, headers, body)


def _head(raw: bytes) -> tuple[str, str, dict[str, str]]:
    first, *lines = raw.decode("latin-1").split("\r\n")
    words = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if len(words) != 3 or "transfer-encoding" in headers or not headers.get("content-length", "0").isdigit():
        raise Malformed
    return words[0], words[1], headers


def head_of(reply: Reply) -> bytes:
    framing = (
        "Transfer-Encoding: chunked"
        if reply.chunked
        else f"Content-Length: {sum(len(piece) for piece in reply.pieces)}"
    )
    lines = [
        f"HTTP/1.1 {reply.status} {PHRASES[reply.status]}",
        f"Content-Type: {reply.content_type}",
        framing,
    ]
    lines += [f"{name}: {value}" for name, value in reply.headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def frame(reply: Reply, number: int) -> bytes:
    """One piece as it stands on the wire, the end mark of a chunked body included with the last."""
    piece = reply.pieces[number]
    if not reply.chunked:
        return piece
    end = b"0\r\n\r\n" if number == len(reply.pieces) - 1 else b""
    return b"%x\r\n%b\r\n%b" % (len(piece), piece, end)


class Connection(asyncio.Protocol):
    """One TCP connection: reads whole requests and plays one reply at a time."""

    def __init__(
        self,
        serve: Callable[[Connection, Request], Coroutine[Any, Any, None]],
        ended: Callable[[Connection], None],
    ) -> None:
        self._serve = serve
        self._ended = ended
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()
        self._left: asyncio.Future[None] = self._loop.create_future()
        self._drained: asyncio.Future[None] | None = None
        self._lost: Callable[[], None] | None = None
        self.task: asyncio.Task[None] | None = None

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=0)  # Drained must mean: all of it is with the kernel.

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self.task is None:
            self._next()

    def eof_received(self) -> bool:
        self._leave()
        return False

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        # The kernel answers unread bytes with a reset: the reply that we took for delivered was not read.
        if exc is not None and self._lost is not None:
            self._lost()
        self._leave()
        self.resume_writing()
        self._ended(self)

    def _leave(self) -> None:
        if not self._left.done():
            self._left.set_result(None)

    # Requests.

    def _next(self) -> None:
        try:
            request = read_request(self._buffer)
        except Malformed:
            self._transport.write(head_of(Reply(400, (b"",), headers=(("Connection", "close"),))))
            self._transport.close()
            return
        if request is not None:
            self.task = self._loop.create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        answered = False
        self._lost = None
        try:
            await self._serve(self, request)
            answered = True
        finally:
            self.task = None
            if not answered:
                self._transport.abort()
        if request.headers.get("connection", "").lower() == "close":
            self._transport.close()
        elif self._buffer:
            self._next()

    def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
        self._transport.abort()

    # Replies.

    @property
    def left(self) -> bool:
        return self._left.done() or self._transport.is_closing()

    async def rest(self, seconds: float) -> None:
        """Wait, but no longer than the client stays."""
        if seconds > 0 and not self.left:
            await asyncio.wait([self._left], timeout=seconds)

    async def play(self, reply: Reply, told: Told) -> None:
        await self.rest(reply.wait)
        if self.left:
            told(None, False)
            return
        await getattr(self, f"_play_{reply.manner}")(reply, told)

    async def _write(self, data: bytes) -> None:
        self._transport.write(data)
        if self._drained is not None:
            await self._drained

    async def _play_whole(self, reply: Reply, told: Told) -> None:
        count = len(reply.pieces)
        for number in range(count):
            await self.rest(reply.pause if number else 0.0)
            if self.left:
                return told(number, False)
            if number == count - 1:
                # Said before the last byte leaves: whoever has read the reply finds it in the journal.
                told(count, True)
                self._lost = lambda: told(count - 1, False)
            start = head_of(reply) if number == 0 else b""
            await self._write(start + frame(reply, number))
        return None

    async def _play_drip(self, reply: Reply, told: Told) -> None:
        body = b"".join(frame(reply, number) for number in range(len(reply.pieces)))
        await self._write(head_of(reply))
        for place in range(len(body)):
            await self.rest(reply.seconds)
            if self.left:
                return told(0, False)
            if place == len(body) - 1:
                told(len(reply.pieces), True)
                self._lost = lambda: told(0, False)
            await self._write(body[place : place + 1])
        return None

    async def _play_cut(self, reply: Reply, told: Told) -> None:
        await self._begin(reply, told)
        self._transport.close()

    async def _play_half_closed(self, reply: Reply, told: Told) -> None:
        await self._begin(reply, told)
        if not self.left:
            self._transport.write_eof()
        await self.rest(reply.seconds)
        self._transport.abort()

    async def _play_reset_inside(self, reply: Reply, told: Told) -> None:
        await self._begin(reply, told)
        self._reset()

    async def _begin(self, reply: Reply, told: Told) -> None:
        """The head and the first part of the body."""
        count = len(reply.pieces) // 2 or 1 if reply.kept is None else min(reply.kept, len(reply.pieces) - 1)
        pieces = [frame(reply, number) for number in range(count)] if reply.chunked else []
        if not reply.chunked:
            whole = b"".join(reply.pieces)
            pieces = [whole[: len(whole) // 2]]
        told(count if reply.chunked else 0, False)
        await self._write(head_of(reply) + b"".join(pieces))

    async def _play_reset(self, reply: Reply, told: Told) -> None:
        told(None, False)
        self._reset()

    def _reset(self) -> None:
        # Without lingering, a close is a reset in place of a polite end.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def _play_hang(self, reply: Reply, told: Told) -> None:
        await self.rest(reply.seconds)
        told(None, False)
        self._transport.abort()
