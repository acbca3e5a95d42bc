"""What the uncached figure is measured against: threads of one process on the shared Gemini client, no platform."""

from __future__ import annotations

import argparse
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.children import serve_jobs
from benchmarks.load import WARM_SECONDS
from config import Settings

if TYPE_CHECKING:
    from langchain_google_genai import ChatGoogleGenerativeAI

_numbers = itertools.count(time.time_ns())


def shared_client(url: str) -> ChatGoogleGenerativeAI:
    """What a programmer would write who shares one client and gives it a connection per thread."""
    import httpx
    from langchain_google_genai import ChatGoogleGenerativeAI

    connections = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    return ChatGoogleGenerativeAI(
        model=Settings().gemini_model,
        api_key="any-key",
        base_url=url,
        vertexai=False,
        max_retries=1,
        client_args={"limits": connections, "trust_env": False},
    )


def caller(client: ChatGoogleGenerativeAI, prompt: str, began: float, seconds: float) -> tuple[int, float]:
    """Call after call until the time is up: how many, and the seconds from the start of all to their end."""
    calls, now = 0, 0.0
    options: dict[str, Any] = {"temperature": 0.7, "max_output_tokens": 8192, "timeout": 30.0}
    while now < began + seconds:
        client.invoke([("human", f"{prompt} {next(_numbers):019d}")], **options)
        now = time.perf_counter()
        calls += 1
    return calls, now - began


def drive(client: ChatGoogleGenerativeAI, prompt: str, in_flight: int, seconds: float) -> tuple[int, float]:
    """Calls made, and calls per second, by so many threads."""
    with ThreadPoolExecutor(in_flight) as pool:
        began = time.perf_counter()
        work = [pool.submit(caller, client, prompt, began, seconds) for _ in range(in_flight)]
        pairs = [one.result() for one in work]
    return sum(calls for calls, _ in pairs), sum(calls / seconds for calls, seconds in pairs)


def run(client: ChatGoogleGenerativeAI, prompt: str, in_flight: int, seconds: float) -> dict[str, Any]:
    drive(client, prompt, in_flight, min(seconds, WARM_SECONDS))
    before = time.process_time()
    calls, rate = drive(client, prompt, in_flight, seconds)
    return {"value": rate, "cpu_ms": (time.process_time() - before) * 1000 / calls}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.direct", description=__doc__)
    parser.add_argument("--url", required=True, help="of the upstream, on this machine")
    serve_jobs(partial(run, shared_client(parser.parse_args().url)))


if __name__ == "__main__":
    main()
