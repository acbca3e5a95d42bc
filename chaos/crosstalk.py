"""crosstalk: two tenants ask two processes the same and hang up at random; nobody ever gets what is another's."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from account_services import build_accounts
from chaos.books import Row, read_books, sums_problems
from chaos.check import open_problems
from chaos.goal import Problem, Run
from chaos.load import nano
from chaos.plan import PATHS
from chaos.platform import Platform
from config import Settings
from identity import OPERATOR
from pipeline import prompt_hash
from security.guesses import unheard
from store.db import ledger_url
from store.patient import Patient
from tests.upstream import UpstreamProcess
from tests.upstream.answers import answer_text

MODEL = "gemini-3.1-flash-lite"
LATENCY, TIMEOUT = 0.02, 30.0
CALLERS = 12
# Prompts that are asked for at one time, and after how many asks the oldest of them gives way to a new one: so misses,
# shared flights and hits never end.
AT_ONCE, ASKS_EACH = 6, 48
SHARED, BYPASS, STREAMED, HUNG_UP = 0.5, 0.05, 0.1, 0.1


@dataclass(frozen=True, slots=True)
class Tenant:
    name: str
    id: str
    key_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Sent:
    """One request, and what came of it: the text of a whole answer, none of one that was hung up."""

    request_id: str
    tenant: Tenant
    prompt: str
    hung_up: bool
    status: int = 0
    text: str | None = None
    overall_nano: int = 0


def crosstalk(run: Run) -> None:
    each = 400 if run.short else 20_000
    with ExitStack() as stack:
        upstream = stack.enter_context(UpstreamProcess(seed=run.seed, latency=LATENCY))
        data_dir = run.folder / "data"
        platforms = [
            stack.enter_context(Platform(run.folder / name, upstream.url, data_dir=data_dir, AUTH="required"))
            for name in ("one", "two")
        ]
        tenants = [_settle(data_dir, name) for name in ("home", "away")]
        sent = list(_load(run, platforms, tenants, each))
        last = [
            _ask(platform.port, tenant, f"last-{platform.name}", "The last.")
            for platform in platforms
            for tenant in tenants
        ]
        codes = [platform.end() for platform in platforms]
        books = read_books(platforms[0].ledger_url)
        run.demand(codes == [0, 0], "a platform did not end cleanly", str(codes))
    everything = [*sent, *last]
    run.found(mismatches(everything))
    run.found(strangers(everything, books.rows))
    run.found(found_elsewhere(books.rows))
    run.found(open_problems(books.rows))
    run.found(sums_problems(books))
    run.found(_overall(last, books.rows))
    run.figures |= _figures(sent, books.rows, upstream_calls=sum(row["attempts"] for row in books.rows))
    for kind in ("hit", "coalesced", "miss", "bypass"):
        run.demand(run.figures["cache"].get(kind), f"no {kind} at all: the run proves nothing")


def _settle(data_dir: Path, name: str) -> Tenant:
    """An organisation with one key, made as the commands make them."""
    database = Patient(ledger_url("", str(data_dir)), lambda: None)
    accounts = build_accounts(Settings(data_dir=str(data_dir)), database, unheard)
    home = accounts.create_organisation(name, OPERATOR)
    key, text = accounts.create_key(name, "developer", OPERATOR, organisation=home.id, user_id="")
    database.close()
    return Tenant(name, home.id, key.id, text)


# The load.


def _load(run: Run, platforms: list[Platform], tenants: list[Tenant], each: int) -> Iterator[Sent]:
    numbers = {tenant.name: iter(range(each)) for tenant in tenants}
    lock, ports = threading.Lock(), [platform.port for platform in platforms]

    def call(place: int) -> list[Sent]:
        tenant, chance = tenants[place % 2], Random(f"{run.seed}-{place}")
        caller, kept = Caller(ports[place // 2 % 2], tenant), []
        while True:
            with lock:
                number = next(numbers[tenant.name], None)
            if number is None:
                return kept
            kept.append(caller.ask(f"ask-{number}", _prompt(tenant, number, chance), chance))
            time.sleep(run.rest / 5)

    with ThreadPoolExecutor(CALLERS) as pool:
        for kept in pool.map(call, range(CALLERS)):
            yield from kept


def _prompt(tenant: Tenant, number: int, chance: Random) -> str:
    """The tenant's own, or one that both of them ask for."""
    whose = "both" if chance.random() < SHARED else tenant.name
    return f"[{whose} {number // ASKS_EACH + chance.randrange(AT_ONCE)}] say something"


