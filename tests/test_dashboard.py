"""The dashboard's doors and data: figures as the rows add up to, files, headers, and nothing that could run."""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from plotly.offline import get_plotlyjs
from sqlalchemy import create_engine, text

from analytics.month_ahead import KEPT_SECONDS, MonthAhead
from analytics.summary import BAR, LAST_ROWS, LISTED, LISTS, STEPS, summary
from prices import PriceBook
from store.db import ledger_url, migrate, open_engine
from store.tables import DAY_US, HOUR_US, metadata
from tests.ledger_rows import NOW_US, add_rows, made_rows

PAGES = Path(__file__).resolve().parent.parent / "analytics" / "pages"
BUNDLE = f"/dashboard/plotly-{version('plotly')}.min.js"
COLUMNS = {"models": "model", "providers": "provider", "keys": "key_id", "endpoints": "route"}


def now() -> float:
    return NOW_US / 1_000_000


@pytest.fixture
def engine(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/ledger.db")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def sandbox(make_house):
    return make_house(google_api_key="", gemini_base_url="")


# The figures.


def added(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What rows add up to, one by one, under the names of the page."""
    closed = [row for row in rows if row["state"] != "open"]
    return {
        "requests": len(closed),
        "hits": sum(row.get("saved_by") == "hit" for row in closed),
        "coalesced": sum(row.get("saved_by") == "coalesced" for row in closed),
        "failed": sum(row.get("status", 0) >= 400 or not row.get("status") for row in closed),
        "unpriced": sum(row.get("cost_nano", 0) is None for row in closed),
        "unknown": sum(row["state"] == "unknown" for row in closed),
        "input_tokens": sum(row.get("input_tokens", 0) for row in closed if not row.get("saved_by")),
        "cost_nano": str(sum(row.get("cost_nano") or 0 for row in closed)),
        "saved_hit_nano": str(sum(row.get("saved_nano") or 0 for row in closed if row.get("saved_by") == "hit")),
        "discount_nano": str(sum(row.get("discount_nano", 0) for row in closed)),
        "unknown_nano": str(sum(row.get("unknown_nano", 0) for row in closed)),
        "duration_us": sum(row["duration_us"] for row in closed if "duration_us" in row),
        "slowest_us": max((row["duration_us"] for row in closed if "duration_us" in row), default=0),
    }  # fmt: skip


def made(count: int = 3000, **options: Any) -> list[dict[str, Any]]:
    """Rows, each with the state that it has by default."""
    return [{"state": "settled", **row} for row in made_rows(count, **options)]


@pytest.mark.parametrize("hours", STEPS)
def test_each_window_adds_up_to_its_rows(engine, hours):
    rows = made(days=40, keys=12)
    add_rows(engine, rows)
    data = summary(engine, hours, clock=now)
    first_us = (NOW_US // HOUR_US - hours) * HOUR_US
    inside = [row for row in rows if row["at_us"] >= first_us]
    assert data["window"] == {"hours": hours, "since_us": first_us, "step_us": STEPS[hours] * HOUR_US}
    expected = added(inside)
    assert {name: data["sums"][name] for name in expected} == expected
    assert_bars(data, inside, STEPS[hours] * HOUR_US)
    assert_lists(data, inside)


def assert_bars(data: dict[str, Any], rows: list[dict[str, Any]], step_us: int) -> None:
    by_bar = defaultdict(list)
    for row in rows:
        by_bar[row["at_us"] // step_us * step_us].append(row)
    starts = [bar["start_us"] for bar in data["series"]]
    assert starts == list(range(starts[0], NOW_US, step_us))
    assert set(by_bar) <= set(starts)
    for bar in data["series"]:
        expected = added(by_bar[bar["start_us"]])
        assert {name: bar[name] for name in BAR} == {name: expected[name] for name in BAR}


def assert_lists(data: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    for name, column in COLUMNS.items():
        by_name = defaultdict(list)
        for row in rows:
            by_name[row.get(column, "")].append(row)
        for entry in data[name]:
            if entry["name"] is not None:
                expected = added(by_name[entry["name"]])
                assert {field: entry[field] for field in expected} == expected
        costs = [int(entry["cost_nano"]) for entry in data[name]]
        named = [cost for cost, entry in zip(costs, data[name], strict=True) if entry["name"] is not None]
        assert named == sorted(named, reverse=True)
        assert (sum(costs), len(named)) == (int(data["sums"]["cost_nano"]), min(LISTED, len(by_name)))
        assert sum(entry["names"] for entry in data[name]) == len(by_name)


def test_both_databases_say_the_same(engine, postgres_url):
    rows = made(1000, days=40)
    remote = open_engine(ledger_url(postgres_url, ""))
    migrate(remote)
    for one in (engine, remote):
        add_rows(one, rows)
    for hours in STEPS:
        assert summary(remote, hours, clock=now) == summary(engine, hours, clock=now)
    remote.dispose()


def test_spend_is_of_utc_hours_days_and_months(engine):
    rows = made(4000, days=60)
    add_rows(engine, rows)
    spend = summary(engine, clock=now)["spend"]
    hour, today = NOW_US // HOUR_US * HOUR_US, NOW_US // DAY_US * DAY_US
    month = today - 22 * DAY_US  # it is the 23rd of November
    edges = {
        "hour": (hour - HOUR_US, hour),
        "today": (today - DAY_US, today),
        "month": (month - 31 * DAY_US, month),
    }
    for name, (before, since) in edges.items():
        assert spend[name] == {
            "cost_nano": cost_between(rows, since, NOW_US + 1),
            "before_nano": cost_between(rows, before, since),
        }
    assert spend["overall_nano"] == cost_between(rows, 0, NOW_US + 1)


def cost_between(rows: list[dict[str, Any]], since: int, until: int) -> str:
    return str(sum(row.get("cost_nano") or 0 for row in rows if since <= row["at_us"] < until))


def test_in_january_the_month_before_is_december_of_last_year(engine):
    new_year = 1_798_761_600  # 2027-01-01
    rows = [
        {"request_id": "a", "mark": 1, "at_us": (new_year - 31 * 86_400) * 1_000_000, "cost_nano": 1},
        {"request_id": "b", "mark": 2, "at_us": (new_year - 1) * 1_000_000, "cost_nano": 20},
        {"request_id": "c", "mark": 3, "at_us": new_year * 1_000_000, "cost_nano": 300},
        {"request_id": "d", "mark": 4, "at_us": (new_year - 31 * 86_400 - 1) * 1_000_000, "cost_nano": 4000},
    ]
    add_rows(engine, rows)
    assert summary(engine, clock=lambda: new_year + 5)["spend"]["month"] == {
        "cost_nano": "300",
        "before_nano": "21",
    }


def test_amounts_beyond_what_a_browsers_numbers_hold_stay_exact(engine):
    add_rows(engine, [{"request_id": "a", "mark": 1, "at_us": NOW_US, "cost_nano": 2**60 + 1}])
    data = summary(engine, clock=now)
    assert data["sums"]["cost_nano"] == data["requests"][0]["cost_nano"] == str(2**60 + 1)


def test_open_rows_are_shown_with_their_bound_and_are_in_no_sum(engine):
    add_rows(engine, made(50, still_open=3, days=1))
    data = summary(engine, clock=now)
    assert data["open"] == {"requests": 3, "reserved_nano": "15000000"}
    assert data["sums"]["requests"] == 47
    assert [row["state"] for row in data["requests"][:3]] == ["open"] * 3


def test_models_without_a_price_are_named(engine):
    add_rows(engine, made(500, days=1))
    data = summary(engine, clock=now)
    assert data["unpriced_models"] == ["gemini-unlisted"]
    assert data["sums"]["unpriced"] > 0


def test_the_last_rows_come_newest_first_and_without_their_texts(engine):
    rows = [{**row, "prompt": "a secret plan", "response": "as you wish"} for row in made(100, days=1)]
    add_rows(engine, rows)
    shown = summary(engine, clock=now)["requests"]
    assert [row["request_id"] for row in shown] == [row["request_id"] for row in rows[: -LAST_ROWS - 1 : -1]]
    assert not {"prompt", "response", "prompt_hash", "address"} & set(shown[0])
    assert "secret plan" not in str(shown)


def test_languages_are_counted_by_day(engine):
    rows = made(500, days=10)
    add_rows(engine, rows)
    languages = summary(engine, clock=now)["languages"]
    first = (NOW_US // HOUR_US - 24) // 24 * DAY_US
    expected = defaultdict(lambda: [0, 0])
    for row in rows:
        if row.get("language") and row["at_us"] >= first:
            expected[row["language"]][0] += 1
            expected[row["language"]][1] += row["lines"]
    assert languages["since_us"] == first
    assert {row["language"]: [row["answers"], row["lines"]] for row in languages["rows"]} == expected


def test_a_tenant_sees_its_own_figures_only(engine):
    rows = made(600, days=2, tenants=("north", "south"))
    add_rows(engine, rows)
    first_us = (NOW_US // HOUR_US - 24) * HOUR_US
    for tenant in ("north", "south"):
        own = [row for row in rows if row["tenant"] == tenant]
        data = summary(engine, tenant=tenant, clock=now)
        assert data["sums"]["requests"] == added([row for row in own if row["at_us"] >= first_us])["requests"]
        assert data["spend"]["overall_nano"] == cost_between(own, 0, NOW_US + 1)
        assert {row["request_id"] for row in data["requests"]} <= {row["request_id"] for row in own}
    assert summary(engine, tenant="nobody", clock=now)["requests"] == []


def test_an_empty_ledger_has_figures_too(engine):
    data = summary(engine, 720, clock=now)
    assert data["sums"]["requests"] == 0
    assert len(data["series"]) == 31
    assert [data[name] for name in LISTS] == [[], [], [], []]


# The forecast.


def test_the_forecast_says_from_when_on_there_will_be_one(engine):
    add_rows(engine, made(100, days=3))
    figures = MonthAhead(PriceBook(), now).figures(engine)
    assert figures["state"] == "short"
    assert re.search(r"from 2026-12-\d\d on", figures["words"])


def test_the_forecast_of_a_month_has_a_range_and_is_made_anew_after_some_minutes(engine):
    rows = made(3000, days=40)
    add_rows(engine, rows)
    time = [now()]
    ahead = MonthAhead(PriceBook(), lambda: time[0])
    first = ahead.figures(engine)
    spent = int(summary(engine, clock=now)["spend"]["month"]["cost_nano"])
    assert first["state"] == "ready"
    assert spent < int(first["low_nano"]) < int(first["cost_nano"]) < int(first["high_nano"])
    add_rows(engine, [{"request_id": "dear", "mark": 1, "at_us": NOW_US - 30 * HOUR_US, "cost_nano": 10**12}])
    time[0] += KEPT_SECONDS - 1
    assert ahead.figures(engine) == first
    time[0] += 1
    assert int(ahead.figures(engine)["cost_nano"]) > 10**12


# The doors.


def test_the_page_may_run_scripts_of_its_own_files_only(sandbox):
    response = sandbox.client.get("/dashboard/")
    policy = response.headers["Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert response.content_type == "text/html; charset=utf-8"
    assert (rules["default-src"], rules["script-src"]) == ("'none'", "'self'")
    assert (rules["connect-src"], rules["frame-ancestors"]) == ("'self'", "'none'")
    assert (response.headers["X-Frame-Options"], response.headers["Referrer-Policy"]) == (
        "DENY",
        "no-referrer",
    )
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=|javascript:", response.text)


def test_every_file_that_the_page_names_is_there(sandbox):
    html = sandbox.client.get("/dashboard/").text
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', html))
    assert {"dashboard.css", "dashboard.js", "icon.svg", BUNDLE.rpartition("/")[2]} <= named
    for script in PAGES.glob("*.js"):
        named |= set(re.findall(r'from "\./([^"]+)"', script.read_text()))
    for name in named:
        with sandbox.client.get(urljoin("/dashboard/", name)) as response:
            assert response.status_code == 200, name


def test_the_address_without_a_slash_leads_on(sandbox):
    response = sandbox.client.get("/dashboard")
    assert (response.status_code, response.headers["Location"].rpartition("localhost")[2]) == (
        308,
        "/dashboard/",
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dashboard.js", "text/javascript; charset=utf-8"),
        ("dashboard.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml; charset=utf-8"),
    ],
)
def test_files_are_asked_for_anew_and_sent_only_when_they_changed(sandbox, name, kind):
    with sandbox.client.get(f"/dashboard/{name}") as first:
        assert first.data == (PAGES / name).read_bytes()
        assert (first.content_type, first.headers["Cache-Control"]) == (kind, "no-cache")
    with sandbox.client.get(f"/dashboard/{name}", headers={"If-None-Match": first.headers["ETag"]}) as again:
        assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize(
    "name", ["index.html", "../summary.py", "..%2fsummary.py", "nothing.js", "plotly-0.min.js"]
)
def test_nothing_else_is_served(sandbox, name):
    response = sandbox.client.get(f"/dashboard/{name}")
    assert (response.status_code, response.get_json()["code"]) == (404, "not_found")


def test_plotly_comes_from_the_installed_package_packed_and_for_a_year(sandbox):
    packed = sandbox.client.get(BUNDLE, headers={"Accept-Encoding": "gzip, br"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert packed.headers["Vary"] == "Accept-Encoding"
    assert packed.content_type == "text/javascript; charset=utf-8"
    assert len(packed.data) < 1_600_000
    assert gzip.decompress(packed.data).decode() == get_plotlyjs()


@pytest.mark.parametrize("accepted", ["", "identity", "gzip;q=0"])
def test_plotly_comes_plain_where_gzip_is_not_taken(sandbox, accepted):
    plain = sandbox.client.get(BUNDLE, headers={"Accept-Encoding": accepted})
    assert "Content-Encoding" not in plain.headers
    assert plain.text == get_plotlyjs()


def test_the_pages_sources_hold_no_way_from_text_to_markup_and_no_outside_address():
    for path in PAGES.iterdir():
        source = path.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|\beval\b"
            r"|new Function|setAttribute\(.on|\|\s*safe",
            source,
        ), path.name
        if path.suffix != ".svg":  # which is named by an address
            assert not re.search(r"https?:|[\"'(]//", source), path.name


def test_a_ledger_that_nobody_has_written_to_is_empty_and_no_error(sandbox):
    assert sandbox.client.get("/dashboard/data").get_json()["requests"] == []


def test_the_data_are_the_figures_of_the_house(sandbox):
    assert sandbox.post("text", {"prompt": "Say hello."}).status_code == 200
    response = sandbox.client.get("/dashboard/data")
    data = response.get_json()
    assert response.content_type == "application/json; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert (data["sums"]["requests"], data["window"]["hours"]) == (1, 24)
    assert data["requests"][0]["route"] == "/api/v1/generate/text"
    assert sandbox.client.get("/dashboard/forecast").get_json()["state"] == "short"


@pytest.mark.parametrize("hours", ["", "0", "25", "-24", "24.0", "1e3", "x", "٢٤"])
def test_only_the_windows_of_the_page_can_be_asked_for(sandbox, hours):
    response = sandbox.client.get("/dashboard/data", query_string={"hours": hours})
    assert response.status_code == 400
    assert response.get_json()["field"] == "hours"
    assert "24, 168, 720" in response.get_json()["error"]


def test_a_ledger_that_cannot_be_read_is_503(sandbox):
    sandbox.post("text", {"prompt": "Say hello."})
    engine = open_engine(ledger_url("", sandbox.settings.data_dir))
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE usage_hours"))
    assert sandbox.client.get("/dashboard/data").status_code == 503
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE usage_days"))
    engine.dispose()
    response = sandbox.client.get("/dashboard/forecast")
    assert (response.status_code, response.get_json()["code"]) == (503, "ledger_unavailable")
    assert int(response.headers["Retry-After"]) >= 1


def test_security_events_show_time_type_and_severity_only(sandbox):
    sandbox.client.get("/nowhere", headers={"User-Agent": "<script>alert(1)</script>"})
    logger = sandbox.services.logger
    logger.log_security_event("KEY_REVOKED", "high", {"who": "somebody"})
    events = sandbox.client.get("/dashboard/data").get_json()["events"]
    assert [set(event) for event in events] == [{"at_us", "event", "severity"}] * len(events)
    assert (events[0]["event"], events[0]["severity"]) == ("KEY_REVOKED", "HIGH")
    assert events[1]["event"].startswith("THREAT_")


def test_only_the_last_security_events_are_kept(sandbox):
    for number in range(50):
        sandbox.services.logger.log_security_event(f"EVENT_{number}", "LOW", {})
    events = sandbox.services.logger.recent_events()
    assert [event["event"] for event in events] == [f"EVENT_{number}" for number in range(49, 29, -1)]


def test_all_visitors_meet_one_page_without_a_word_of_theirs(sandbox):
    plain = sandbox.client.get("/dashboard/").text
    asked = sandbox.client.get("/dashboard/?hours=<script>", headers={"User-Agent": "<img src=x>"})
    assert asked.text == plain
