"""The ledger's rows as JSON, lines of JSON and CSV: whole, exact, and safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from itertools import chain

import pytest

from analytics.export import CHARGE_FIELDS, COLUMNS, FIELDS, FORMATS, Export, iso
from store import reading
from store.reading import Window
from store.tables import OPEN
from tests.ledger_rows import NOW_US, add_rows, made_rows, new_ledger

PROMISED = (
    "request_id timestamp endpoint task caller provider model requested_model input_tokens output_tokens "
    "cached_tokens reasoning_tokens estimated cost_nanodollars saved_nanodollars saved_by discount_nanodollars "
    "unknown_nanodollars cache_status status state attempts unknown_attempts duration_ms address key_id user_id "
    "tenant prompt_hash language lines rates"
).split()
WINDOW = Window.of_hours(24, NOW_US)
CHARGE = ["m", 10, 5, 2, 1, "250", "12.5", "1500", "m", "a sheet", "gemini"]


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request, tmp_path):
    url = (
        f"sqlite:///{tmp_path}/ledger.db"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    engine = new_ledger(url)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite(tmp_path):
    engine = new_ledger(f"sqlite:///{tmp_path}/ledger.db")
    yield engine
    engine.dispose()


def exported(engine, form: str, size: int = 2000, window: Window = WINDOW) -> str:
    pages = reading.pages(engine, window, COLUMNS, size=size)
    return b"".join(FORMATS[form].encode(pages)).decode()


def read(text: str, form: str) -> list[dict]:
    if form == "json":
        return json.loads(text)
    if form == "ndjson":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text, newline="")))


def one_row(engine, **columns) -> dict[str, list[dict]]:
    add_rows(engine, [{"request_id": "a", "mark": 1, "at_us": NOW_US, **columns}])
    return {form: read(exported(engine, form), form)[0] for form in FORMATS}


def test_the_fields_are_those_promised_in_that_order():
    assert list(FIELDS) == PROMISED


def test_neither_prompts_nor_answers_are_exported(engine):
    one_row(engine, prompt="a prompt of somebody", response="an answer to somebody")
    for form in FORMATS:
        assert "somebody" not in exported(engine, form)


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_ledger_is_exported_as_nothing_that_can_be_read(engine, form):
    text = exported(engine, form)
    assert read(text, form) == []
    assert text == {"json": "[]\n", "ndjson": "", "csv": ",".join(PROMISED) + "\r\n"}[form]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", [1, 7, 60, 1000])
def test_every_row_is_exported_once_whatever_the_size_of_pages(engine, form, size):
    made = list(made_rows(60, days=1, still_open=2))
    add_rows(engine, made)
    rows = read(exported(engine, form, size), form)
    assert [row["request_id"] for row in rows] == [row["request_id"] for row in made]
    assert all(list(row) == PROMISED for row in rows)
    assert sum(row["state"] == OPEN for row in rows) == 2


def test_a_row_is_told_in_full(engine):
    rows = one_row(
        engine,
        route="/api/v1/generate/code",
        task="code",
        key_id="key-1",
        user_id="user-1",
        address="192.0.2.1",
        tenant="acme",
        provider="gemini",
        model="m",
        requested_model="m-latest",
        input_tokens=10,
        output_tokens=5,
        cached_tokens=2,
        reasoning_tokens=1,
        estimated=True,
        cost_nano=9_525,
        saved_nano=0,
        discount_nano=475,
        unknown_nano=7,
        cache_status="miss",
        status=200,
        attempts=2,
        unknown_attempts=1,
        duration_us=1_234_567,
        prompt_hash="ab" * 32,
        language="sql",
        lines=3,
        charges=json.dumps([CHARGE]),
    )
    rates = dict(zip(CHARGE_FIELDS, CHARGE, strict=True))
    expected = dict.fromkeys(PROMISED) | {
        "request_id": "a",
        "timestamp": "2026-11-23T10:34:56.000000+00:00",
        "endpoint": "/api/v1/generate/code",
        "task": "code",
        "caller": "key-1",
        "provider": "gemini",
        "model": "m",
        "requested_model": "m-latest",
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 2,
        "reasoning_tokens": 1,
        "estimated": True,
        "cost_nanodollars": 9_525,
        "saved_nanodollars": 0,
        "saved_by": "",
        "discount_nanodollars": 475,
        "unknown_nanodollars": 7,
        "cache_status": "miss",
        "status": 200,
        "state": "settled",
        "attempts": 2,
        "unknown_attempts": 1,
        "duration_ms": 1234.567,
        "address": "192.0.2.1",
        "key_id": "key-1",
        "user_id": "user-1",
        "tenant": "acme",
        "prompt_hash": "ab" * 32,
        "language": "sql",
        "lines": 3,
        "rates": [rates],
    }
    assert rows["json"] == rows["ndjson"] == expected
    assert json.loads(rows["csv"].pop("rates")) == [rates]
    assert rows["csv"].pop("estimated") == "true"
    assert rows["csv"] == {
        name: str(value) for name, value in expected.items() if name not in ("rates", "estimated")
    }


def test_a_cost_that_is_unknown_is_null_and_an_empty_cell_and_never_nought(engine):
    unpriced = ["m", 10, 5, 0, 0, None, None, None, None, None]
    rows = one_row(engine, cost_nano=None, saved_nano=None, charges=json.dumps([unpriced]))
    assert rows["json"]["cost_nanodollars"] is rows["ndjson"]["saved_nanodollars"] is None
    assert rows["json"]["rates"][0]["source"] is None
    assert rows["csv"]["cost_nanodollars"] == rows["csv"]["saved_nanodollars"] == ""


# Spreadsheets.


FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    '=cmd|" /C calc"!A0',
    "\uff1d1",
    "-",
    "=",
    '=1,"x',
]


@pytest.mark.parametrize(
    "column", ["request_id", "route", "model", "requested_model", "key_id", "address", "tenant"]
)
def test_no_callers_text_is_a_formula(sqlite, column):
    name = next(field for field, behind in FIELDS.items() if behind == column)
    rows = [
        {"request_id": str(n), "mark": n, "at_us": NOW_US, column: text} for n, text in enumerate(FORMULAS)
    ]
    add_rows(sqlite, rows)
    assert [row[name] for row in read(exported(sqlite, "csv"), "csv")] == [f"'{text}" for text in FORMULAS]
    assert [row[name] for row in read(exported(sqlite, "json"), "json")] == FORMULAS, "JSON is no spreadsheet"


def test_no_cell_of_any_row_begins_as_a_formula_and_numbers_stay_numbers(engine):
    add_rows(engine, made_rows(100, days=1))
    for row in csv.reader(io.StringIO(exported(engine, "csv"), newline="")):
        assert not [cell for cell in row if cell[:1] in tuple("=+-@\t\r\n") and cell]
        assert len(row) == len(PROMISED)
    add_rows(engine, [{"request_id": "a", "mark": 1, "at_us": NOW_US, "discount_nano": -5}])
    (row,) = [row for row in read(exported(engine, "csv"), "csv") if row["request_id"] == "a"]
    assert row["discount_nanodollars"] == "-5"


def test_odd_texts_come_back_as_they_were(sqlite):
    odd = ["a,b", 'a"b', "a\nb", "a\r\nb", "ä 😀", "a;b", " a ", "'a", ""]
    add_rows(
        sqlite,
        [{"request_id": str(n), "mark": n, "at_us": NOW_US, "model": text} for n, text in enumerate(odd)],
    )
    for form in FORMATS:
        assert [row["model"] for row in read(exported(sqlite, form), form)] == odd


# Sums.


@pytest.mark.parametrize("hours", [5, 24, 720])
def test_an_export_adds_up_to_the_usage_of_the_same_window(engine, hours):
    add_rows(engine, made_rows(500, days=3, still_open=3))
    window = Window.of_hours(hours, NOW_US)
    rows = read(exported(engine, "ndjson", 100, window), "ndjson")
    (whole,) = reading.usage(engine, window)
    closed = [row for row in rows if row["state"] != OPEN]
    paid = [row for row in rows if not row["saved_by"]]
    assert whole.figures["requests"] == len(closed) > 0
    assert whole.figures["cost_nano"] == sum(row["cost_nanodollars"] or 0 for row in rows)
    assert whole.figures["unknown_nano"] == sum(row["unknown_nanodollars"] for row in rows)
    assert whole.figures["input_tokens"] == sum(row["input_tokens"] for row in paid)
    saved = whole.figures["saved_hit_nano"] + whole.figures["saved_coalesced_nano"]
    assert saved == sum(row["saved_nanodollars"] or 0 for row in rows)


@pytest.mark.parametrize(
    ("at_us", "told"),
    [
        (0, "1970-01-01T00:00:00.000000+00:00"),
        (NOW_US + 1, "2026-11-23T10:34:56.000001+00:00"),
        (253_402_300_799_999_999, "9999-12-31T23:59:59.999999+00:00"),
    ],
)
def test_moments_are_exact_to_the_microsecond(at_us, told):
    assert iso(at_us) == told


# An export under way.


class Told(list):
    """What an export said of its end."""

    def __call__(self, *said) -> None:
        self.append(said)


def a_page(engine):
    add_rows(engine, made_rows(3, days=1))
    return next(reading.pages(engine, WINDOW, COLUMNS))


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_reads_a_page_only_when_it_is_wanted(engine, form):
    page, read_so_far = a_page(engine), []
    pages = (read_so_far.append(n) or page for n in range(1000))
    export = Export(pages, form, Told())
    assert read_so_far == [0], "the first page tells whether there is a ledger"
    for _ in range(5):
        next(export)
    assert len(read_so_far) <= 5


def test_the_end_is_told_once_with_the_rows_that_were_read(engine):
    page, told = a_page(engine), Told()
    export = Export([page, page], "csv", told)
    assert len(b"".join(export).splitlines()) == 7
    export.close()
    assert told == [(6, True)]


def test_a_client_who_leaves_ends_an_export_and_one_that_never_began_ends_too(engine):
    page, told = a_page(engine), Told()
    export = Export(chain([page], [page] * 10), "ndjson", told)
    next(export)
    export.close()
    export.close()
    Export([page], "json", told).close()
    assert told == [(3, False), (0, False)]


def test_a_ledger_that_fails_under_way_is_no_whole_export(engine):
    page, told = a_page(engine), Told()

    def failing():
        yield page
        raise ConnectionError

    export = Export(failing(), "ndjson", told)
    next(export)
    with pytest.raises(ConnectionError):
        next(export)
    export.close()
    assert told == [(3, False)]
