"""Usage, exports, forecasts and stats, as curl sees them; and Swagger's description of them."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from analytics.outlook import QUALITY_SECONDS, QualityDesk
from api.reports import DESK, Desk
from errors import LedgerUnavailable
from store.db import ledger_url
from store.reading import PAGE_ROWS
from store.tables import OPEN
from tests.ledger_rows import NOW_US, add_rows, made_rows, new_ledger
from tests.test_schemas import assert_refused

USAGE, EXPORT = "/api/v1/usage", "/api/v1/usage/export"
FORECAST, QUALITY = "/api/v1/usage/forecast", "/api/v1/usage/forecast/quality"
ROUTES = (USAGE, EXPORT, FORECAST, QUALITY)
FIGURES = set(
    "requests hits coalesced failed attempts hit_rate input_tokens output_tokens cached_tokens reasoning_tokens "
    "cost_nanodollars cost saved_nanodollars saved saved_by_hits_nanodollars saved_by_coalescing_nanodollars "
    "discount_nanodollars unpriced_requests unknown_requests unknown_attempts unknown_nanodollars "
    "average_duration_ms slowest_duration_ms".split()
)


class Hand:
    """A clock that is moved by hand."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def empty(make_house):
    """A house at NOW with nothing in its ledger."""
    house = make_house()
    house.app.extensions[DESK] = Desk(clock=Hand(NOW_US / 1_000_000))
    return house


def fill(house, rows) -> None:
    engine = new_ledger(ledger_url(house.settings.database_url, house.settings.data_dir))
    add_rows(engine, rows)
    engine.dispose()


@pytest.fixture
def filled(empty):
    """Two days of requests, the last three of them open."""
    # Without a lease: the ledger's keeper has the real clock, by which any lease of then ends some day.
    fill(empty, (row | {"expires_us": None} for row in made_rows(400, days=2, still_open=3)))
    return empty


def get(house, path: str, **query) -> dict:
    response = house.client.get(path, query_string=query)
    assert response.status_code == 200, response.text
    return response.get_json()


def events(house) -> list[dict]:
    return [json.loads(line) for line in house.lines("security_audit.log")]


# Usage.


def test_a_report_says_which_window_it_is_of_and_what_that_adds_up_to(filled):
    report = get(filled, USAGE)
    assert set(report) == {"since", "until", "hours", "group_by", "total", "groups", "open"}
    assert (report["since"], report["until"]) == ("2026-11-22T10:00:00+00:00", "2026-11-23T10:34:56+00:00")
    assert (report["hours"], report["group_by"], report["groups"]) == (24, [], [])
    assert set(report["total"]) == FIGURES
    assert report["total"]["requests"] > 0
    assert report["open"] == {"requests": 3, "reserved_nanodollars": 15_000_000}


@pytest.mark.parametrize(
    "group_by", ["endpoint", "task", "model", "provider", "key", "day", "hour", "day,model"]
)
def test_groups_add_up_to_the_whole(filled, group_by):
    report = get(filled, USAGE, hours=720, group_by=group_by)
    names = group_by.split(",")
    assert report["group_by"] == names
    assert all(set(group) == {*names, *FIGURES} for group in report["groups"])
    for figure in FIGURES - {"hit_rate", "cost", "saved", "average_duration_ms", "slowest_duration_ms"}:
        assert sum(group[figure] for group in report["groups"]) == report["total"][figure]
    slowest = max(group["slowest_duration_ms"] for group in report["groups"])
    assert slowest == report["total"]["slowest_duration_ms"]


def test_money_is_told_in_whole_nanodollars_and_in_dollars_of_nine_decimals(filled):
    total = get(filled, USAGE)["total"]
    assert total["cost_nanodollars"] > 0
    for name in ("cost", "saved"):
        assert Decimal(total[name]) * 10**9 == total[f"{name}_nanodollars"]
        assert len(total[name].split(".")[1]) == 9
    saved = total["saved_by_hits_nanodollars"] + total["saved_by_coalescing_nanodollars"]
    assert total["saved_nanodollars"] == saved > 0


def test_rates_and_means_are_those_of_the_requests(empty):
    rows = [
        {"cache_status": "hit", "saved_by": "hit", "duration_us": 1_500, "saved_nano": 5},
        {"cache_status": "miss", "duration_us": 2_500},
        {"cache_status": "miss", "duration_us": 5_000},
    ]
    fill(empty, [{"request_id": str(n), "mark": n, "at_us": NOW_US, **row} for n, row in enumerate(rows)])
    total = get(empty, USAGE, hours=1)["total"]
    assert (total["requests"], total["hits"], total["hit_rate"]) == (3, 1, 0.333333)
    assert (total["average_duration_ms"], total["slowest_duration_ms"]) == (3.0, 5.0)


