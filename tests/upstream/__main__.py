"""`python -m tests.upstream`: prints its URL on the first line and serves until it is told to stop."""

from __future__ import annotations

import argparse
import signal
import threading

from .faults import RETRYABLE
from .server import Upstream


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each reply")
    parser.add_argument("--fault-rate", type=float, default=0.0, help="share of calls that meet a fault")
    parser.add_argument(
        "--menu", default=",".join(RETRYABLE), help="the faults as name or provider:name, separated by commas"
    )
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    with Upstream(
        port=chosen.port,
        seed=chosen.seed,
        latency=chosen.latency,
        fault_rate=chosen.fault_rate,
        menu=chosen.menu.split(","),
    ) as upstream:
        print(upstream.url, flush=True)
        told.wait()


main()
