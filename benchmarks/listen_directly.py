"""What the streaming figure is measured against: the shared Gemini client of a process without the platform."""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.children import serve_jobs
from benchmarks.direct import shared_client
from benchmarks.listen import reading, until
from benchmarks.load import WARM_SECONDS

if TYPE_CHECKING:
    from langchain_google_genai import ChatGoogleGenerativeAI

OPTIONS: dict[str, Any] = {"temperature": 0.7, "max_output_tokens": 8192, "timeout": 30.0}


def stream(client: ChatGoogleGenerativeAI, prompt: str) -> float:
    """Seconds to the first piece; the rest is read to its end."""
    began, first = time.perf_counter(), 0.0
    for chunk in client.stream([("human", prompt)], **OPTIONS):
        if not first and chunk.text:
            first = time.perf_counter() - began
    return first


def run(client: ChatGoogleGenerativeAI, prompt: str, seconds: float) -> dict[str, Any]:
    one = partial(stream, client)
    until(min(seconds, WARM_SECONDS), one, prompt)
    before = time.process_time()
    came = until(seconds, one, prompt)
    return reading(came, time.process_time() - before)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listen_directly", description=__doc__)
    parser.add_argument("--url", required=True, help="of the upstream, on this machine")
    serve_jobs(partial(run, shared_client(parser.parse_args().url)))


if __name__ == "__main__":
    main()