def test_days_and_hours_come_in_their_order_and_other_groups_dearest_first(filled):
    days = [group["day"] for group in get(filled, USAGE, hours=48, group_by="day")["groups"]]
    assert days == ["2026-11-21", "2026-11-22", "2026-11-23"]
    hours = [group["hour"] for group in get(filled, USAGE, hours=12, group_by="hour")["groups"]]
    assert hours == sorted(hours)
    assert hours[-1] == "2026-11-23T10:00:00+00:00"
    costs = [group["cost_nanodollars"] for group in get(filled, USAGE, group_by="model")["groups"]]
    assert costs == sorted(costs, reverse=True)
    pairs = get(filled, USAGE, hours=48, group_by="model,day")["groups"]
    order = [(group["day"], -group["cost_nanodollars"]) for group in pairs]
    assert order == sorted(order)


def test_unknown_costs_stand_for_themselves(empty):
    row = {"state": "unknown", "unknown_nano": 7, "unknown_attempts": 2, "attempts": 2}
    fill(empty, [{"request_id": "a", "mark": 1, "at_us": NOW_US, **row}])
    total = get(empty, USAGE)["total"]
    assert (total["unknown_requests"], total["unknown_attempts"], total["unknown_nanodollars"]) == (1, 2, 7)
    assert total["cost_nanodollars"] == total["saved_nanodollars"] == 0


def test_a_ledger_that_nothing_was_written_into_adds_up_to_nothing(house):
    report = get(house, USAGE, group_by="day")
    assert report["groups"] == []
    assert {report["total"][name] for name in FIGURES - {"cost", "saved"}} == {0}
    assert get(house, EXPORT) == []


def test_requests_are_in_the_reports_as_soon_as_they_are_answered(house, upstream):
    for _ in range(2):
        spent = house.post("text", {"prompt": "Say hello."}).headers["X-Cost-Overall"]
    report = get(house, USAGE, group_by="model")
    assert (report["total"]["requests"], report["total"]["hits"]) == (2, 1)
    assert report["total"]["cost"] == spent
    assert report["total"]["saved"] == spent
    rows = get(house, EXPORT)
    assert [row["cache_status"] for row in rows] == ["miss", "hit"]
    assert [row["caller"] for row in rows] == ["127.0.0.1"] * 2


# What may be asked.


@pytest.mark.parametrize("path", [USAGE, EXPORT])
@pytest.mark.parametrize("hours", ["0", "87601", "-1", "1.5", "", " 1", "1e3", "abc", "9" * 30, "٣", "0x10"])
def test_hours_are_whole_and_within_ten_years(empty, path, hours):
    reply = assert_refused(
        empty.client.get(path, query_string={"hours": hours}), 400, "invalid_input", "hours"
    )
    assert "1 to 87600" in reply["error"]


@pytest.mark.parametrize("path", [USAGE, EXPORT])
@pytest.mark.parametrize("hours", ["1", "87600", "007"])
def test_a_window_may_be_an_hour_or_ten_years(filled, path, hours):
    assert filled.client.get(path, query_string={"hours": hours}).status_code == 200


@pytest.mark.parametrize(
    "group_by", ["", "days", "day,", ",", "day,day", "day,model,key", "day model", "DAY", "route"]
)
def test_groups_are_two_different_ones_of_those_that_there_are(empty, group_by):
    response = empty.client.get(USAGE, query_string={"group_by": group_by})
    reply = assert_refused(response, 400, "invalid_input", "group_by")
    for name in ("endpoint", "task", "model", "provider", "key", "day", "hour"):
        assert f"`{name}`" in reply["error"]


@pytest.mark.parametrize("form", ["", "xlsx", "CSV", "json,csv"])
def test_an_export_has_one_of_three_formats(empty, form):
    response = empty.client.get(EXPORT, query_string={"format": form})
    reply = assert_refused(response, 400, "invalid_input", "format")
    assert "`json`, `ndjson`, `csv`" in reply["error"]


@pytest.mark.parametrize("days", ["0", "91", "x"])
def test_a_forecast_is_of_at_most_ninety_days(empty, days):
    assert_refused(empty.client.get(FORECAST, query_string={"days": days}), 400, "invalid_input", "days")


@pytest.mark.parametrize("path", ROUTES)
def test_a_parameter_that_is_not_known_or_stands_twice_is_refused(empty, path):
    reply = assert_refused(empty.client.get(f"{path}?tenant=acme"), 400, "invalid_input", "tenant")
    assert ("`hours`" in reply["error"]) is (path in (USAGE, EXPORT))
    if path != QUALITY:
        name = "days" if path == FORECAST else "hours"
        assert_refused(empty.client.get(f"{path}?{name}=2&{name}=2"), 400, "invalid_input", name)


