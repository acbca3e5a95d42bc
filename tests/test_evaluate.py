"""Evaluating classification: what a file of cases may hold, what is added up, and the command on the whole road."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from analytics.accuracy import Outcome, accuracy_report
from commands.cases import read_cases
from commands.terminal import Refused
from store.db import ledger_url, open_engine
from store.tables import requests
from tests.readers import wait_until
from tests.test_cli import ROOT, Office
from tests.upstream import Fault, Upstream

A, B, C = ("a",), ("b",), ("c",)


def outcome(expected: tuple[str, ...], answered: tuple[str, ...] | None, several: bool = False) -> Outcome:
    return Outcome(1, "id", several, expected, answered, "sandbox/sandbox-1", "" if answered else "deadline")


# What is added up.


def test_precision_recall_and_confusion_are_counted_as_by_hand():
    report = accuracy_report(
        [outcome(A, A), outcome(A, A), outcome(A, B), outcome(B, B), outcome(C, A), outcome(C, None)]
    )
    assert (report["cases"], report["answered"], report["correct"], report["accuracy"]) == (6, 5, 3, 0.6)
    assert report["models"] == {"sandbox/sandbox-1": 5}
    assert report["categories"] == {
        "a": {"expected": 3, "answered": 3, "correct": 2, "precision": 0.666667, "recall": 0.666667},
        "b": {"expected": 1, "answered": 2, "correct": 1, "precision": 0.5, "recall": 1.0},
        "c": {"expected": 1, "answered": 0, "correct": 0, "precision": None, "recall": 0.0},
    }
    assert report["confusion"] == {"a": {"a": 2, "b": 1}, "b": {"b": 1}, "c": {"a": 1}}
    assert [case["answered"] for case in report["wrong"]] == ["b", "a"]
    assert [case["code"] for case in report["failed"]] == ["deadline"]


def test_several_categories_are_right_as_a_whole_and_counted_one_by_one():
    report = accuracy_report(
        [
            outcome(("a", "b"), ("b", "a"), several=True),
            outcome(("a", "b"), A, several=True),
            outcome((), (), several=True),
            outcome((), C, several=True),
        ]
    )
    assert (report["correct"], report["accuracy"], report["confusion"]) == (2, 0.5, {})
    assert report["categories"]["a"] == {
        "expected": 2,
        "answered": 2,
        "correct": 2,
        "precision": 1.0,
        "recall": 1.0,
    }
    assert (report["categories"]["b"]["recall"], report["categories"]["c"]["precision"]) == (0.5, 0.0)
    assert [case["expected"] for case in report["wrong"]] == [["a", "b"], []]


def test_of_no_answer_there_is_no_accuracy():
    report = accuracy_report([outcome(A, None)])
    assert (report["accuracy"], report["categories"], len(report["failed"])) == (None, {}, 1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc") | st.none())))
def test_every_case_stands_in_exactly_one_place(pairs):
    report = accuracy_report([outcome((one,), (other,) if other else None) for one, other in pairs])
    cells = [count for row in report["confusion"].values() for count in row.values()]
    right = sum(report["confusion"].get(name, {}).get(name, 0) for name in "abc")
    assert sum(cells) == report["answered"] == report["correct"] + len(report["wrong"])
    assert report["answered"] + len(report["failed"]) == report["cases"] == len(pairs)
    assert right == report["correct"] == sum(each["correct"] for each in report["categories"].values())


# What a file may hold.


def written(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_cases_take_the_categories_of_the_file_unless_they_have_their_own(tmp_path):
    path = written(
        tmp_path,
        {"categories": ["a", "b"]},
        "",
        {"text": "x", "expected": "b"},
        {"text": "y", "categories": ["c", "d"], "expected": ["d", "c"]},
        {"categories": ["e"]},
        {"text": "z", "expected": [], "max_tokens": 50},
    )
    assert [
        (case.line, case.categories, case.expected, case.multi_label, case.max_tokens)
        for case in read_cases(path, 100, 50)
    ] == [
        (3, ("a", "b"), ("b",), False, None),
        (4, ("c", "d"), ("c", "d"), True, None),
        (6, ("e",), (), True, 50),
    ]


GOOD = {"text": "x", "categories": ["a", "b"], "expected": "a"}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("hello", "JSON object"),
        ("[1]", "JSON object"),
        ("{}", "JSON object"),
        ("[" * 50_000, "JSON object"),
        (GOOD | {"label": "a"}, "`label`"),
        ({"categories": ["a"], "expected": "a"}, "`text`"),
        (GOOD | {"text": 5}, "`text`"),
        (GOOD | {"text": " "}, "`text`"),
        (GOOD | {"text": "x" * 101}, "`text`"),
        ({"text": "x", "expected": "a"}, "`categories`"),
        (GOOD | {"categories": "a"}, "`categories`"),
        (GOOD | {"categories": ["a", "a"]}, "`categories`"),
        ({"categories": []}, "`categories`"),
        ({"text": "x", "categories": ["a"]}, "`expected`"),
        (GOOD | {"expected": "A"}, "`expected`"),
        (GOOD | {"expected": ["a", "z"]}, "`expected`"),
        (GOOD | {"expected": [["a"]]}, "`expected`"),
        (GOOD | {"expected": None}, "`expected`"),
        (GOOD | {"max_tokens": 51}, "`max_tokens`"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_bad_line_is_refused_with_its_number_its_field_and_the_next_step(tmp_path, line, named):
    with pytest.raises(Refused) as refusal:
        read_cases(written(tmp_path, GOOD, line, GOOD), 100, 50)
    assert "cases.jsonl, line 2: " in str(refusal.value)
    assert named in str(refusal.value)
    assert str(refusal.value).endswith(".")


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(Refused, match="Name another --file"):
        read_cases(tmp_path / "none", 100, 50)
    with pytest.raises(Refused, match="holds no case"):
        read_cases(written(tmp_path, "", {"categories": ["a"]}), 100, 50)
    (tmp_path / "latin").write_bytes(b'{"text": "caf\xe9"}')
    with pytest.raises(Refused, match="UTF-8"):
        read_cases(tmp_path / "latin", 100, 50)


# The command.


def office(tmp_path: Path, upstream: Upstream | None = None, **more: str) -> Office:
    provider = {"GOOGLE_API_KEY": "any", "GEMINI_BASE_URL": upstream.url} if upstream else {}
    return Office(None, {"DATA_DIR": str(tmp_path / "data"), "LOG_DIR": str(tmp_path / "logs")} | provider | more)  # fmt: skip


def rows(tmp_path: Path) -> list[Any]:
    engine = open_engine(ledger_url("", str(tmp_path / "data")))
    with engine.connect() as connection:
        found = list(connection.execute(select(requests)).mappings())
    engine.dispose()
    return found


def test_the_example_of_the_documents_runs_in_the_sandbox_and_is_read_by_people(tmp_path):
    ran = office(tmp_path).run("evaluate", "--file", "docs/cases.jsonl")
    assert "9 cases, 9 answered by sandbox/sandbox-1 (9)." in ran.stdout
    assert "Accuracy: 88.9 % (8 of 9)." in ran.stdout
    assert "Cost: 0.000000000 $." in ran.stdout
    assert "billing           3         3      3    100.0 %  100.0 %" in ran.stdout
    assert "sales      other          1  wrong" in ran.stdout
    assert 'line 7: "sales" was expected, "other" answered' in ran.stdout
    assert "9 cases" in ran.stderr


def test_cases_take_the_road_and_the_cost_is_that_of_their_rows(tmp_path, upstream):
    cases = [{"text": f"Text {n % 30}.", "categories": ["a", "b"], "expected": "a"} for n in range(40)]
    upstream.latency = 0.02
    path = written(tmp_path, *cases, cases[0] | {"expected": ["a"]})
    ran = office(tmp_path, upstream).run("evaluate", "--file", str(path), "--concurrency", "4", "--json")
    report = json.loads(ran.stdout)
    stored = rows(tmp_path)
    assert (report["cases"], report["answered"], report["failed"]) == (41, 41, [])
    assert report["models"] == {"gemini/gemini-3.1-flash-lite": 41}
    assert len(stored) == 41
    assert {(row["state"], row["route"], row["task"]) for row in stored} == {("settled", "cli.py evaluate", "classify")}  # fmt: skip
    assert report["cost_nanodollars"] == sum(row["cost_nano"] for row in stored) > 0
    assert report["saved_nanodollars"] == sum(row["saved_nano"] for row in stored) > 0
    assert len(upstream.journal) == 31
    assert 1 < upstream.max_in_flight <= 4
    assert sum(sum(row.values()) for row in report["confusion"].values()) == 40
    assert report["wrong"][0]["request_id"] in {row["request_id"] for row in stored}
    assert not (tmp_path / "logs" / "cost_tracking.log").exists(), "that file is the serving process' own"
    assert len((tmp_path / "logs" / "evaluate" / "cost_tracking.log").read_text().splitlines()) == 41


def test_a_case_without_an_answer_is_listed_with_the_reason_and_the_others_count(tmp_path, upstream):
    upstream.script("blocked_prompt", "reset_body", Fault("says", text="a"))
    path = written(tmp_path, *(GOOD | {"text": text} for text in ("one", "two", "three")))
    command = ("evaluate", "--file", str(path), "--concurrency", "1", "--json")
    once = office(tmp_path, upstream, LLM_MAX_ATTEMPTS="1")
    report = json.loads(once.run(*command, status=1).stdout)
    assert (report["answered"], report["accuracy"]) == (1, 1.0)
    blocked, lost = report["failed"]
    assert (blocked["line"], blocked["code"], blocked["expected"]) == (1, "content_blocked", "a")
    assert (lost["line"], lost["code"]) == (2, "upstream_error")
    stored = rows(tmp_path)
    assert report["cost_nanodollars"] == sum(row["cost_nano"] for row in stored) > 0
    assert report["unknown_nanodollars"] == sum(row["unknown_nano"] for row in stored) > 0


def test_nothing_is_spent_on_a_file_with_a_bad_line(tmp_path, upstream):
    path = written(tmp_path, GOOD, GOOD | {"expected": "z"})
    ran = office(tmp_path, upstream).run("evaluate", "--file", str(path), status=1)
    assert "line 2: `expected`" in ran.stderr
    assert upstream.journal == []
    assert not (tmp_path / "data").exists()


def test_nothing_is_asked_where_the_ledger_cannot_be_written(tmp_path, upstream):
    (tmp_path / "data").touch()
    ran = office(tmp_path, upstream).run("evaluate", "--file", str(written(tmp_path, GOOD)), status=1)
    assert "The ledger cannot be written" in ran.stderr
    assert upstream.journal == []


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "--file"),
        (["--file", "x", "--concurrency", "0"], "a whole number from 1 to 64"),
        (["--file", "x", "--concurrency", "65"], "a whole number from 1 to 64"),
        (["--file", "x", "--model", "a b"], "`model` must be a model id"),
    ],
)
def test_wrong_arguments_are_answered_with_what_is_allowed(tmp_path, more, told):
    assert told in office(tmp_path).run("evaluate", *more, status=2).stderr


def test_stopped_halfway_it_asks_nothing_more_and_leaves_no_open_row(tmp_path, upstream):
    upstream.latency = 0.3
    path = written(tmp_path, *(GOOD | {"text": f"Text {n}."} for n in range(200)))
    running = subprocess.Popen(
        [sys.executable, "cli.py", "evaluate", "--file", str(path), "--concurrency", "2"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **office(tmp_path, upstream).environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert wait_until(lambda: len(upstream.journal) >= 3, 100)
        running.send_signal(signal.SIGINT)
        out, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert (running.returncode, out) == (1, "")
    assert "Stopped" in said
    assert "Traceback" not in said
    stored = rows(tmp_path)
    assert {row["state"] for row in stored} == {"settled"}
    assert len(stored) == len(upstream.journal) < 20
