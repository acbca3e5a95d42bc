"""Replies of every protocol: the manner of each, those that nobody can read, and streams that end early."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from .asks import Outcome
from .faults import PLAIN, Fault
from .journal import Tokens
from .refusals import CANARY
from .wire import Reply

MIB = 1024 * 1024
STREAM = "text/event-stream"
MANNERS = {
    "reset_before": "reset",
    "cut_body": "cut",
    "half_close": "half_closed",
    "reset_body": "reset_inside",
    "hang": "hang",
    "drip": "drip",
}
GARBAGE = f'event: content_block_delta\ndata: {{"choices": [\x00 {CANARY}\n\n'.encode()
ENCODER = json.JSONEncoder(ensure_ascii=False)
HTML = "text/html; charset=UTF-8"


def json_reply(value: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    return Reply(status, (raw(value),), headers=headers)


def raw(value: Any) -> bytes:
    return ENCODER.encode(value).encode("utf-8", "replace")


def good(fault: Fault, pieces: Iterable[bytes], *, stream: bool) -> Reply:
    """A 200 in the manner of its fault."""
    return Reply(
        200,
        tuple(pieces),
        STREAM if stream else "application/json; charset=UTF-8",
        fault.headers,
        chunked=stream,
        manner=MANNERS.get(fault.name, "whole"),
        wait=fault.wait if fault.name == "slow" else 0.0,
        seconds=fault.wait,
        pause=fault.pause,
        kept=fault.after,
    )


def streamed(
    fault: Fault, pieces: list[bytes], usages: list[Tokens | None], spent: list[Tokens], failed: bytes
) -> Outcome:
    """A stream, or what its fault leaves of it; spent are the tokens used by the end of each piece."""
    if fault.name not in PLAIN:
        if fault.bite:
            pieces = _bitten(b"".join(pieces).replace(b"\n", b"\r\n"), fault.bite)
            usages = [None] * (len(pieces) - 1) + usages[-1:]
        return Outcome(good(fault, pieces, stream=True), spent[-1], tuple(usages))
    kept = min(len(pieces) // 2 if fault.after is None else fault.after, len(pieces) - 1)
    ends = {"stream_error": [failed], "stream_garbage": [GARBAGE], "stream_stops": [] if kept else [b"\n"]}
    shown = [*pieces[:kept], *ends[fault.name]]
    return Outcome(good(fault, shown, stream=True), _billed(fault, spent, kept), tuple(usages[:kept]))


def _bitten(whole: bytes, size: int) -> list[bytes]:
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def _billed(fault: Fault, spent: list[Tokens], kept: int) -> Tokens:
    """Where the model itself has failed, no more than it had done by then."""
    if fault.name != "stream_error":
        return spent[-1]
    return spent[kept - 1] if kept else replace(spent[0], candidates=0, thoughts=0)


def unreadable(fault: Fault) -> Reply:
    bodies = {
        "garbage": '{"candidates": [{"content": \x00 ' + CANARY,
        "html": f"<html><body>Sign in to continue [{CANARY}]</body></html>",
        "wrong_schema": '{"foo": 1}',
    }
    body = bodies[fault.name] if fault.text is None else fault.text
    kind = HTML if fault.name == "html" else "application/json; charset=UTF-8"
    return Reply(200, (body.encode(),), kind, fault.headers)


def oversized(
    fault: Fault, around: tuple[bytes, bytes], kind: str = "application/json; charset=UTF-8"
) -> Reply:
    """Good in form, and without usage: a client that stops reading early misses nothing."""
    if fault.name == "huge":
        return Reply(200, (b"".join(_long(around, 9)),), kind, fault.headers)
    return Reply(200, (_bomb(around),), kind, (("Content-Encoding", "gzip"), *fault.headers))


def _long(around: tuple[bytes, bytes], mebibytes: int) -> Iterable[bytes]:
    yield around[0]
    for _ in range(mebibytes):
        yield b"a" * MIB
    yield around[1]


@cache
def _bomb(around: tuple[bytes, bytes]) -> bytes:
    packer = zlib.compressobj(level=9, wbits=31)
    return b"".join(packer.compress(part) for part in _long(around, 32)) + packer.flush()


def around(value: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """What stands before and after the word LONG in a body."""
    before, _, after = raw(value).partition(b"LONG")
    return before, after
