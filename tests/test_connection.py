"""The one connection of a writer: nobody else gets it, and a wait for a frozen server ends without taking its file away."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from store.connection import OneConnection
from store.db import ledger_url, open_engine
from store.frozen import cut_after


def break_off(connection: OneConnection) -> None:
    with connection.transaction() as cursor:
        cursor.execute("CREATE TABLE half (done)")
        raise ZeroDivisionError


def test_a_connection_after_an_error_goes_to_nobody_else_and_keeps_no_lock(tmp_path: Path):
    engine = open_engine(ledger_url("", str(tmp_path)))
    first, second = OneConnection(engine, 3.0), OneConnection(engine, 3.0)
    with pytest.raises(ZeroDivisionError):
        break_off(first)
    other = engine.raw_connection()
    assert other.driver_connection.isolation_level is not None, (
        "a writer's own begins no transaction by itself"
    )
    other.close()
    with second.transaction() as cursor:
        assert not cursor.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchall()
    second.close()
    engine.dispose()


def test_a_wait_that_is_cut_leaves_the_drivers_file_open():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(30)
        with cut_after(0.01, lambda: ours):
            assert theirs.recv(1) == b""
        for watch in [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]:
            watch.join(30)
        # Else its number may be another's by the time the driver closes it.
        os.fstat(ours.fileno())
