"""Callers with keys: how keys are made as an operator makes them, and asks that carry one, streamed or whole."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.children import ROOT, environment
from chaos.load import Asked, Reply, read_reply
from chaos.plan import PATHS, Wanted
from chaos.platform import Platform
from chaos.readers import refused, streamed
from tests.readers import Reader

CALL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Key:
    id: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyedWanted(Wanted):
    """An ask of one key, its output capped."""

    key: str = field(default="", repr=False)
    max_tokens: int = 1
    streamed: bool = False

    def body(self) -> dict[str, Any]:
        return {**Wanted.body(self), "max_tokens": self.max_tokens, "stream": self.streamed}


def command(platform: Platform, *arguments: str) -> dict[str, Any]:
    """A command of cli.py on this platform's database, and what it tells as JSON."""
    done = subprocess.run(
        [sys.executable, "cli.py", *arguments, "--json"],
        cwd=ROOT,
        env=environment(**platform.settings),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(json.loads(done.stdout))


def make_key(platform: Platform, maker: Key, name: str, limit: str) -> Key:
    """Over HTTP, with a budget of so many dollars in total."""
    body = {"name": name, "role": "developer", "budget": {"period": "total", "limit_usd": limit}}
    connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=CALL_SECONDS)
    try:
        connection.request("POST", "/api/v1/keys", json.dumps(body), _headers(maker.text))
        reply = connection.getresponse()
        told = json.loads(reply.read())
    finally:
        connection.close()
    if reply.status != 201:
        raise ValueError(f"No key: {reply.status} {told}")
    return Key(told["id"], told["key"])


def ask(port: int, request_id: str, wanted: KeyedWanted) -> Asked:
    """One ask on a connection of its own; nothing is ever sent twice."""
    asked = Asked(request_id, wanted, 0, time.monotonic())
    try:
        asked.reply = (_stream if wanted.streamed else _whole)(port, request_id, wanted)
    except (OSError, http.client.HTTPException, AssertionError, ValueError) as trouble:
        asked.trouble = type(trouble).__name__
    asked.seconds = time.monotonic() - asked.began
    return asked


def _whole(port: int, request_id: str, wanted: KeyedWanted) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_SECONDS)
    try:
        headers = _headers(wanted.key) | {"X-Request-ID": request_id}
        connection.request("POST", PATHS[wanted.task], json.dumps(wanted.body()), headers)
        response = connection.getresponse()
        return read_reply(request_id, response, response.read())
    finally:
        connection.close()


def _stream(port: int, request_id: str, wanted: KeyedWanted) -> Reply | None:
    headers = {"Authorization": f"Bearer {wanted.key}", "X-Request-ID": request_id}
    reader = Reader(port, wanted.body(), PATHS[wanted.task], headers=headers)
    try:
        reader.socket.settimeout(CALL_SECONDS)
        status, told = reader.head()
        if told["content-type"].startswith("text/event-stream"):
            return streamed(reader.events(), None)
        return refused(status, told, json.loads(reader.text()))
    finally:
        reader.leave()


def _headers(key: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
