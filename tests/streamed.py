"""What the tests of streams share: a provider that says what the test wants when it wants, events, and a real socket."""

from __future__ import annotations

import json
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from typing import Any

from waitress import wasyncore

from conftest import House
from errors import UpstreamFault
from providers.base import Call, Piece, Reply
from providers.sandbox import SandboxProvider
from serve import open_server
from tasks import Usage
from wire import speak_for_the_house

MODEL = "gemini-3.1-flash-lite"
TEXT, CODE = "/api/v1/generate/text", "/api/v1/generate/code"
USAGE = Usage(10, 5)
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


# A provider under direction.


class Directed(SandboxProvider):
    """Says what it is told to, piece by piece; closed in the middle it notes that somebody hung up on it."""

    name = "gemini"

    def __init__(self, usage: Usage | None = USAGE, *, name: str = "gemini") -> None:
        self.name, self._usage = name, usage
        self._lines: queue.SimpleQueue[str | UpstreamFault | None] = queue.SimpleQueue()
        self.calls: list[Call] = []
        self.called = threading.Semaphore(0)
        self.hung_up = threading.Event()
        self.closed = threading.Event()

    def say(self, *texts: str) -> None:
        for text in texts:
            self._lines.put(text)

    def fail(self, fault: BaseException) -> None:
        self._lines.put(fault)

    def end(self) -> None:
        self._lines.put(None)

    def models(self, requested: str | None) -> tuple[str, ...]:
        return (requested or MODEL,)

    def call(self, call: Call) -> Reply:
        pieces = self.stream(call)
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                return end.value

    def stream(self, call: Call) -> Generator[Piece, None, Reply]:
        text = ""
        self.calls.append(call)
        self.called.release()
        try:
            while (line := self._lines.get(timeout=LONG)) is not None:
                if isinstance(line, BaseException):
                    raise line
                text += line
                yield Piece(line, MODEL)
            return Reply(text, self._usage, MODEL)
        except GeneratorExit:
            self.hung_up.set()
            raise
        finally:
            self.closed.set()


# A real socket.


class Served:
    """A house on a real socket, as serve.py serves it, inside this process; a context manager."""

    def __init__(self, house: House, **keywords: Any) -> None:
        self.house = house
        self.server = open_server(house.app, house.settings)
        speak_for_the_house(self.server, house.services.load, **keywords)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.server.pull_trigger()
        self._thread.join(LONG)
        self.server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self.server._map)

    def _loop(self) -> None:
        while not self._over.is_set():
            wasyncore.loop(timeout=0.05, map=self.server._map, use_poll=True, count=1)

    @property
    def port(self) -> int:
        return int(self.server.effective_port)

    @property
    def at_work(self) -> int:
        """Threads that serve somebody."""
        return int(self.server.task_dispatcher.active_count)

    def quiet(self) -> bool:
        """Whether nothing of any stream is left: no road, thread, flight, or place at the gate."""
        services = self.house.services
        left = (services.roads.under_way(), services.gate.in_air, services.flights.in_air(), self.at_work)
        return not any(left)


class Reader:
    """One caller with a connection of its own, who reads as the test wants."""

    def __init__(
        self, port: int, body: Any, path: str = TEXT, *, version: str = "1.1", buffer: int = 0
    ) -> None:
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(LONG)
        self.socket.connect(("127.0.0.1", port))
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/{version}\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self.socket.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        self._file = self.socket.makefile("rb")
        self.status, self.headers = 0, {}

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers, names in lower case."""
        self.status = int(self._file.readline().split(b" ")[1])
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
        while size := int(self._file.readline(), 16):
            yield self._file.read(size)
            assert self._file.readline() == b"\r\n"
        assert self._file.readline() == b"\r\n"

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
