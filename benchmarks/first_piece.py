"""How soon the first piece of a stream is there: through the whole platform, and from the same client without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks.children import Child, platform
from benchmarks.rounds import Effort, Figure, interleave
from benchmarks.uncached import CLIENT, PROMPT
from tests.upstream import UpstreamProcess

MORE_US = 10_000


def first_piece(effort: Effort, log_dir: str) -> Iterator[Figure]:
    with ExitStack() as stack:
        upstream = stack.enter_context(UpstreamProcess())
        direct = stack.enter_context(Child("-m", "benchmarks.listen_directly", f"--url={upstream.url}"))
        listen = stack.enter_context(Child("-m", "benchmarks.listen"))
        live = {"GOOGLE_API_KEY": "any-key", "GEMINI_BASE_URL": upstream.url}
        ours = stack.enter_context(platform(log_dir, **live))
        job = {"prompt": PROMPT, "seconds": effort.cached_seconds}
        sides = (partial(direct.ask, **job), partial(listen.ask, port=ours.port(), pid=ours.pid, **job))
        theirs, readings = interleave("first piece of a stream", effort.cached_rounds, *sides)
        yield Figure("first piece of a stream", "µs", theirs, readings, CLIENT, more_at_most=MORE_US)
