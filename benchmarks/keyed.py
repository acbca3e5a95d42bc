"""What it costs to know the caller: a cached hit with an API key against one without, in the same process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

from account_services import build_accounts
from benchmarks.cached import PROMPT, answer_of
from benchmarks.children import Child, platform
from benchmarks.rounds import Effort, Figure, interleave
from config import Settings
from identity import OPERATOR
from security.guesses import unheard
from store.db import ledger_url
from store.patient import Patient
from tests.upstream import UpstreamProcess

MORE_US = 150
LIMIT = "a digest and a look into a map; the rest is the disk's, on both sides"


def keyed(effort: Effort, log_dir: str) -> Iterator[Figure]:
    with ExitStack() as stack:
        upstream = stack.enter_context(UpstreamProcess())
        load = stack.enter_context(Child("-m", "benchmarks.load"))
        data_dir = f"{log_dir}/keyed"
        live = {"GOOGLE_API_KEY": "any-key", "GEMINI_BASE_URL": upstream.url, "DATA_DIR": data_dir}
        server = stack.enter_context(platform(f"{data_dir}-logs", **live))
        port = server.port()
        answer_of(port)
        key = _key(data_dir)
        answer_of(port, key)
        job = {"port": port, "pid": server.pid, "connections": 1, "distinct": False, "prompt": PROMPT}
        job |= {"seconds": effort.cached_seconds, "expected": "X-Cache-Status: hit"}
        sides = (partial(_time, load, **job), partial(_time, load, key=key, **job))
        without, with_key = interleave("cached hit with a key", effort.cached_rounds, *sides)
        yield Figure("cached hit with an API key", "µs", without, with_key, LIMIT, more_at_most=MORE_US)


def _time(load: Child, **job: Any) -> dict[str, Any]:
    """Microseconds per request, one after the other."""
    told = load.ask(**job)
    return told | {"value": 1_000_000 / told["value"]}


def _key(data_dir: str) -> str:
    database = Patient(ledger_url("", data_dir), lambda: None)
    accounts = build_accounts(Settings(data_dir=data_dir), database, unheard)
    home = accounts.create_organisation("home", OPERATOR)
    _, text = accounts.create_key("bench", "developer", OPERATOR, organisation=home.id, user_id="")
    database.close()
    return text
