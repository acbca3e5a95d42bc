"""A miss through the whole platform over HTTP against direct calls of the same Gemini client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks.children import Child, platform
from benchmarks.rounds import Effort, Figure, Side, interleave
from tests.upstream import UpstreamProcess

LATENCIES = (0.0, 0.2)
PROMPT = "Tell in two sentences what this number may stand for:"
CLIENT, WAIT = "CPU of the client library per call, then ours", "the upstream's 200 ms, then CPU per call"
BOTH = "CPU of the client library, one interpreter lock"


def uncached(effort: Effort, log_dir: str) -> Iterator[Figure]:
    with ExitStack() as stack:
        upstream = stack.enter_context(UpstreamProcess())
        direct, ours = _sides(stack, effort, upstream.url, log_dir)
        for latency in LATENCIES:
            for in_flight in effort.in_flight:
                upstream.control(reset=True, latency=latency)
                name = f"uncached, upstream {latency * 1000:g} ms, {in_flight} in flight"
                sides = (partial(direct, in_flight=in_flight), partial(ours, connections=in_flight))
                theirs, readings = interleave(name, effort.uncached_rounds, *sides)
                yield Figure(name, "/s", theirs, readings, _limit(latency, in_flight))


def _limit(latency: float, in_flight: int) -> str:
    if not latency:
        return CLIENT
    return WAIT if in_flight < 64 else BOTH


def _sides(stack: ExitStack, effort: Effort, upstream_url: str, log_dir: str) -> tuple[Side, Side]:
    load = stack.enter_context(Child("-m", "benchmarks.load"))
    direct = stack.enter_context(Child("-m", "benchmarks.direct", f"--url={upstream_url}"))
    live = {"GOOGLE_API_KEY": "any-key", "GEMINI_BASE_URL": upstream_url}
    ours = stack.enter_context(platform(log_dir, **live))
    seconds = effort.uncached_seconds
    through = partial(
        load.ask, port=ours.port(), pid=ours.pid, distinct=True, expected="X-Cache-Status: miss"
    )
    return (
        partial(direct.ask, prompt=PROMPT, seconds=seconds),
        partial(through, prompt=PROMPT, seconds=seconds),
    )
