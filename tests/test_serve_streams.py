"""Streams of the process itself: what a signal lets them finish, and what their provider sees of a reader who left."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.readers import Reader, said, wait_until
from tests.test_serve import Platform, live, refuses, start  # noqa: F401  fixtures
from tests.upstream import Fault


def kept(platform: Platform) -> list[dict[str, Any]]:
    """The rows as the process left them, but for the first one."""
    path = platform.log_dir.parent / "data" / "ledger.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM requests ORDER BY seq")][1:]


def begun(platform: Platform, prompt: str) -> tuple[Reader, Any]:
    """A reader that has heard the first piece."""
    reader = Reader(platform.port, {"prompt": prompt, "stream": True})
    assert reader.head()[0] == 200
    told = reader.events()
    assert next(told)[0] == "message"
    return reader, told


def test_sigterm_lets_every_stream_come_to_its_bill(live, upstream):  # noqa: F811  the fixture
    platform = live(STREAM_HEARTBEAT_SECONDS="0.1")
    upstream.script(*[Fault("ok", pause=0.5)] * 8)
    streams = [begun(platform, f"river {number}") for number in range(8)]
    platform.process.send_signal(signal.SIGTERM)
    assert wait_until(lambda: refuses(platform.port))
    told = [list(rest) for _, rest in streams]
    for events in told:
        assert [name for name, _ in events if name != "comment"] == ["message"] * 3 + ["bill"]
        assert said(events)
    assert platform.process.wait(60) == 0
    assert "Traceback" not in platform.stderr
    assert Counter((row["state"], row["status"]) for row in kept(platform)) == {("settled", 200): 8}
    for reader, _ in streams:
        reader.leave()


def test_sigterm_waits_for_the_bill_of_a_reader_who_has_left(live, upstream):  # noqa: F811
    platform = live(STREAM_HEARTBEAT_SECONDS="0.02")
    upstream.script(Fault("ok", pause=1.0))
    reader, _ = begun(platform, "a river")
    reader.leave()
    assert platform.end() == 0
    assert [(row["state"], row["status"]) for row in kept(platform)] == [("settled", 499)]
    assert upstream.wait_idle()
    assert [call.delivered for call in upstream.journal][1:] == [False]


def test_a_second_signal_does_not_wait_for_streams(live, upstream):  # noqa: F811
    platform = live()
    upstream.script(Fault("ok", pause=20.0))
    reader, _ = begun(platform, "a river")
    reader.leave()
    platform.process.send_signal(signal.SIGTERM)
    assert wait_until(lambda: refuses(platform.port))
    began = time.monotonic()
    assert platform.end(signal.SIGTERM) == 1
    assert time.monotonic() - began < 15  # waitress takes five, the whole drain thirty
    assert [row["state"] for row in kept(platform)] == ["open"]


def test_a_process_that_has_streamed_is_no_larger_than_before(live, upstream):  # noqa: F811
    """As many threads and sockets after forty streams, half of them left, as before them."""
    platform = live(STREAM_HEARTBEAT_SECONDS="0.02")
    process = Path(f"/proc/{platform.process.pid}")

    def size() -> tuple[int, int]:
        return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))

    for number in range(40):
        if number == 4:  # by now it has made whatever it makes once
            assert wait_until(lambda: "llm_streams_in_air 0.0" in metrics(platform))
            before = size()
        upstream.script(Fault("ok", pause=0.05))
        reader, told = begun(platform, f"river {number}")
        if number % 2:
            list(told)
        reader.leave(reset=number % 4 == 0)
    assert wait_until(lambda: "llm_streams_in_air 0.0" in metrics(platform))
    assert wait_until(lambda: all(now <= then for now, then in zip(size(), before, strict=True)))
    assert upstream.wait_idle()


def metrics(platform: Platform) -> str:
    return platform.request("GET", "/metrics")[2].decode()
