"""The client of the streaming figure: one stream after another, each on a connection of its own, as it must be."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.children import cpu_seconds, serve_jobs
from benchmarks.load import GRACE_SECONDS, WARM_SECONDS

_numbers = itertools.count(time.time_ns())
PIECE, LAST = b"\ndata: ", b"event: bill"


def until(seconds: float, stream: Callable[[str], float], prompt: str) -> list[float]:
    """Stream after stream until the time is up: the seconds to the first piece of each."""
    over, came = time.perf_counter() + seconds, []
    while time.perf_counter() < over:
        came.append(stream(f"{prompt} {next(_numbers):019d}"))
    return came


def reading(came: list[float], cpu: float | None) -> dict[str, Any]:
    """The median in microseconds, and the CPU of a stream in milliseconds."""
    spent = None if cpu is None else cpu * 1000 / len(came)
    return {"value": median(came) * 1_000_000, "cpu_ms": spent}


def stream(port: int, prompt: str) -> float:
    """Seconds to the first piece, the connection included; the rest is read to its end."""
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), GRACE_SECONDS) as connection:
        connection.sendall(post(prompt))
        received, first = b"", 0.0
        while got := connection.recv(65536):
            received += got
            if not first and PIECE in received:
                first = time.perf_counter() - began
    if not received.startswith(b"HTTP/1.1 200 ") or LAST not in received:
        raise ValueError(f"Not the reply that is measured: {received[:2000]!r}")
    return first


def post(prompt: str) -> bytes:
    body = json.dumps({"prompt": prompt, "stream": True}).encode()
    head = "POST /api/v1/generate/text HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def run(port: int, pid: int, prompt: str, seconds: float) -> dict[str, Any]:
    def one(text: str) -> float:
        return stream(port, text)

    until(min(seconds, WARM_SECONDS), one, prompt)
    before = cpu_seconds(pid)
    came = until(seconds, one, prompt)
    after = cpu_seconds(pid)
    return reading(came, None if before is None or after is None else after - before)


if __name__ == "__main__":
    serve_jobs(run)
