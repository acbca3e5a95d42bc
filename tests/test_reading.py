"""Reading the ledger, on SQLite and PostgreSQL: sums that agree with the rows, and pages that miss none."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain

import pytest
from sqlalchemy import create_engine, delete, select, text, update

from errors import LedgerUnavailable
from store import reading
from store.reading import FIGURES, Window
from store.rows import row_from
from store.sums import Sums
from store.tables import DAY_US, HOUR_US, KEYS, OPEN, SUMS, UNKNOWN, requests, usage_days, usage_hours
from tests.ledger_rows import NOW_US, add_rows, fill, made_rows, new_ledger

TENANTS = ("anonymous", "acme")
HOUR = NOW_US // HOUR_US
COLUMNS = ("request_id", "cost_nano", "caller")


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request, tmp_path):
    """A new and empty ledger."""
    url = (
        f"sqlite:///{tmp_path}/ledger.db"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    engine = new_ledger(url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def rows():
    """Five days of two tenants."""
    return list(made_rows(3000, days=5, tenants=TENANTS, still_open=5))


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def ledger(request, tmp_path_factory, rows):
    """A ledger of these rows, for tests that only read."""
    url = f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_server").new_database()
    engine = new_ledger(url)
    add_rows(engine, rows)
    yield engine
    engine.dispose()


KEY_OF = {
    "endpoint": lambda row: row["route"],
    "task": lambda row: row["task"],
    "model": lambda row: row.get("model", ""),
    "provider": lambda row: row.get("provider", ""),
    "key": lambda row: row.get("key_id", ""),
    "day": lambda row: row["at_us"] // DAY_US,
    "hour": lambda row: row["at_us"] // HOUR_US,
}


def counted(row) -> dict[str, int]:
    """What one row adds to the sums, said once more in the plainest way."""
    by, cost, saved = row.get("saved_by", ""), row.get("cost_nano", 0), row.get("saved_nano", 0)
    paid = {"attempts", "unknown_attempts", "discount_nano", "unknown_nano", "duration_us"}
    tokens = {"input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"}
    return {
        "requests": 1,
        "hits": by == "hit",
        "coalesced": by == "coalesced",
        "failed": not row.get("status") or row["status"] >= 400,
        "unpriced": cost is None,
        "unknown": row.get("state") == UNKNOWN,
        "cost_nano": cost or 0,
        "saved_hit_nano": (saved or 0) if by == "hit" else 0,
        "saved_coalesced_nano": (saved or 0) if by == "coalesced" else 0,
        **{name: row.get(name, 0) for name in paid},
        **{name: 0 if by else row.get(name, 0) for name in tokens},
    }


def added_up(rows, first_hour: int, group_by=(), tenant=None) -> dict[tuple, dict[str, int]]:
    groups = defaultdict(lambda: dict.fromkeys(FIGURES, 0))
    for row in rows:
        late_enough = row["at_us"] >= first_hour * HOUR_US
        if row.get("state") != OPEN and late_enough and tenant in (None, row["tenant"]):
            group = groups[tuple(KEY_OF[name](row) for name in group_by)]
            for name, value in counted(row).items():
                group[name] += value
            group["slowest_us"] = max(group["slowest_us"], row.get("duration_us", 0))
    return dict(groups)


def read(engine, window, group_by=(), tenant=None):
    return {group.keys: group.figures for group in reading.usage(engine, window, group_by, tenant)}


# Usage.


@pytest.mark.parametrize("hours", [1, 10, 11, 24, 40, 100, 720, 87_600])
def test_a_window_adds_up_to_what_its_rows_do(ledger, rows, hours):
    found = read(ledger, Window.of_hours(hours, NOW_US))
    assert found == added_up(rows, HOUR - hours)


@pytest.mark.parametrize("group_by", [(name,) for name in KEY_OF] + [("day", "model"), ("key", "hour")])
@pytest.mark.parametrize("tenant", [None, "acme"])
def test_each_group_adds_up_to_what_its_rows_do(ledger, rows, group_by, tenant):
    found = read(ledger, Window.of_hours(60, NOW_US), group_by, tenant)
    assert found == added_up(rows, HOUR - 60, group_by, tenant)
    assert len(found) > 1


def test_tenants_do_not_see_each_other_and_together_they_are_everybody(ledger, rows):
    window = Window.of_hours(100, NOW_US)
    one, other, both = (read(ledger, window, (), tenant)[()] for tenant in (*TENANTS, None))
    assert {name: one[name] + other[name] for name in SUMS} == {name: both[name] for name in SUMS}
    assert 0 < one["requests"] < both["requests"]
    assert read(ledger, window, ("model",), "nobody") == {}


def test_a_window_begins_with_a_whole_hour_and_ends_with_this_one(engine):
    places = [(HOUR - 2) * HOUR_US - 1, (HOUR - 2) * HOUR_US, NOW_US, (HOUR + 1) * HOUR_US]
    add_rows(engine, [{"request_id": str(at), "mark": 1, "at_us": at, "cost_nano": 1} for at in places])
    (whole,) = reading.usage(engine, Window.of_hours(2, NOW_US))
    assert whole.figures["requests"] == whole.figures["cost_nano"] == 2
    kept = chain.from_iterable(reading.pages(engine, Window.of_hours(2, NOW_US), ("request_id",)))
    assert [row.request_id for row in kept] == [str(at) for at in places[1:3]]


def test_whole_days_are_read_from_the_sums_by_day(engine, rows):
    add_rows(engine, rows)
    window = Window.of_hours(100, NOW_US)
    expected = read(engine, window, ("day",))
    first, end = window.days
    inside = usage_hours.c.start.between(first * 24, end * 24 - 1)
    with engine.begin() as connection:
        assert connection.execute(delete(usage_hours).where(inside)).rowcount > 0
    assert read(engine, window, ("day",)) == expected
    with engine.begin() as connection:
        connection.execute(delete(usage_days))
    assert read(engine, window, ("day",)) != expected


def test_an_empty_ledger_adds_up_to_nothing(engine):
    window = Window.of_hours(24, NOW_US)
    assert read(engine, window, ("day",)) == {}
    assert reading.whole(reading.usage(engine, window)).figures == dict.fromkeys(FIGURES, 0)
    assert reading.open_now(engine) == reading.Open(0, 0)
    assert reading.totals_of(engine) == reading.Totals(0, 0, 0)
    assert reading.languages(engine, window) == []
    assert list(reading.pages(engine, window, COLUMNS)) == []
    assert list(reading.newest(engine, COLUMNS, 5)) == []


def test_sums_are_whole_numbers_in_every_database(ledger, rows):
    for group in reading.usage(ledger, Window.of_hours(100, NOW_US), ("day",)):
        assert all(type(value) is int for value in (*group.keys, *group.figures.values()))


def test_what_may_have_been_billed_is_never_part_of_a_cost(engine):
    row = {
        "request_id": "a",
        "mark": 1,
        "at_us": NOW_US,
        "state": UNKNOWN,
        "unknown_nano": 7,
        "unknown_attempts": 1,
    }
    add_rows(engine, [row])
    figures = reading.whole(reading.usage(engine, Window.of_hours(1, NOW_US))).figures
    assert (figures["unknown"], figures["unknown_attempts"], figures["unknown_nano"]) == (1, 1, 7)
    assert figures["cost_nano"] == reading.totals_of(engine).cost_nano == 0


def test_what_groups_add_up_to_is_the_whole(ledger, rows):
    window = Window.of_hours(100, NOW_US)
    assert reading.whole(reading.usage(ledger, window, ("model", "day"))).figures == read(ledger, window)[()]


# Beside the sums.


def test_open_rows_are_counted_with_what_they_may_cost_and_are_in_no_sum(ledger, rows):
    still_open = [row for row in rows if row.get("state") == OPEN]
    assert len(still_open) == 5
    assert reading.open_now(ledger) == reading.Open(5, sum(row["reserved_nano"] for row in still_open))
    acme = [row for row in still_open if row["tenant"] == "acme"]
    assert reading.open_now(ledger, "acme").requests == len(acme)
    (whole,) = reading.usage(ledger, Window.of_hours(87_600, NOW_US))
    assert whole.figures["requests"] == len(rows) - 5


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_totals_are_of_everything_since_the_ledger_began(ledger, rows, tenant):
    closed = [row for row in rows if row.get("state") != OPEN and tenant in (None, row["tenant"])]
    found = reading.totals_of(ledger, tenant)
    assert found.requests == len(closed)
    assert found.cost_nano == sum(row.get("cost_nano", 0) or 0 for row in closed)
    assert found.saved_nano == sum(row.get("saved_nano", 0) or 0 for row in closed)


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_languages_are_those_of_the_windows_days_most_answers_first(ledger, rows, tenant):
    window = Window.of_hours(30, NOW_US)
    expected = defaultdict(lambda: [0, 0])
    for row in rows:
        inside = row["at_us"] // DAY_US >= window.first // 24 and tenant in (None, row["tenant"])
        if row.get("language") and inside:
            expected[row["language"]][0] += 1
            expected[row["language"]][1] += row["lines"]
    found = reading.languages(ledger, window, tenant)
    assert {each.language: [each.answers, each.lines] for each in found} == expected
    assert [each.answers for each in found] == sorted((each.answers for each in found), reverse=True)


# Pages of rows.


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_pages_hold_every_row_of_the_window_once_and_in_order(engine, size):
    made = list(made_rows(200, days=2, still_open=3))
    add_rows(engine, made)
    window = Window.of_hours(30, NOW_US)
    found = list(chain.from_iterable(reading.pages(engine, window, COLUMNS, size=size)))
    expected = [row["request_id"] for row in made if row["at_us"] >= window.first * HOUR_US]
    assert 0 < len(expected) < 200
    assert [row.request_id for row in found] == expected
    assert [row.seq for row in found] == sorted({row.seq for row in found})


def test_rows_of_other_moments_between_those_of_the_window_are_left_out(engine):
    """A spool may bring old rows after new ones."""
    moments = [NOW_US, NOW_US - 50 * HOUR_US, NOW_US, NOW_US - 60 * HOUR_US, NOW_US]
    add_rows(engine, [{"request_id": str(n), "mark": n, "at_us": at} for n, at in enumerate(moments)])
    found = chain.from_iterable(reading.pages(engine, Window.of_hours(24, NOW_US), COLUMNS, size=1))
    assert [row.request_id for row in found] == ["0", "2", "4"]


def test_pages_end_where_the_ledger_ended_when_they_began_and_hold_no_connection(engine):
    fill(engine, 30, days=1)
    pages = reading.pages(engine, Window.of_hours(24, NOW_US), COLUMNS, size=10)
    found = list(next(pages))
    assert engine.pool.checkedout() == 0
    add_rows(engine, [{"request_id": "late", "mark": 1, "at_us": NOW_US}])
    found += chain.from_iterable(pages)
    assert len(found) == 30
    assert "late" not in {row.request_id for row in found}


def test_rows_that_were_pruned_on_the_way_end_nothing(engine):
    fill(engine, 30, days=1)
    pages = reading.pages(engine, Window.of_hours(24, NOW_US), COLUMNS, size=10)
    last = list(next(pages))[-1].seq
    with engine.begin() as connection:
        connection.execute(delete(requests).where(requests.c.seq.between(last + 1, last + 12)))
    assert [row.seq - last for row in chain.from_iterable(pages)] == list(range(13, 21))


def test_pages_and_the_last_rows_of_a_tenant_are_its_own(ledger, rows):
    acme = [row["request_id"] for row in rows if row["tenant"] == "acme"]
    window = Window.of_hours(87_600, NOW_US)
    found = chain.from_iterable(reading.pages(ledger, window, COLUMNS, "acme", size=100))
    assert [row.request_id for row in found] == acme
    newest = reading.newest(ledger, COLUMNS, 5, "acme")
    assert [row.request_id for row in newest] == acme[:-6:-1]


def test_a_caller_is_a_key_or_else_a_user_or_else_an_address(engine):
    who = [{"key_id": "k", "user_id": "u"}, {"user_id": "u"}, {}]
    add_rows(
        engine,
        [
            {"request_id": str(n), "mark": n, "at_us": NOW_US, "address": "192.0.2.1", **each}
            for n, each in enumerate(who)
        ],
    )
    (page,) = reading.pages(engine, Window.of_hours(1, NOW_US), ("caller",))
    assert [row.caller for row in page] == ["k", "u", "192.0.2.1"]


# When the ledger cannot be read.


def test_a_ledger_that_is_away_is_told_as_such():
    gone = create_engine("sqlite:////nowhere/at/all/ledger.db")
    window = Window.of_hours(24, NOW_US)
    for ask in (
        lambda: reading.usage(gone, window),
        lambda: reading.open_now(gone),
        lambda: list(reading.pages(gone, window, COLUMNS)),
        lambda: reading.newest(gone, COLUMNS, 1),
        lambda: reading.languages(gone, window),
    ):
        with pytest.raises(LedgerUnavailable) as told:
            ask()
        assert "read" in str(told.value)


def test_a_server_that_is_away_is_told_as_such():
    gone = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none", connect_args={"connect_timeout": 2})
    with pytest.raises(LedgerUnavailable):
        reading.totals_of(gone)


# How the databases find things.


def plan(engine, query) -> str:
    sql = str(query.compile(engine, compile_kwargs={"literal_binds": True}))
    how = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    with engine.connect() as connection:
        if engine.dialect.name != "sqlite":  # with so few rows it would read the table whole, and rightly so
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        return "\n".join(str(row) for row in connection.execute(text(how + sql)))


def test_open_rows_are_found_by_their_index(ledger, rows):
    assert "ix_requests_open" in plan(ledger, select(requests.c.seq).where(reading._IS_OPEN))


def test_a_page_is_found_by_its_place_in_the_ledger_and_never_sorted(ledger, rows):
    query = reading._page(Window.of_hours(24, NOW_US), COLUMNS, None).params(first=5, last=104)
    found = plan(ledger, query)
    assert "ix_requests_at_us" not in found
    if ledger.dialect.name == "sqlite":  # the other one knows the sizes, and may well sort the last few rows
        assert "USING INTEGER PRIMARY KEY" in found
        assert "TEMP" not in found


# The builder itself.


def test_the_made_up_sums_are_those_that_the_ledger_keeps(ledger, rows):
    """The database added these up by itself; store/sums adds the same rows up in its own way."""
    with ledger.connect() as connection:
        stored = connection.execute(select(requests).where(requests.c.state != OPEN)).mappings().all()
        tables = {
            table: {
                tuple(row[name] for name in ("start", *KEYS)): [row[name] for name in FIGURES]
                for row in connection.execute(select(table)).mappings()
            }
            for table in (usage_hours, usage_days)
        }
    sums = Sums()
    for row in stored:
        sums.add(row_from(row))
    assert tables == {usage_hours: sums.hours, usage_days: sums.days}


def test_made_up_rows_are_the_same_for_the_same_seed_and_in_order():
    made = list(made_rows(500, days=3))
    assert made == list(made_rows(500, days=3))
    assert made != list(made_rows(500, days=3, seed=2))
    moments = [row["at_us"] for row in made]
    assert moments == sorted(moments)
    assert moments[0] >= NOW_US - 3 * DAY_US
    assert moments[-1] < NOW_US


def test_a_row_that_is_changed_behind_the_sums_would_be_noticed(engine, rows):
    add_rows(engine, rows)
    window = Window.of_hours(87_600, NOW_US)
    with engine.begin() as connection:
        connection.execute(update(usage_days).values(cost_nano=usage_days.c.cost_nano + 1))
    assert read(engine, window) != added_up(rows, 0)
