"""A cached hit through the whole platform against a bare Flask-RESTX endpoint, both on waitress."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks.children import Child, platform
from benchmarks.rounds import Effort, Figure, Side, interleave
from tests.upstream import UpstreamProcess

CONNECTIONS = (1, 8, 64)
PROMPT = "Explain to a newcomer in two sentences why a cache in front of a language model saves money."
HANDS, LOCK = (
    "CPU per request, and waitress's hand-over between threads",
    "CPU per request, one interpreter lock",
)


def cached(effort: Effort, log_dir: str) -> Iterator[Figure]:
    with ExitStack() as stack:
        bare, ours = _sides(stack, effort, log_dir)
        for connections in CONNECTIONS:
            name = f"cached hit, {connections} connection{'s' if connections > 1 else ''}"
            sides = (partial(side, connections=connections) for side in (bare, ours))
            theirs, readings = interleave(name, effort.cached_rounds, *sides)
            limit = HANDS if connections == 1 else LOCK
            yield Figure(name, "/s", theirs, readings, limit, at_least=0.65)


def _sides(stack: ExitStack, effort: Effort, log_dir: str) -> tuple[Side, Side]:
    upstream = stack.enter_context(UpstreamProcess())
    load = stack.enter_context(Child("-m", "benchmarks.load"))
    live = {"GOOGLE_API_KEY": "any-key", "GEMINI_BASE_URL": upstream.url}
    ours = stack.enter_context(platform(log_dir, **live))
    our_port = ours.port()
    body = answer_of(our_port)
    bare = stack.enter_context(Child("-m", "benchmarks.bare_app", f"--bytes={len(body)}"))
    bare_port = bare.port()
    if len(answer_of(bare_port)) != len(body):
        raise RuntimeError("The two sides must send bodies of one size.")
    side = partial(load.ask, seconds=effort.cached_seconds, prompt=PROMPT, distinct=False)
    return (
        partial(side, port=bare_port, pid=bare.pid, expected=""),
        partial(side, port=our_port, pid=ours.pid, expected="X-Cache-Status: hit"),
    )


def answer_of(port: int, key: str = "") -> bytes:
    """The body that the prompt is answered with; on the platform this also fills the cache."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Content-Type": "application/json"} | ({"X-API-Key": key} if key else {})
        connection.request("POST", "/api/v1/generate/text", json.dumps({"prompt": PROMPT}), headers)
        reply = connection.getresponse()
        body = reply.read()
    finally:
        connection.close()
    if reply.status != 200:
        raise RuntimeError(f"The server answered {reply.status}: {body.decode()}")
    return body
