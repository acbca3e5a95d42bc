"""Ports that stay free while their server is down."""

from __future__ import annotations

import random
import socket

# Below the ports that the kernel gives to clients: a client that knocks at a dead server's port from that very
# port would reach itself, and a server could find its port taken when it comes back.
LOWEST, HIGHEST = 20_000, 30_000


def free_port() -> int:
    for _ in range(100):
        port = random.randrange(LOWEST, HIGHEST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("No free port was found.")
