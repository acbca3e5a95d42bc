"""The client of the HTTP figures, a process of its own: keep-alive raw sockets, one request in flight on each."""

from __future__ import annotations

import itertools
import json
import re
import selectors
import socket
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.children import cpu_seconds, serve_jobs

WARM_SECONDS, GRACE_SECONDS = 0.1, 40.0
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_numbers = itertools.count(time.time_ns())


class Caller:
    """One connection. `seconds` is how long it was busy, up to the end of its last reply."""

    def __init__(self, port: int, requests: Iterator[bytes], expected: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=GRACE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._requests, self._expected = requests, expected
        self._buffer = b""
        self.replies, self.seconds = 0, 0.0

    def send(self) -> None:
        self.socket.sendall(next(self._requests))  # far below what an empty socket buffer takes

    def received(self) -> bool:
        """Take in what has come; true once the reply is whole."""
        got = self.socket.recv(65536)
        if not got:
            raise ConnectionError(f"The server hung up after {self.replies} replies.")
        self._buffer += got
        end = self._buffer.find(b"\r\n\r\n")
        length = LENGTH.search(self._buffer, 0, end) if end >= 0 else None
        if length is None or len(self._buffer) < end + 4 + int(length[1]):
            return False
        self._check(self._buffer[:end])
        self._buffer = b""
        self.replies += 1
        return True

    def _check(self, head: bytes) -> None:
        """Refusals are quick: a figure that counted them would flatter."""
        if not head.startswith(b"HTTP/1.1 200 ") or self._expected not in head:
            raise ValueError(f"Not the reply that is measured: {self._buffer[:2000]!r}")


def requests(prompt: str, distinct: bool, key: str = "") -> Iterator[bytes]:
    """The same POST for ever, or with `distinct` one of the same size whose prompt nobody has sent before."""
    while True:
        number = next(_numbers) if distinct else 0
        yield post(f"{prompt} {number:019d}" if distinct else prompt, key)
        if not distinct:
            yield from itertools.repeat(post(prompt, key))


def post(prompt: str, key: str = "") -> bytes:
    own = f"X-API-Key: {key}\r\n" if key else ""
    body = json.dumps({"prompt": prompt}).encode()
    head = (
        "POST /api/v1/generate/text HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: benchmark/1\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\n{own}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def drive(watch: selectors.BaseSelector, callers: list[Caller], seconds: float) -> None:
    """Every caller sends, waits and sends again; what is in the air when the time is up is still awaited."""
    began = time.perf_counter()
    until, busy = began + seconds, len(callers)
    for caller in callers:
        caller.replies = 0
        caller.send()
    while busy:
        for key, _ in watch.select(GRACE_SECONDS):
            caller = key.data
            if caller.received():
                caller.seconds = time.perf_counter() - began
                if began + caller.seconds < until:
                    caller.send()
                else:
                    busy -= 1
        if time.perf_counter() > until + GRACE_SECONDS:
            raise TimeoutError("The server did not answer in time.")


def run(
    port: int,
    pid: int,
    connections: int,
    seconds: float,
    prompt: str,
    distinct: bool,
    expected: str,
    key: str = "",
) -> dict[str, Any]:
    """Replies per second, and the CPU of the server process for each, in milliseconds."""
    asked = requests(prompt, distinct, key)
    with selectors.DefaultSelector() as watch:
        callers = [Caller(port, asked, expected.encode()) for _ in range(connections)]
        try:
            for caller in callers:
                watch.register(caller.socket, selectors.EVENT_READ, caller)
            drive(watch, callers, min(seconds, WARM_SECONDS))
            before = cpu_seconds(pid)
            drive(watch, callers, seconds)
            after = cpu_seconds(pid)
        finally:
            for caller in callers:
                caller.socket.close()
    replies = sum(caller.replies for caller in callers)
    spent = None if before is None or after is None else (after - before) * 1000 / replies
    # Summed by connection, so that the unequal ends of slow replies do not count as idle time.
    return {"value": sum(caller.replies / caller.seconds for caller in callers), "cpu_ms": spent}


if __name__ == "__main__":
    serve_jobs(run)
