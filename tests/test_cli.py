"""The ledger's commands, run as people run them: `python cli.py ...` in a process of its own."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.engine import Engine, make_url

from commands.ledger import usage_lines
from store import upkeep
from store.db import ledger_url, migrate, open_engine
from store.tables import requests, totals, usage_days
from tests.ledger_rows import fill

ROOT = Path(__file__).resolve().parent.parent
ROWS = 3000


@dataclass
class Office:
    """A ledger full of rows, and the commands on it."""

    engine: Engine
    environment: dict[str, str]

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run(
            [sys.executable, "cli.py", *arguments],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == status, ran.stderr
        assert "Traceback" not in ran.stderr
        return ran

    def count(self) -> int:
        with self.engine.connect() as connection:
            return int(connection.scalar(select(func.count()).select_from(requests)) or 0)


@pytest.fixture(params=["sqlite", "postgresql"])
def office(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Office]:
    folder = tmp_path / "data"
    folder.mkdir()
    url = make_url(request.getfixturevalue("postgres_url")) if request.param == "postgresql" else None
    engine = open_engine(url or ledger_url("", str(folder)))
    migrate(engine)
    fill(engine, ROWS, days=30, now_us=time.time_ns() // 1000)
    address = url.render_as_string(hide_password=False) if url else ""
    yield Office(engine, {"DATA_DIR": str(folder), "DATABASE_URL": address})
    engine.dispose()


def test_usage_is_a_table_for_people_and_json_for_programs(office):
    shown = office.run("usage", "--hours", "9000", "--group-by", "model").stdout
    assert "gemini-3.1-flash-lite" in shown
    report = json.loads(office.run("usage", "--hours", "9000", "--group-by", "model", "--json").stdout)
    with office.engine.connect() as connection:
        spent = int(connection.scalar(select(func.sum(requests.c.cost_nano))) or 0)
    assert report["total"]["cost_nanodollars"] == spent
    assert sum(group["cost_nanodollars"] for group in report["groups"]) == spent
    assert report["total"]["cost"] in shown


def test_callers_without_a_key_have_a_name_in_the_table_and_times_are_of_seconds(office):
    whole = json.loads(office.run("usage", "--hours", "9000", "--json").stdout)
    group = {**whole["total"], "key": ""}
    lines = usage_lines({**whole, "group_by": ["key"], "groups": [group]})
    assert lines[3].startswith("no key ")
    assert "." not in lines[0]


def test_an_export_holds_every_closed_and_open_row_and_sums_up_to_the_report(office, tmp_path):
    out = tmp_path / "usage.csv"
    ran = office.run("export-usage", "--hours", "9000", "--output", str(out))
    assert ran.stdout == ""
    assert "rows" in ran.stderr
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == office.count() == ROWS
    report = json.loads(office.run("usage", "--hours", "9000", "--json").stdout)
    spent = sum(int(line["cost_nanodollars"] or 0) for line in lines if line["state"] != "open")
    assert spent == report["total"]["cost_nanodollars"]
    assert [path.name for path in tmp_path.glob("usage*")] == ["usage.csv"]
    to_pipe = office.run("export-usage", "--hours", "9000", "--format", "ndjson").stdout
    assert len(to_pipe.splitlines()) == ROWS


def test_an_export_that_cannot_be_written_says_so(office, tmp_path):
    ran = office.run("export-usage", "--output", str(tmp_path / "no" / "such" / "x.csv"), status=1)
    assert "Choose another --output" in ran.stderr


def test_recost_of_every_row_is_equal_to_the_nano_dollar(office):
    ran = office.run("recost", "--json")
    found = json.loads(ran.stdout)
    with office.engine.connect() as connection:
        closed = connection.scalar(select(func.count()).where(requests.c.state != "open"))
        spent = int(connection.scalar(select(func.sum(requests.c.cost_nano))) or 0)
    assert (found["rows"], found["equal"], found["differing"]) == (closed, closed, [])
    assert found["cost_nanodollars"] == spent
    assert f"{closed:,} rows looked at" in ran.stderr


def test_recost_finds_a_row_that_somebody_changed_by_one_nano_dollar(office):
    with office.engine.begin() as connection:
        victim = connection.scalar(select(requests.c.request_id).where(requests.c.cost_nano > 0).limit(1))
        wrong = update(requests).where(requests.c.request_id == victim)
        connection.execute(wrong.values(cost_nano=requests.c.cost_nano + 1))
    ran = office.run("recost", status=1)
    assert victim in ran.stdout


@pytest.mark.parametrize("column", ["input_tokens", "reasoning_tokens", "saved_nano", "discount_nano"])
def test_recost_finds_every_figure_that_somebody_changed(office, column):
    with office.engine.begin() as connection:
        victim = connection.scalar(select(requests.c.request_id).where(requests.c.cost_nano > 0).limit(1))
        wrong = update(requests).where(requests.c.request_id == victim)
        connection.execute(wrong.values({column: requests.c[column] + 1}))
    found = json.loads(office.run("recost", "--json", status=1).stdout)
    assert victim in found["differing"][0]


def test_recost_finds_a_sum_that_is_not_that_of_its_rows(office):
    with office.engine.begin() as connection:
        day = connection.scalar(select(func.max(usage_days.c.start))) - 3
        wrong = update(usage_days).where(usage_days.c.start == day)
        connection.execute(wrong.values(cost_nano=usage_days.c.cost_nano + 1))
    ran = office.run("recost", status=1)
    assert "NOT equal to their rows" in ran.stdout
    assert "in the sums" in ran.stdout


def test_recost_at_other_prices_says_what_it_would_have_cost(office, tmp_path):
    own = tmp_path / "prices.toml"
    models = [("gemini", "gemini-3.1-flash-lite"), ("gemini", "gemini-3.5-flash"), ("openai", "gpt-5.4-nano")]
    own.write_text(
        "".join(
            f'[[price]]\nprovider = "{provider}"\nmodel = "{model}"\ninput = 1.0\noutput = 1.0\n'
            for provider, model in models
        )
    )
    office.environment["PRICES_FILE"] = str(own)
    found = json.loads(office.run("recost", "--at", "2027-01-01", "--json").stdout)
    with office.engine.connect() as connection:
        tokens = requests.c.input_tokens + requests.c.output_tokens
        paid = select(func.sum(tokens)).where(
            requests.c.saved_by == "", requests.c.model != "gemini-unlisted", requests.c.state != "open"
        )
        expected = 1000 * int(connection.scalar(paid) or 0)
    assert found["then_nanodollars"] == expected
    assert found["then_unpriced_rows"] > 0


def test_prune_lets_old_rows_go_and_keeps_every_sum(office):
    before = office.count()
    with office.engine.connect() as connection:
        kept = [connection.execute(select(table)).all() for table in (totals, usage_days)]
    would = office.run("prune", "--days", "10", "--dry-run").stdout
    assert office.count() == before
    said = office.run("prune", "--days", "10").stdout
    gone = before - office.count()
    assert gone > 0
    assert f"{gone:,} rows would be deleted" in would
    assert f"{gone:,} rows deleted" in said
    assert json.loads(office.run("recost", "--json").stdout)["days_equal"]
    with office.engine.connect() as connection:
        assert [connection.execute(select(table)).all() for table in (totals, usage_days)] == kept
    assert "given back" in office.run("vacuum").stdout


def test_vacuum_makes_the_file_smaller_in_steps(tmp_path):
    engine = open_engine(ledger_url("", str(tmp_path)))
    migrate(engine)
    fill(engine, 5000, days=30)
    with engine.begin() as connection:
        connection.execute(requests.delete())
        assert connection.scalar(text("PRAGMA auto_vacuum")) == 2
    steps: list[tuple[int, int]] = []
    before = os.stat(tmp_path / "ledger.db").st_size
    freed = upkeep.vacuum(engine, lambda done, whole: steps.append((done, whole)))
    engine.dispose()
    assert freed > 1_000_000
    assert os.stat(tmp_path / "ledger.db").st_size <= before - freed
    assert len(steps) > 2
    assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["usage", "--hours", "0"], "a whole number from 1 to 87600"),
        (["usage", "--hours", "many"], "a whole number from 1 to 87600"),
        (["usage", "--group-by", "colour"], "endpoint, task, model, provider, key, day, hour"),
        (["usage", "--group-by", "day,day"], "one or two of"),
        (["recost", "--at", "tomorrow"], "a day such as 2027-01-01"),
        (["prune"], "--days"),
        (["prune", "--days", "0"], "a whole number from 1 to 3650"),
        ([], "COMMAND"),
    ],
)
def test_wrong_arguments_are_answered_with_what_is_allowed(tmp_path, arguments, told):
    ran = Office(None, {"DATA_DIR": str(tmp_path)}).run(*arguments, status=2)
    assert told in ran.stderr


def test_without_a_ledger_or_a_database_the_next_step_is_said(tmp_path):
    nothing = Office(None, {"DATA_DIR": str(tmp_path / "none")})
    assert "start the platform once" in nothing.run("usage", status=1).stderr
    assert not (tmp_path / "none").exists()
    away = Office(None, {"DATABASE_URL": "postgresql+psycopg://a:b@127.0.0.1:1/c", "DATA_DIR": str(tmp_path)})
    assert "Is its database there?" in away.run("usage", status=1).stderr
    (tmp_path / "ledger.db").touch()
    older = Office(None, {"DATA_DIR": str(tmp_path)})
    assert "of another version" in older.run("usage", status=1).stderr


def test_every_command_has_help(tmp_path: Path) -> None:
    office: Callable[..., subprocess.CompletedProcess[str]] = Office(None, {"DATA_DIR": str(tmp_path)}).run
    for command in ("usage", "export-usage", "recost", "prune", "vacuum", "evaluate"):
        assert command in office("--help").stdout
        assert office(command, "--help").stdout.startswith("usage: cli.py")
