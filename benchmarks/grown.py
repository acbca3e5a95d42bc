"""A worker: one house in this process, grown on request, that times its own cached hits without any network."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import time
from functools import partial
from typing import Any

from flask import Flask
from werkzeug.test import EnvironBuilder

from app import create_app
from benchmarks.children import UNLIMITED, serve_jobs
from config import Settings
from providers.base import Billed
from remembered import Kept
from services import Services, build_services
from tasks import Usage

PROMPT = "What does the cache know of me?"
WARM_HITS, GROWING_SECONDS = 200, 100.0


class House:
    """The platform as a WSGI application that has answered one prompt, so that the next ask is a hit."""

    def __init__(self, log_dir: str, room: int) -> None:
        settings = Settings(
            log_dir=log_dir,
            data_dir=f"{log_dir}/data",
            rate_limit=UNLIMITED,
            cache_max_size=room,
            cache_max_bytes=1 << 40,
        )
        self.services: Services = build_services(settings)
        self._app: Flask = create_app(settings, self.services)
        self._body = json.dumps({"prompt": PROMPT}).encode()
        builder = EnvironBuilder("/api/v1/generate/text", method="POST", json={"prompt": PROMPT})
        self._environ = builder.get_environ() | {"REMOTE_ADDR": "127.0.0.1"}
        self._head: list[Any] = []
        self.ask()
        self.ask()
        if self._head[0] != "200 OK" or ("X-Cache-Status", "hit") not in self._head[1]:
            raise RuntimeError(f"Not the reply that is measured: {self._head}")

    def ask(self) -> None:
        reply = self._app.wsgi_app(self._environ | {"wsgi.input": io.BytesIO(self._body)}, self._start)
        b"".join(reply)
        reply.close()  # type: ignore[attr-defined]  # Werkzeug's iterable has one, as WSGI asks for

    def _start(self, status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
        self._head = [status, headers]

    def remember(self, entries: int) -> None:
        """Other answers into the cache, each of its own objects as real ones are."""
        for number in range(entries):
            key = hashlib.sha256(b"%d" % number).hexdigest()
            served = ("gemini", "gemini-3.1-flash-lite")
            charges = (Billed(*served, Usage(20 + number, 60)),)
            self.services.cache.put(key, Kept(f"Answer {number}. " * 20, *served, charges, True))

    def live_through(self, requests: int) -> int:
        """So many requests, or as many as the time allows; how many."""
        until = time.monotonic() + GROWING_SECONDS
        for number in range(requests):
            if time.monotonic() > until:
                return number
            self.ask()
        return requests

    def microseconds(self, hits: int) -> float:
        """CPU of this thread for one hit, the best of four means: what a neighbour on the machine adds is not ours."""
        for _ in range(WARM_HITS):
            self.ask()
        return min(self._mean(hits) for _ in range(4))

    def _mean(self, hits: int) -> float:
        before = time.thread_time_ns()
        for _ in range(hits):
            self.ask()
        return (time.thread_time_ns() - before) / 1000 / hits

    def close(self) -> None:
        self.services.close()


def measure(house: House, hits: int) -> dict[str, Any]:
    return {"value": house.microseconds(hits)}


def measure_new(log_dir: str, hits: int) -> dict[str, Any]:
    """The same on a house without a past: each time a new one, or measuring would age it."""
    house = House(log_dir, room=1000)
    try:
        return measure(house, hits)
    finally:
        house.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grown", description=__doc__)
    parser.add_argument("--log-dir", required=True)
    parser.add_argument("--history", type=int, default=0, help="requests to live through first")
    parser.add_argument("--entries", type=int, default=1, help="answers in the cache")
    wanted = parser.parse_args()
    if not wanted.history and wanted.entries == 1:
        print(json.dumps({"history": 0, "entries": 1}), flush=True)
        serve_jobs(partial(measure_new, wanted.log_dir))
        return
    house = House(wanted.log_dir, room=wanted.entries + 1000)
    house.remember(wanted.entries - 1)
    lived = house.live_through(wanted.history)
    print(json.dumps({"history": lived, "entries": house.services.cache.size()}), flush=True)
    serve_jobs(partial(measure, house))


if __name__ == "__main__":
    main()
