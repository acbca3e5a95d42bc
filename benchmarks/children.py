"""The processes of a benchmark: servers that print their address, workers that answer one job per line."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

from config import Settings

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0
UNLIMITED = "1000000 per minute"
ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


class Child:
    """A Python process of this checkout with no settings but the given ones; a context manager that ends it.

    errors: the file that takes what it says on standard error; else that stands among our own.
    """

    def __init__(self, *arguments: str, errors: Path | None = None, **settings: str) -> None:
        self._command = [sys.executable, *arguments]
        self._settings, self._errors = settings, errors
        self._read = b""

    def __enter__(self) -> Child:
        with ExitStack() as stack:
            errors = stack.enter_context(self._errors.open("ab")) if self._errors else None
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=environment(**self._settings),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def kill(self) -> None:
        """No farewell and no clean-up: what the process had not on disk is lost."""
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def line(self, seconds: float) -> str:
        """The next line that the process prints, within these seconds."""
        assert self._process.stdout is not None
        until, output = time.monotonic() + seconds, self._process.stdout.fileno()
        while b"\n" not in self._read:
            if not select.select([output], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"{self._command[1:]} printed nothing within {seconds:g} s.")
            got = os.read(output, 65536)
            if not got:
                raise RuntimeError(f"{self._command[1:]} has ended; its own words stand above.")
            self._read += got
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def port(self) -> int:
        """The port of the first loopback address that the process prints."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            found = ADDRESS.search(self.line(until - time.monotonic()))
            if found:
                return int(found[1])
        raise TimeoutError(f"{self._command[1:]} named no address within {START_SECONDS:g} s.")

    def ask(self, within: float = 120.0, **job: Any) -> dict[str, Any]:
        """A worker's reply to one job."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        return dict(json.loads(self.line(within)))


def environment(**settings: str) -> dict[str, str]:
    """This environment with every setting of the platform at its default, whatever `.env` says."""
    empty = {entry.name.upper(): "" for entry in fields(Settings)}
    return {**os.environ, **empty, **settings}


def platform(log_dir: str, **settings: str) -> Child:
    """The platform as `python app.py` serves it, on any free port, with limits that count but never refuse."""
    own = {"PORT": "0", "LOG_DIR": log_dir, "DATA_DIR": f"{log_dir}/data", "RATE_LIMIT": UNLIMITED}
    return Child("app.py", **(own | settings))


def serve_jobs(run: Callable[..., dict[str, Any]]) -> None:
    """A worker's whole life: a job per line of stdin, a reply per line of stdout."""
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)


def cpu_seconds(pid: int) -> float | None:
    """User and system time of another process so far; None where the system does not tell (it is Linux's clock)."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except (AttributeError, OSError):
        return None
