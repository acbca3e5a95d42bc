"""The goals of chaos/ in their short form, and proof that their checks see what they are there to see."""

from __future__ import annotations

import dataclasses
import json
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from chaos.__main__ import GOALS
from chaos.books import SHOWN, integrity, read_books, sums_problems
from chaos.check import journal_problems, open_problems, reply_problems, stories
from chaos.crosstalk import MODEL, Sent, Tenant, found_elsewhere, mismatches, strangers
from chaos.goal import LACKS_A_TOOL, Run
from chaos.load import Asked, Reply
from chaos.plan import Plan, Wanted
from chaos.table import README, RESULTS, markdown
from pipeline import prompt_hash
from prices import PriceBook
from store.db import migrate, open_engine
from tasks import Usage
from tests.ledger_rows import fill
from tests.servers.postgres import PostgresServer
from tests.upstream import Call, Tokens
from tests.upstream.answers import answer_text
from tests.upstream.bills import PRICES, bill

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def goals() -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """Two at once: most of the time each of them waits, and more would starve one another."""
    with ThreadPoolExecutor(2) as pool:
        yield {goal: pool.submit(short_form, goal) for goal in GOALS}
        pool.shutdown(cancel_futures=True)


def short_form(goal: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chaos", goal, "--short", "--seed", "1"]
    together = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.run(command, cwd=ROOT, timeout=240, check=False, **together)


@pytest.mark.parametrize("goal", GOALS)
def test_the_short_form_of_each_goal_is_met(goals, goal):
    ended = goals[goal].result()
    if ended.returncode == LACKS_A_TOOL:
        pytest.skip(ended.stdout.strip().splitlines()[-1])
    assert ended.returncode == 0, ended.stdout


# What the checks see. An honest world first: two asks for one prompt, one of them a hit, and one ask that was cut off.

TOKENS = Tokens(prompt=100, candidates=10)
COST = 100 * 250 + 10 * 1500


def ask(request_id: str, marker: str, **facts: Any) -> Asked:
    known = {"status": 200, "code": "", "billed": True, "overall_nano": COST, "cache_status": "miss"}
    reply = Reply(**{**known, "cost_nano": COST, "saved_nano": 0, **facts})
    return Asked(request_id, Wanted(marker, "text", 1), 0, 0.0, reply=reply)


def row(request_id: str, **facts: Any) -> dict[str, Any]:
    zeros = dict.fromkeys(SHOWN, 0)
    known = {"request_id": request_id, "state": "settled", "status": 200, "cache_status": "miss"}
    return {**zeros, **known, "cost_nano": COST, "attempts": 1, "saved_by": "", **facts}


def call(marker: str, **facts: Any) -> Call:
    known: dict[str, Any] = {"number": 1, "at": 0.0, "model": "gemini-3.1-flash-lite", "method": "generate"}
    known |= {"prompt": f"[{marker}] word", "system": "", "body": {}, "fault": "ok", "status": 200}
    return Call(**{**known, "billed": TOKENS, "reported": TOKENS, "delivered": True, **facts})


@dataclasses.dataclass
class World:
    asked: list[Asked]
    rows: list[dict[str, Any]]
    calls: list[Call]

    def problems(self) -> Counter[str]:
        told = stories(self.asked, self.rows, self.calls).values()
        found = [*reply_problems(self.asked, self.rows), *open_problems(self.rows), *journal_problems(told)]
        assert all(problem.details for problem in found), "each problem shows what it is about"
        return Counter(problem.kind for problem in found)


def honest() -> World:
    cut_off = Asked("c", Wanted("two", "text", 1), 0, 0.0, trouble="ConnectionResetError")
    free = {"cost_nano": 0, "saved_nano": COST, "cache_status": "hit"}
    given_up = {"state": "unknown", "status": 0, "cost_nano": 0, "unknown_attempts": 1, "unknown_nano": COST}
    return World(
        [ask("a", "one"), ask("b", "one", **free), cut_off],
        [row("a"), row("b", attempts=0, saved_by="hit", **free), row("c", **given_up)],
        [call("one"), call("two", delivered=False, reported=None)],
    )


def test_the_checks_find_nothing_where_all_agree():
    assert honest().problems() == {}
    assert bill(call("one")) == COST


@pytest.mark.parametrize("model", PRICES)
def test_the_prices_by_hand_are_those_of_the_price_book(model):
    fresh, cached, output = PRICES[model]
    cost = PriceBook().cost("gemini", model, Usage(3, 1, cached_tokens=1), datetime.now(UTC))
    assert (cost.input_nano, cost.output_nano) == (2 * fresh + cached, output)


def edit(number: int, **facts: Any) -> Callable[[World], None]:
    return lambda world: world.rows[number].update(facts)


LIES: dict[str, tuple[Callable[[World], None], str]] = {
    "lost": (lambda world: world.rows.pop(1), "an acknowledged reply without a row"),
    "doubled": (lambda world: world.rows.append(row("a~1f")), "two rows for one ask"),
    "invented": (lambda world: world.rows.append(row("x")), "a row that nobody asked for"),
    "still open": (edit(0, state="open", status=0), "an acknowledged reply whose row is still open"),
    "left open": (edit(2, state="open"), "a row that stays open"),
    "a nano-dollar more": (edit(0, cost_nano=COST + 1), "a row that says otherwise than its reply's headers"),
    "a nano-dollar saved": (edit(1, saved_nano=1), "a row that says otherwise than its reply's headers"),
    "another status": (edit(0, status=502), "a row that says otherwise than its reply's headers"),
    "no hit": (edit(1, cache_status="miss"), "a row of another cache status than its reply"),
    "cut off, and no row": (lambda world: world.rows.pop(2), "a call to the provider of which no row tells"),
    "a call unseen": (lambda world: world.calls.append(call("one")), "rows do not cost what the provider told of"),
    "a call too few": (edit(0, attempts=2), "attempts in rows are not the calls of the journal"),
    "a loss forgotten": (
        lambda world: world.calls.__setitem__(0, call("one", reported=None)),
        "unknown attempts in rows are not those lost in the journal",
    ),
    "a bound too low": (
        edit(2, unknown_nano=COST - 1),
        "unknown rows have a bound below what was billed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_the_checks_find_every_lie(lie):
    world = honest()
    tell, kind = LIES[lie]
    tell(world)
    assert world.problems()[kind] == 1


# Two tenants.

HOME, AWAY = (Tenant(name, f"{name}-id", f"{name}-key", "any") for name in ("home", "away"))


def sent(request_id: str, tenant: Tenant, prompt: str, **facts: Any) -> Sent:
    known = {"status": 200, "text": answer_text(MODEL, "", prompt), "hung_up": False}
    return Sent(request_id, tenant, prompt, **(known | facts))


def row_of(asked: Sent, cache_status: str, **facts: Any) -> dict[str, Any]:
    known = {
        "request_id": asked.request_id,
        "tenant": asked.tenant.id,
        "key_id": asked.tenant.key_id,
        "status": 200,
    }
    known |= {"prompt_hash": prompt_hash(asked.prompt), "cache_status": cache_status, "instance": "one"}
    return known | {"attempts": int(cache_status == "miss")} | facts


def crossings(asked: list[Sent], rows: list[dict[str, Any]]) -> set[str]:
    found = [*mismatches(asked), *strangers(asked, rows), *found_elsewhere(rows)]
    return {problem.kind for problem in found}


def test_the_checks_of_tenants_find_nothing_where_each_has_paid_for_itself():
    asked = [sent(place, tenant, "[both]") for place in "ab" for tenant in (HOME, AWAY)]
    gone = sent("gone", HOME, "[home]", hung_up=True, status=0, text=None)
    rows = [row_of(one, "miss" if place < 2 else "hit") for place, one in enumerate(asked)]
    assert crossings([*asked, gone], [*rows, row_of(gone, "miss", status=499)]) == set()


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        (lambda asked, rows: rows[1].update(cache_status="hit", attempts=0), "an answer that another tenant paid for"),
        (lambda asked, rows: rows[1].update(cache_status="coalesced", attempts=0), "an answer that another tenant paid for"),
        (lambda asked, rows: rows[1].update(tenant="home-id"), "a row of another caller"),
        (lambda asked, rows: rows[1].update(key_id="home-key"), "a row of another caller"),
        (lambda asked, rows: rows.pop(), "an answer without a row"),
        (lambda asked, rows: rows[1].update(request_id="a~1f"), "an answer without a row"),
        (lambda asked, rows: asked.__setitem__(1, sent("a", AWAY, "[both]", text="another's")), "an answer to another prompt"),
        (lambda asked, rows: asked.__setitem__(1, sent("a", AWAY, "[both]", status=500)), "an answer to another prompt"),
    ],
)  # fmt: skip
def test_the_checks_of_tenants_find_every_crossing(lie, kind):
    asked = [sent("a", HOME, "[both]"), sent("a", AWAY, "[both]")]
    rows = [row_of(one, "miss") for one in asked]
    assert crossings(asked, rows) == set()
    lie(asked, rows)
    assert kind in crossings(asked, rows)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A ledger of some days with sums that fit."""
    path = tmp_path / "ledger.db"
    engine = open_engine(make_url(f"sqlite:///{path}"))
    migrate(engine)
    fill(engine, 300, days=3)
    engine.dispose()
    return path


@pytest.mark.parametrize(
    ("table", "kind"), [("usage_hours", "an hour"), ("usage_days", "a day"), ("totals", "a total")]
)
def test_the_checks_find_a_sum_that_is_not_its_rows(filled, table, kind):
    assert list(sums_problems(read_books(f"sqlite:///{filled}"))) == []
    with closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute(f"UPDATE {table} SET cost_nano = cost_nano + 1 WHERE rowid = 1")
    (problem,) = sums_problems(read_books(f"sqlite:///{filled}"))
    assert problem.kind == f"the sums of {kind} are not those of its rows"


@pytest.mark.parametrize(
    "lie",
    [
        "UPDATE budgets SET spent_nano = spent_nano + 1 WHERE scope LIKE 'key:%:month'",
        "UPDATE budgets SET reserved_nano = 1 WHERE scope LIKE 'key:%:total'",
        "DELETE FROM budgets WHERE scope LIKE 'key:%:day'",
        "INSERT INTO budgets (scope, start, spent_nano) VALUES ('key:nobody:total', 0, 5)",
    ],
)
def test_the_checks_find_a_counter_that_is_not_its_rows(filled, lie):
    with closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute(lie)
    kinds = {problem.kind for problem in sums_problems(read_books(f"sqlite:///{filled}"))}
    assert kinds == {"the sums of a counter are not those of its rows"}


def test_the_checks_find_a_damaged_file(filled):
    assert list(integrity(filled)) == []
    with filled.open("r+b") as file:
        file.seek(filled.stat().st_size // 2)
        file.write(b"\xff" * 20_000)
    assert [problem.kind for problem in integrity(filled)] == ["integrity_check is not ok"]


def test_a_result_says_what_failed_and_names_no_folder(tmp_path):
    run = Run("storm", 7, True, tmp_path)
    assert run.result()["passed"]
    run.demand(False, "a promise", "its details")
    told = run.result()
    assert (told["passed"], told["seed"], told["problems"]) == (False, 7, {"a promise": 1})
    assert str(tmp_path) not in str(told)


def test_every_published_result_stands_in_the_readme_and_names_no_place():
    known = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    if known:
        assert markdown(known) in README.read_text()
    assert not [result["goal"] for result in known if result["short"] or not result["passed"]]
    assert not re.search(r"/(tmp|home|root|work)/", "".join(path.read_text() for path in RESULTS.glob("*")))


def test_a_plan_is_the_same_for_the_same_seed():
    first, again, other = ([plan.next() for _ in range(50)] for plan in (Plan(1), Plan(1), Plan(2)))
    assert first == again != other


# The PostgreSQL that breaks on demand.


def rows_of(url: str, seconds: int = 30) -> list[tuple[Any, ...]]:
    with psycopg.connect(url.replace("+psycopg", ""), connect_timeout=seconds) as connection:
        return connection.execute("SELECT number FROM kept").fetchall()


def test_postgresql_comes_back_at_the_same_place_with_what_it_was_given():
    with PostgresServer() as server:
        url = server.new_database()
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
        for end in (server.stop, server.kill):
            end()
            with pytest.raises(psycopg.OperationalError):
                rows_of(url)
            server.start()
            assert rows_of(url) == [(1,)]
        server.freeze()
        with pytest.raises(psycopg.errors.ConnectionTimeout):  # taken by the kernel, and then nothing
            rows_of(url, seconds=2)
        server.thaw()
        assert rows_of(url) == [(1,)]


def test_each_new_database_is_empty(postgres_url, postgres_server):
    other = postgres_server.new_database()
    assert other != postgres_url
    for url in (postgres_url, other):
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            assert connection.execute(
                "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
            ).fetchone() == (0,)
