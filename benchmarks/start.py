"""How long a newcomer waits: from the start of the process to the first answer, and for the import alone."""

from __future__ import annotations

import http.client
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import Any

from benchmarks.children import ROOT, environment, platform
from benchmarks.rounds import Effort, progress

IMPORT = "import time; began = time.perf_counter(); import app; print(time.perf_counter() - began)"
# Nobody listens there and nobody is called: the key only makes the platform load the real client.
LIVE = {"GOOGLE_API_KEY": "any-key", "GEMINI_BASE_URL": "http://127.0.0.1:9"}


def start(effort: Effort, log_dir: str) -> list[dict[str, Any]]:
    """Rows of name, seconds of each attempt, and the most that they should be."""
    progress(f"start: {effort.starts} rounds")
    turns = [(to_health(log_dir, **LIVE), to_health(log_dir), importing()) for _ in range(effort.starts + 1)][
        1:
    ]
    names = ("start to first /api/v1/health, live", "start to first /api/v1/health, sandbox", "`import app`")
    pairs = zip(names, zip(*turns, strict=True), (2.0, 2.0, 1.0), strict=True)
    return [{"name": name, "seconds": seconds, "at_most": most} for name, seconds, most in pairs]


def to_health(log_dir: str, **settings: str) -> float:
    began = time.perf_counter()
    with platform(log_dir, **settings) as process:
        connection = http.client.HTTPConnection("127.0.0.1", process.port(), timeout=30)
        connection.request("GET", "/api/v1/health")
        reply = connection.getresponse()
        reply.read()
        seconds = time.perf_counter() - began
        connection.close()
    if reply.status != 200:
        raise RuntimeError(f"/api/v1/health answered {reply.status}.")
    return seconds


def importing() -> float:
    with tempfile.TemporaryDirectory() as elsewhere:
        ran = subprocess.run(
            [sys.executable, "-c", IMPORT],
            cwd=elsewhere,
            env=environment(PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    return float(ran.stdout)


def row(part: dict[str, Any]) -> list[str]:
    """The row's cells for the table of seconds."""
    seconds, most = part["seconds"], part["at_most"]
    verdict = "met" if median(seconds) <= most else "missed"
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    return [part["name"], f"{median(seconds):.2f} s", spread, f"≤ {most:g} s: {verdict}"]
