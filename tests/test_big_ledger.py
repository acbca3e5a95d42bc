"""The benchmark of a big ledger, in short: it counts right and fails where a reply is not what it should be. No timing."""

from __future__ import annotations

import http.client
import json
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.big_ledger import Effort, Findings, fill, markdown, measure
from benchmarks.children import platform
from benchmarks.ledger_exports import FORMS, Exported
from benchmarks.ledger_hits import Beside
from benchmarks.ledger_reads import Looks, Oracle, Truth, commands, look, serving, visit
from benchmarks.ledger_waits import Waits, hit
from benchmarks.memory import memory, settled
from benchmarks.rounds import Figure, Reading

ROWS = 3000
ROW = b'{"cost_nanodollars":1}'
SHORT = Effort(ROWS, rounds=1, seconds=0.05, looks=2, starts=1, waits_seconds=0.2, connections=(8,))


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Findings, Path]:
    folder = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        return measure(SHORT), folder


@pytest.fixture
def oracle(tmp_path) -> Oracle:
    fill(tmp_path / "data", ROWS)
    return Oracle(tmp_path / "data")


def change(oracle: Oracle, statement: str) -> None:
    with closing(sqlite3.connect(oracle.data_dir / "ledger.db")) as ledger, ledger:
        ledger.execute(statement)


# That it runs, and counts right.


def test_every_form_of_the_export_brings_every_row_and_its_cost(measured):
    found, _ = measured
    assert [one.form for one in found.exported] == ["csv", "ndjson", "json"]
    assert all(one.exact and one.counted.rows == ROWS and one.counted.cost_nano > 0 for one in found.exported)


def test_reports_are_looked_at_as_often_as_asked(measured):
    found, _ = measured
    promised = {one.name: one.at_most for one in found.looks if one.at_most}
    assert promised == {
        "GET /dashboard/data?hours=24, a process's first": 300,
        "GET /api/v1/usage?hours=720&group_by=day": 100,
    }
    assert {len(one.milliseconds) for one in found.looks} == {SHORT.starts, SHORT.looks}


def test_recost_and_usage_find_all_rows(measured):
    found, _ = measured
    assert found.rows == ROWS
    assert [one.met for one in found.commands] == [True, True]
    assert f"{ROWS:,} of {ROWS:,} rows equal" in found.commands[0].found


def test_hits_are_measured_beside_a_big_and_two_empty_ledgers(measured):
    found, _ = measured
    (one,) = found.hits
    for quantity in one.quantities:
        assert quantity.big.baseline is quantity.control.baseline
        assert len(quantity.big.ratios) == len(quantity.control.ratios) == SHORT.rounds
    assert 1 < one.empty_rows < ROWS * 100


def test_single_waits_are_told_beside_each_of_the_three(measured):
    found, _ = measured
    assert [one.name for one in found.waits] == ["empty ledger", "control: empty ledger", "big ledger"]
    assert len({len(one.milliseconds) for one in found.waits}) == 1
    told = Waits("here", tuple(map(float, range(1, 2001)))).cells()
    assert told == ["here", "2,000", "1,000.5 ms", "1,998.0 ms", "2,000.0 ms"]


def test_nothing_is_left_behind(measured):
    _, folder = measured
    assert list(folder.iterdir()) == []


def test_people_and_machines_can_read_it(measured):
    found, _ = measured
    told = markdown("this machine", found)
    assert f"The ledger: {ROWS:,} rows over 365 days" in told
    for words in (
        "time per request, 8 connections",
        "control: empty to empty",
        "| ndjson | 3,000",
        "| recost",
    ):
        assert words in told
    exported = json.loads(json.dumps(asdict(found)))["exported"]
    assert [one["counted"]["rows"] for one in exported] == [ROWS] * 3


# That it fails where something is not as it should be.


def test_a_report_that_counts_other_rows_than_there_are_ends_the_run(oracle, tmp_path):
    with serving(str(tmp_path / "logs"), oracle.data_dir) as server, visit(server.port()) as get:
        usage, dashboard = "/api/v1/usage?hours=8760", "/dashboard/data?hours=24"
        assert look(get, usage, oracle) > 0 < look(get, dashboard, oracle)
        change(oracle, "DELETE FROM requests WHERE seq = (SELECT max(seq) FROM requests)")
        for path in (usage, dashboard):
            with pytest.raises(ValueError, match="its window holds"):
                look(get, path, oracle)
        with pytest.raises(ValueError, match="answered 400"):
            look(get, "/api/v1/usage?hours=0", oracle)
        with pytest.raises(ValueError, match="answered 404"):
            look(get, "/nowhere", oracle)