class Caller:
    """One keep-alive connection, until it hangs up."""

    def __init__(self, port: int, tenant: Tenant) -> None:
        self._port, self._tenant = port, tenant
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, request_id: str, prompt: str, chance: Random) -> Sent:
        headers = {
            "Content-Type": "application/json",
            "X-Request-ID": request_id,
            "X-API-Key": self._tenant.key,
        }
        if chance.random() < BYPASS:
            headers["Cache-Control"] = "no-cache"
        body: dict[str, Any] = {"prompt": prompt}
        if chance.random() < STREAMED:
            body["stream"] = True
        self._connection = self._connection or http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=TIMEOUT
        )
        self._connection.request("POST", PATHS["text"], json.dumps(body), headers)
        if chance.random() < HUNG_UP:
            return self._hang_up(Sent(request_id, self._tenant, prompt, hung_up=True), chance)
        reply = self._connection.getresponse()
        raw, told = reply.read(), reply.headers
        if told.get("X-Request-ID") != request_id:
            return Sent(
                request_id,
                self._tenant,
                prompt,
                False,
                reply.status,
                f"the reply to {told.get('X-Request-ID')}",
            )
        text = _text(raw, "stream" in body) if reply.status == 200 else raw.decode()
        overall = nano(told.get("X-Cost-Overall", "0")) or 0
        return Sent(request_id, self._tenant, prompt, False, reply.status, text, overall)

    def _hang_up(self, sent: Sent, chance: Random) -> Sent:
        """At once, after a moment, or with the head in hand."""
        assert self._connection is not None
        how = chance.randrange(3)
        if how == 1:
            time.sleep(chance.uniform(0, 2 * LATENCY))
        elif how == 2:
            self._connection.getresponse().read(1)
        self._connection.close()
        self._connection = None
        return sent


def _ask(port: int, tenant: Tenant, request_id: str, prompt: str) -> Sent:
    return Caller(port, tenant).ask(request_id, prompt, _Calm())


class _Calm(Random):
    """Chance for a request that is whole and waits for its answer."""

    def random(self) -> float:
        return 1.0


def _text(raw: bytes, streamed: bool) -> str:
    if not streamed:
        return str(json.loads(raw)["generated_text"])
    lines = [line for line in raw.decode().split("\n") if line.startswith("data: ")]
    return "".join(json.loads(line[6:]).get("generated_text", "") for line in lines)


# What must hold.


def mismatches(sent: list[Sent]) -> Iterator[Problem]:
    """An answer quotes a hash of its prompt, in which the tenant stands."""
    for each in sent:
        expected = answer_text(MODEL, "", each.prompt)
        if not each.hung_up and (each.status, each.text) != (200, expected):
            yield Problem(
                "an answer to another prompt", f"  {each.request_id} {each.prompt}: {each.status} {each.text}"
            )


def strangers(sent: list[Sent], rows: list[Row]) -> Iterator[Problem]:
    """Each row is its caller's, under the id that was sent: both tenants send the same ones."""
    callers = {
        (each.request_id, each.tenant.id): (each.tenant.key_id, prompt_hash(each.prompt)) for each in sent
    }
    for row in rows:
        if callers.get((row["request_id"], row["tenant"])) != (row["key_id"], row["prompt_hash"]):
            yield Problem("a row of another caller", f"  {row['request_id']} {row['tenant']} {row['key_id']}")
    written = {(row["request_id"], row["tenant"]) for row in rows}
    for each in sent:
        if not each.hung_up and (each.request_id, each.tenant.id) not in written:
            yield Problem("an answer without a row", f"  {each.request_id} {each.tenant.name}")


def found_elsewhere(rows: list[Row]) -> Iterator[Problem]:
    """Whoever got something for nothing is of a tenant that has paid for it, in the same process."""
    paid = {(row["instance"], row["tenant"], row["prompt_hash"]) for row in rows if row["attempts"]}
    for row in rows:
        free = row["cache_status"] in ("hit", "coalesced") and row["status"] == 200
        if free and (row["instance"], row["tenant"], row["prompt_hash"]) not in paid:
            yield Problem("an answer that another tenant paid for", f"  {row['request_id']} {row['tenant']}")


def _overall(last: list[Sent], rows: list[Row]) -> Iterator[Problem]:
    """The last reply of each tenant tells what it has spent itself: what follows it is free."""
    for tenant in {each.tenant for each in last}:
        spent = sum(row["cost_nano"] or 0 for row in rows if row["tenant"] == tenant.id)
        told = max(each.overall_nano for each in last if each.tenant == tenant)
        if told != spent:
            yield Problem("X-Cost-Overall is not what the tenant spent", f"  {tenant.name}: {told}, {spent}")


def _figures(sent: list[Sent], rows: list[Row], upstream_calls: int) -> dict[str, Any]:
    return {
        "requests": len(sent),
        "hung_up": sum(each.hung_up for each in sent),
        "rows": len(rows),
        "calls": upstream_calls,
        "cache": dict(Counter(row["cache_status"] for row in rows).most_common()),
        "statuses": dict(Counter(str(row["status"]) for row in rows).most_common()),
        "processes": len({row["instance"] for row in rows}),
    }
