"""A wait for a PostgreSQL that has frozen ends after so many seconds."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# PostgreSQL that has not answered for so long is taken for gone.
PATIENCE_SECONDS = 3.0


@contextmanager
def cut_after(seconds: float, driver: Callable[[], Any]) -> Iterator[None]:
    """Nothing in psycopg ends a wait for a server that has frozen; cutting the socket does.

    driver: psycopg's connection at that moment, or None where there is none.
    """
    watch = threading.Timer(seconds, lambda: _cut(driver()))
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def _cut(driver: Any) -> None:
    if driver is not None:
        with socket.socket(fileno=os.dup(driver.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)
