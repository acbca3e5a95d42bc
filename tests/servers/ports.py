"""Ports that stay free while their server is down."""

from __future__ import annotations

import os
import random
import socket

# Below the ports that the kernel gives to clients: a client that knocks at a dead server's port from that very
# port would reach itself, and a server could find its port taken when it comes back.
LOWEST, HIGHEST, ROOM = 20_000, 30_000, 1_000


def free_port() -> int:
    lowest, chance = lowest_port(os.environ.get("PYTEST_XDIST_WORKER", "")), random.SystemRandom()
    for _ in range(100):
        port = chance.randrange(lowest, lowest + ROOM)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("No free port was found.")


def lowest_port(worker: str) -> int:
    """Workers of one run keep out of each other's ports: a server that is down must not be answered for."""
    number = int(worker.removeprefix("gw") or 0)
    return LOWEST + number * ROOM % (HIGHEST - LOWEST)
