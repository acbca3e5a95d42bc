"""The loopback provider as a process of its own, so that a benchmark does not share its interpreter."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .journal import Call

ROOT = Path(__file__).resolve().parents[2]


class UpstreamProcess:
    """Runs `python -m tests.upstream`; the arguments are those of its command line."""

    def __init__(
        self,
        *,
        seed: int = 0,
        fault_rate: float = 0.0,
        latency: float = 0.0,
        port: int = 0,
        menu: tuple[str, ...] = (),
    ) -> None:
        options = {"seed": seed, "fault-rate": fault_rate, "latency": latency, "port": port}
        self._command = [sys.executable, "-m", "tests.upstream"]
        self._command += [f"--{name}={value}" for name, value in options.items()]
        if menu:
            self._command.append(f"--menu={','.join(menu)}")
        self.url = ""

    def __enter__(self) -> UpstreamProcess:
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            self.__exit__()
            raise RuntimeError(f"The upstream did not start: exit code {self._process.returncode}.")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def state(self) -> dict[str, Any]:
        """`calls`, `in_flight`, `max_in_flight` and `connections` as JSON has them."""
        return self._call("GET", "/journal")

    def journal(self) -> list[Call]:
        return [Call.from_json(facts) for facts in self.state()["calls"]]

    def control(self, **orders: Any) -> None:
        """reset, latency, fault_rate, seed, menu, script, retire; faults as name, provider:name or their fields."""
        self._call("POST", "/control", orders)

    def _call(self, verb: str, path: str, body: Any = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            connection.request(verb, path, None if body is None else json.dumps(body))
            reply = connection.getresponse()
            raw = reply.read()
        finally:
            connection.close()
        if reply.status != 200:
            raise ValueError(raw.decode())
        return dict(json.loads(raw))