@pytest.mark.parametrize("path", ROUTES)
def test_reports_are_limited_by_route_and_caller_as_other_reads_are(make_house, path):
    house = make_house(rate_limit_reads="2 per minute")
    statuses = [house.client.get(f"{path}?x=1").status_code for _ in range(3)]
    assert statuses == [400, 400, 429]


# Exports.


@pytest.mark.parametrize(
    ("form", "kind"),
    [("json", "application/json"), ("ndjson", "application/x-ndjson"), ("csv", "text/csv")],
)
def test_an_export_is_a_download_whose_name_the_server_chose(filled, form, kind):
    response = filled.client.get(EXPORT, query_string={"format": form, "hours": 48})
    assert response.mimetype == kind
    assert (
        response.headers["Content-Disposition"] == f'attachment; filename="usage-20261123T103456Z-48h.{form}"'
    )
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Request-ID"]


def test_an_export_adds_up_to_the_report_of_the_same_window_in_every_format(filled):
    total = get(filled, USAGE, hours=30)["total"]
    texts = {
        form: filled.client.get(EXPORT, query_string={"hours": 30, "format": form}).text
        for form in ("json", "ndjson", "csv")
    }
    rows = {
        "json": json.loads(texts["json"]),
        "ndjson": [json.loads(line) for line in texts["ndjson"].splitlines()],
        "csv": list(csv.DictReader(io.StringIO(texts["csv"], newline=""))),
    }
    for each in rows.values():
        closed = [row for row in each if row["state"] != OPEN]
        assert len(closed) == total["requests"] > 0
        assert len(each) == len(closed) + 3
        assert sum(int(row["cost_nanodollars"] or 0) for row in each) == total["cost_nanodollars"]
        assert sum(int(row["saved_nanodollars"] or 0) for row in each) == total["saved_nanodollars"]


def test_an_export_leaves_an_audit_line_with_who_took_how_much(filled):
    response = filled.client.get(
        EXPORT, query_string={"format": "csv"}, environ_base={"REMOTE_ADDR": "192.0.2.9"}
    )
    rows = len(response.text.splitlines()) - 1
    (event,) = events(filled)
    assert (event["event"], event["severity"]) == ("EXPORT_WRITTEN", "LOW")
    told = {
        "by": "anonymous",
        "by_id": "",
        "from": "192.0.2.9",
        "request_id": response.headers["X-Request-ID"],
        "hours": 24,
        "format": "csv",
    }
    assert event["details"] == {**told, "rows": rows, "whole": True}


def test_a_client_who_leaves_early_holds_no_connection_and_is_told_of(empty):
    fill(empty, made_rows(4 * PAGE_ROWS, days=1))
    response = empty.client.get(EXPORT, query_string={"hours": 48, "format": "ndjson"}, buffered=False)
    chunks = response.iter_encoded()
    assert next(chunks).count(b"\n") == PAGE_ROWS
    assert empty.services.ledger.reader.pool.checkedout() == 0
    response.close()
    (event,) = events(empty)
    assert (event["details"]["rows"], event["details"]["whole"]) == (PAGE_ROWS, False)


def test_who_asks_for_the_headers_only_gets_no_rows(filled):
    with filled.client.head(EXPORT) as response:
        assert (response.status_code, response.data) == (200, b"")
        assert response.headers["Content-Disposition"]
    (event,) = events(filled)
    assert (event["details"]["rows"], event["details"]["whole"]) == (0, False)


# Forecasts.


def a_history(days: int):
    """So many whole days before today, each busier than the one before."""
    today = NOW_US // 86_400_000_000
    return [
        {
            "request_id": f"{day}",
            "mark": day,
            "at_us": (today - back) * 86_400_000_000,
            "provider": "gemini",
            "model": "gemini-3.1-flash-lite",
            "input_tokens": 1_000_000 + 1000 * day,
            "output_tokens": 100_000,
            "cost_nano": 400_000_000,
            "status": 200,
        }
        for day, back in enumerate(range(days, 0, -1))
    ]


def test_a_forecast_has_intervals_for_each_day_and_for_the_month(empty):
    fill(empty, a_history(60))
    report = get(empty, FORECAST, days=5)
    assert [day["day"] for day in report["days"]] == [f"2026-11-{day}" for day in range(23, 28)]
    assert report["history_days"] == 60
    assert (report["month"]["first_day"], report["month"]["last_day"]) == ("2026-11-01", "2026-11-30")
    for part in (*report["days"], report["month"]):
        low95, low80, high80, high95 = (
            part[f"{edge}_nanodollars"] for edge in ("low95", "low80", "high80", "high95")
        )
        assert 0 <= low95 <= low80 <= part["cost_nanodollars"] <= high80 <= high95
        assert Decimal(part["cost"]) * 10**9 == part["cost_nanodollars"]
    assert len(get(empty, FORECAST)["days"]) == 30


