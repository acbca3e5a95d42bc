"""A served platform that can be killed and started again: the same port, the same DATA_DIR, the same LOG_DIR."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from benchmarks.children import UNLIMITED, Child
from tests.servers.ports import free_port

HEALTH, READY = "/api/v1/health", "/api/v1/health/ready"
# Longer than any start takes on a busy machine; how long it may take is for the goals to say.
START_SECONDS = 60.0


def three_providers(gemini: str, openai: str = "", anthropic: str = "") -> dict[str, str]:
    """Settings of a chain of all three, at the addresses of their loopback servers; one server may be all of them."""
    return {
        "LLM_PROVIDERS": "gemini,openai,anthropic",
        "GEMINI_BASE_URL": gemini,
        "OPENAI_API_KEY": "any-key",
        "OPENAI_BASE_URL": f"{openai or gemini}/v1",
        "ANTHROPIC_API_KEY": "any-key",
        "ANTHROPIC_BASE_URL": anthropic or gemini,
    }


class Platform:
    """One `python app.py`, live against the given upstream. Settings are those of the environment.

    data_dir: where another disk than that of the other files is wanted.
    """

    def __init__(
        self, folder: Path, upstream_url: str, *, data_dir: Path | None = None, **settings: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = folder.name
        self.data_dir = data_dir or folder / "data"
        self.errors = folder / "stderr"
        self.port = free_port()
        self._settings = {
            "PORT": str(self.port),
            "DATA_DIR": str(self.data_dir),
            "LOG_DIR": str(folder / "logs"),
            "GOOGLE_API_KEY": "any-key",
            "GEMINI_BASE_URL": upstream_url,
            "RATE_LIMIT": UNLIMITED,
            "RATE_LIMIT_READS": UNLIMITED,
            **settings,
        }
        self._child: Child | None = None

    def __enter__(self) -> Platform:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self.kill()

    # Its life.

    def start(self) -> float:
        """Start it; seconds until it is ready."""
        began = time.monotonic()
        self.spawn()
        self.wait_ready()
        return time.monotonic() - began

    def spawn(self) -> None:
        assert self._child is None, "it runs already"
        self._child = Child("app.py", errors=self.errors, **self._settings)
        self._child.__enter__()

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        until = time.monotonic() + seconds
        while not self.is_ready():
            if not self.runs:
                raise RuntimeError(f"{self.name} has ended by itself:\n{self.last_words()}")
            if time.monotonic() > until:
                raise TimeoutError(f"{self.name} was not ready in {seconds:g} s:\n{self.last_words()}")
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._child is not None
        child, self._child = self._child, None
        child.kill()
        child.__exit__()

    def end(self) -> int:
        """SIGTERM, and the exit code of the drain."""
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGTERM)
        until = time.monotonic() + 60
        while self._child.exit_code is None and time.monotonic() < until:
            time.sleep(0.02)
        code = self._child.exit_code
        self.kill()
        return -1 if code is None else code

    @property
    def runs(self) -> bool:
        return self._child is not None and self._child.exit_code is None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def last_words(self) -> str:
        return self.errors.read_text(errors="replace")[-3000:] if self.errors.exists() else ""

    # What it says.

    def is_ready(self) -> bool:
        try:
            return self.get(READY, 5)[0] in (
                200,
                401,
            )  # it serves, and where AUTH=required tells more to keys
        except (OSError, http.client.HTTPException):
            return False

    def ledger_health(self) -> str:
        """ok, degraded or down; `silent` where health does not answer in time."""
        try:
            return str(self.get(HEALTH, 5)[1]["checks"].get("ledger", "missing"))
        except (OSError, http.client.HTTPException):
            return "silent"

    def get(self, path: str, timeout: float = 30) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    @property
    def settings(self) -> dict[str, str]:
        return dict(self._settings)

    @property
    def ledger_url(self) -> str:
        """For SQLAlchemy: the ledger as this platform keeps it, PostgreSQL's or its own file."""
        return self._settings.get("DATABASE_URL") or f"sqlite:///{self.data_dir / 'ledger.db'}"
