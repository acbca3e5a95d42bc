"""Readers of event streams over a socket of their own, who stay or leave as they please."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

TEXT, CODE = "/api/v1/generate/text", "/api/v1/generate/code"
# Far above what anything takes; reached only where a promise is broken.
LONG = 20.0


def wait_until(true: Callable[[], object], seconds: float = LONG) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


# Events.


def events(lines: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """Name and data of each event; a comment has the name `comment`."""
    name, data = "message", []
    for line in _lines(lines):
        if line.startswith(b":"):
            yield "comment", line[1:].strip().decode()
        elif line.startswith(b"event: "):
            name = line[7:].decode()
        elif line.startswith(b"data: "):
            data.append(line[6:])
        else:
            assert line == b"", line
            if data:
                yield name, json.loads(b"\n".join(data))
            name, data = "message", []


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines, each as soon as it is there."""
    held = b""
    for piece in pieces:
        *lines, held = (held + piece).split(b"\n")
        yield from lines
    assert held == b"", "a stream ends with a whole event"


def said(told: Iterable[tuple[str, Any]]) -> str:
    """The text of the pieces, joined."""
    return "".join(
        next(value for field, value in data.items() if field.startswith("generated"))
        for name, data in told
        if name == "message"
    )


# Callers.


class Reader:
    """One caller with a connection of its own, who reads as the test wants."""

    def __init__(
        self,
        port: int,
        body: Any,
        path: str = TEXT,
        *,
        version: str = "1.1",
        buffer: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(LONG)
        self.socket.connect(("127.0.0.1", port))
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/{version}\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self.socket.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        self._file = self.socket.makefile("rb")
        self.status, self.headers = 0, {}

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers, names in lower case."""
        first = self._file.readline()
        if not first:
            raise ConnectionError("The server closed the connection without a reply.")
        self.status = int(first.split(b" ")[1])
        while line := self._file.readline().strip():
            name, _, value = line.decode("latin-1").partition(": ")
            assert name.lower() not in self.headers, f"{name} stands twice"
            self.headers[name.lower()] = value
        return self.status, self.headers

    def events(self) -> Iterator[tuple[str, Any]]:
        """After the head: events as they come, up to the end of the body."""
        chunked = self.headers.get("transfer-encoding") == "chunked"
        return events(self._chunks() if chunked else self._file)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._line(), 16):
            yield self._file.read(size)
            assert self._file.readline() == b"\r\n"
        assert self._file.readline() == b"\r\n"

    def _line(self) -> bytes:
        line = self._file.readline()
        if not line:
            raise ConnectionError("The body ends before its end.")
        return line

    def text(self) -> bytes:
        """The whole body of a plain reply."""
        return self._file.read(int(self.headers["content-length"]))

    def leave(self, *, reset: bool = True) -> None:
        """Hang up: with a reset, or politely; the first time counts."""
        if reset and self.socket.fileno() >= 0:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError):
            self._file.close()
        self.socket.close()