def test_a_forecast_from_too_few_days_is_refused_with_the_day_from_which_it_works(empty):
    fill(empty, a_history(3))
    reply = assert_refused(empty.client.get(FORECAST), 409, "history_too_short")
    assert "2026-12" in reply["error"]


def test_quality_is_told_of_made_up_series_and_of_the_ledgers_own_history_once_it_is_long_enough(empty):
    report = get(empty, QUALITY)
    assert report["own"] is None
    assert report["own_missing"]
    assert 0.7 <= report["seeded"]["coverage80"] <= 0.9
    fill(empty, a_history(60))
    empty.app.extensions[DESK] = Desk(clock=Hand(NOW_US / 1_000_000))
    report = get(empty, QUALITY)
    assert 0 <= report["own"]["coverage80"] <= report["own"]["coverage95"] <= 1
    assert report["own_missing"] is None


def test_quality_is_worked_out_once_an_hour(empty):
    clock, timer = Hand(NOW_US / 1_000_000), Hand(0.0)
    empty.app.extensions[DESK] = Desk(clock=clock, quality=QualityDesk(timer=timer))
    first = get(empty, QUALITY)
    assert first["made_at"] == datetime.fromtimestamp(clock.now, UTC).isoformat()
    clock.now += QUALITY_SECONDS - 1
    timer.now += QUALITY_SECONDS - 1
    assert get(empty, QUALITY) == first
    clock.now += 2
    timer.now += 2
    assert get(empty, QUALITY)["made_at"] != first["made_at"]


# Stats.


def test_stats_are_the_ledgers_and_know_of_requests_before_this_process(filled):
    usage, total = get(filled, "/api/v1/stats")["usage_stats"], get(filled, USAGE)["total"]
    assert (usage["total_requests"], usage["cached_requests"]) == (total["requests"], total["hits"])
    assert usage["total_cost_nanodollars"] == total["cost_nanodollars"]
    assert usage["saved_nanodollars"] == total["saved_nanodollars"]
    whole = get(filled, USAGE, hours=87_600)["total"]
    assert usage["overall_cost_nanodollars"] == whole["cost_nanodollars"]
    assert usage["source"] == "ledger"
    assert set(usage["endpoints"]) == {row["endpoint"] for row in get(filled, EXPORT)}


def test_stats_show_the_code_that_was_answered_by_language(filled):
    languages = get(filled, "/api/v1/stats")["usage_stats"]["languages"]
    # By day: the whole of the window's first day counts.
    rows = [row for row in get(filled, EXPORT, hours=34) if row["language"]]
    assert {name: told["answers"] for name, told in languages.items()} == {
        name: sum(row["language"] == name for row in rows) for name in {row["language"] for row in rows}
    }
    assert sum(told["lines"] for told in languages.values()) == sum(row["lines"] for row in rows) > 0


# A ledger that is away.


@pytest.fixture
def cut_off(make_house):
    """A house whose database is nowhere to be reached."""
    return make_house(database_url="postgresql+psycopg://nobody@127.0.0.1:1/none")


@pytest.mark.parametrize("path", ROUTES)
def test_reports_of_a_ledger_that_is_away_are_a_503_that_says_when_to_come_back(cut_off, path):
    response = cut_off.client.get(path)
    assert_refused(response, 503, LedgerUnavailable.code)
    assert int(response.headers["Retry-After"]) >= 1


def test_stats_of_a_ledger_that_is_away_are_what_the_process_remembers(cut_off, upstream):
    assert cut_off.post("text", {"prompt": "Say hello."}).status_code == 200
    usage = get(cut_off, "/api/v1/stats")["usage_stats"]
    assert (usage["total_requests"], usage["source"]) == (1, "this process")


# Swagger.


def test_swagger_describes_the_parameters_of_each_report(empty):
    paths = get(empty, "/api/v1/swagger.json")["paths"]
    expected = {
        "/usage": {"hours", "group_by"},
        "/usage/export": {"hours", "format"},
        "/usage/forecast": {"days"},
        "/usage/forecast/quality": set(),
        "/stats": set(),
    }
    for path, names in expected.items():
        operation = paths[path]["get"]
        parameters = operation.get("parameters", [])
        assert {each["name"] for each in parameters} == names
        assert all(each["in"] == "query" and each["description"] for each in parameters)
        assert operation["summary"]
    assert {"200", "400", "409", "429", "503"} <= set(paths["/usage/forecast"]["get"]["responses"])
    assert len(paths["/usage/export"]["get"]["produces"]) == 3