def test_an_answer_that_is_no_hit_ends_the_run(tmp_path):
    with (
        platform(str(tmp_path)) as server,
        closing(http.client.HTTPConnection("127.0.0.1", server.port())) as caller,
    ):
        with pytest.raises(ValueError, match="Not the reply that is measured: 200"):
            hit(caller)
        assert hit(caller) > 0


def test_a_row_that_recost_finds_different_fails_the_command(oracle):
    change(oracle, "UPDATE requests SET saved_nano = saved_nano + 1 WHERE seq = 7")
    recost = next(iter(commands(oracle)))
    assert not recost.met
    assert f"{ROWS - 1:,} of {ROWS:,} rows equal" in recost.found


def test_a_day_whose_sum_is_not_its_rows_fails_the_command(oracle):
    change(
        oracle,
        "UPDATE usage_days SET requests = requests + 1 WHERE start = (SELECT min(start) + 9 FROM usage_days)",
    )
    recost = next(iter(commands(oracle)))
    assert not recost.met
    assert f"{ROWS:,} of {ROWS:,} rows equal" in recost.found


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"["],
        [b"[", ROW],
        [b"[", ROW + b",", b"]"],
        [b"[", ROW, ROW, b"]"],
        [b"[", ROW, b"]", b"more"],
        [ROW],
    ],
)
def test_an_export_that_is_no_json_document_ends_the_run(lines):
    with pytest.raises(ValueError, match="JSON list"):
        list(FORMS["json"](iter(lines)))


def test_each_form_is_read_with_unknown_costs_as_nothing():
    rows = [b'{"cost_nanodollars":5}', b'{"cost_nanodollars":null}']
    assert list(FORMS["ndjson"](iter(rows))) == [5, 0]
    assert list(FORMS["json"](iter([b"[", rows[0] + b",", rows[1], b"]"]))) == [5, 0]
    assert list(FORMS["csv"](iter([b"a,cost_nanodollars\r", b'"x,y",5\r', b"z,\r"]))) == [5, 0]


def test_one_missed_target_or_count_is_a_missed_benchmark(measured):
    found, _ = measured
    fine = Exported("csv", Truth(3, 9), Truth(3, 9), 1, 1.0, 100 * 1024, 150 * 1024)
    calm = replace(found, looks=(), hits=(), exported=(fine,))
    assert calm.met
    slow = Looks("GET /", (1.0, 101.0), at_most=100)
    assert not replace(calm, looks=(slow,)).met
    assert slow.cells()[-1] == "≤ 100 ms: missed"
    for wrong in (
        replace(fine, counted=Truth(2, 9)),
        replace(fine, counted=Truth(3, 8)),
        replace(fine, highest_kib=151 * 1024),
    ):
        assert not replace(calm, exported=(wrong,)).met
        assert wrong.cells()[-1] == "≤ 50 MB: missed"
    assert not replace(calm, commands=(replace(found.commands[0], met=False),)).met


def test_the_median_of_the_rounds_decides_on_hits():
    def beside(*ratios: float) -> Beside:
        empty, big = tuple(Reading(1.0) for _ in ratios), tuple(map(Reading, ratios))
        figure = Figure("time", "µs", empty, big, limit="", at_most=1.1)
        return Beside(figure, figure)

    assert beside(0.9, 1.1, 3.0).met
    assert not beside(0.9, 1.11, 1.2).met
    assert beside(0.9, 1.11, 1.2).cells()[-1] == "≤ 1.1: missed"


def test_idle_is_read_once_it_no_longer_changes():
    now, sizes = [0.0], iter((10, 20, 20, 30))

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert settled(lambda: next(sizes, 30), lambda: now[0], sleep) == 30
    assert settled(lambda: now[0], lambda: now[0], sleep) > 20, "what never settles is read at last"
    assert memory(0) is None
