"""The longest that a caller waits for a cached hit: what no mean shows, such as work that grows with the ledger."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.cached import PROMPT, answer_of
from benchmarks.children import platform
from benchmarks.rounds import progress
from tests.upstream import UpstreamProcess

HEAD = ("one caller's waits for a cached hit", "replies", "median", "one in a thousand", "longest")
SIDES = ("empty ledger", "control: empty ledger", "big ledger")


@dataclass(frozen=True, slots=True)
class Waits:
    """Milliseconds of every reply, shortest first."""

    name: str
    milliseconds: tuple[float, ...]

    def cells(self) -> list[str]:
        waited = self.milliseconds
        told = (median(waited), waited[-1 - len(waited) // 1000], waited[-1])
        return [self.name, f"{len(waited):,}", *(f"{each:,.1f} ms" for each in told)]


def waits(seconds: float, folder: str, big: Path) -> Iterator[Waits]:
    """Asked in turns, A B C A B C ..., for so long that each ledger's keeper makes its rounds (every 15 s)."""
    progress(f"waits for a cached hit: {seconds:g} s")
    data_dirs = (Path(folder, "empty-waits"), Path(folder, "control-waits"), big)
    with UpstreamProcess() as upstream, ExitStack() as stack:
        callers = [_caller(stack, data_dir, upstream.url) for data_dir in data_dirs]
        waited: list[list[float]] = [[] for _ in callers]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for caller, times in zip(callers, waited, strict=True):
                times.append(hit(caller))
    for name, times in zip(SIDES, waited, strict=True):
        yield Waits(name, tuple(sorted(times)))


def _caller(stack: ExitStack, data_dir: Path, upstream: str) -> http.client.HTTPConnection:
    live = {"GOOGLE_API_KEY": "any-key", "GEMINI_BASE_URL": upstream}
    server = stack.enter_context(platform(f"{data_dir}-logs", DATA_DIR=str(data_dir), **live))
    port = server.port()
    answer_of(port)
    return stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)))


def hit(caller: http.client.HTTPConnection) -> float:
    """Milliseconds of one ask. Raises ValueError unless the answer came out of the cache."""
    body, kind = json.dumps({"prompt": PROMPT}), {"Content-Type": "application/json"}
    began = time.perf_counter()
    caller.request("POST", "/api/v1/generate/text", body, kind)
    reply = caller.getresponse()
    text = reply.read()
    milliseconds = (time.perf_counter() - began) * 1000
    if reply.status != 200 or reply.headers["X-Cache-Status"] != "hit":
        raise ValueError(f"Not the reply that is measured: {reply.status} {text[:2000]!r}")
    return milliseconds
