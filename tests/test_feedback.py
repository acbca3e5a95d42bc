"""Feedback on classifications: who may give it, what it is compared with, and the accuracy that comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import inspect, select, text
from sqlalchemy.engine import make_url

from errors import InvalidInput, LedgerUnavailable, UnknownRequest
from store.db import is_current, ledger_url, migrate, open_engine
from store.feedback import WHOLE, Score, classified, judge, keep, scores
from store.ledger import Ledger
from store.rows import row_from
from store.tables import requests
from tasks import Ask, Task
from tests.ledger_house import ask, hit, record
from tests.test_metrics import scraped
from tests.test_schemas import assert_refused
from tests.upstream import Fault

ROUTE = "/api/v1/classify/feedback"
PARTS = {"text": "The invoice is wrong.", "categories": ["billing", "technical", "sales"]}
NAMES = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6, unique=True)


def ask_for(*categories: str, several: bool = False) -> Ask:
    return Ask(Task.CLASSIFY, "x", 0.0, categories, multi_label=several)


def give(house, request_id: Any, correct: Any, **more: Any) -> Any:
    return house.client.post(ROUTE, json={"request_id": request_id, "correct_category": correct} | more)


def told(house) -> Any:
    return house.client.get("/api/v1/stats").get_json()["usage_stats"]["classification_accuracy"]


def classify(house, upstream, said: str, request_id: str, **changes: Any) -> Any:
    upstream.script(Fault("says", text=said))
    headers = {"X_Request_ID": request_id, "Cache_Control": "no-cache"}
    response = house.post("classify", PARTS | changes, **headers)
    assert response.status_code == 200, response.text
    return response


# Judging.


@given(NAMES, st.data())
def test_the_category_that_was_answered_is_right_and_every_other_one_wrong(names, data):
    chosen, said = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
    judged = judge(classified(ask_for(*names), chosen), said)
    assert judged == {WHOLE: said == chosen, said: said == chosen}


@given(NAMES, st.data())
def test_several_are_right_together_where_none_is_missing_and_none_too_many(names, data):
    chosen, said = (data.draw(st.lists(st.sampled_from(names), unique=True)) for _ in range(2))
    kept = classified(ask_for(*names, several=True), json.dumps(chosen))
    judged = judge(kept, tuple(said))
    assert judged == {WHOLE: set(said) == set(chosen), **{name: name in chosen for name in said}}
    for name in said:
        assert judge(kept, name)[WHOLE] == (chosen == [name])


@pytest.mark.parametrize("said", ["Billing", "billing ", "b", ("billing",), ()])
def test_what_was_no_category_of_the_request_is_refused(said):
    with pytest.raises(InvalidInput) as refusal:
        judge(classified(ask_for("billing", "sales"), "billing"), said)
    assert refusal.value.field == "correct_category"


def test_a_row_holds_no_name_of_a_category_and_nothing_of_other_tasks():
    kept = classified(ask_for("private matter", "other"), "private matter")
    assert "private" not in kept
    assert "other" not in kept
    assert classified(Ask(Task.TEXT, "x", 0.0), "x") is None


# In both databases.


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path) -> str:
    if request.param == "sqlite":
        return str(ledger_url("", str(tmp_path / "data")))
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def ledger(database: str, tmp_path) -> Iterator[Ledger]:
    ledger = Ledger(make_url(database), str(tmp_path / "data"), lease_seconds=30.0)
    yield ledger
    ledger.stop()


@pytest.fixture
def settle(ledger: Ledger) -> Callable[..., None]:
    """Puts a settled classification into the ledger."""

    def put(request_id: str, answer: str, *categories: str, **facts: Any) -> None:
        kept = classified(ask_for(*categories), answer)
        ledger.close(hit(request_id, **{"task": "classify", "classified": kept, **facts}))

    return put


def test_accuracy_is_that_of_the_last_word_on_each_request(ledger, settle):
    for name, answer in (("one", "a"), ("two", "b"), ("three", "b")):
        settle(name, answer, "a", "b")
    assert scores(ledger.reader) == {}
    engine = ledger.writable
    assert keep(engine, "anonymous", "one", "a", 1)
    assert not keep(engine, "anonymous", "two", "a", 2)
    assert not keep(engine, "anonymous", "three", "a", 3)
    assert keep(engine, "anonymous", "three", "b", 4)
    for _ in range(3):
        assert not keep(engine, "anonymous", "two", "a", 5)
    assert scores(ledger.reader) == {WHOLE: Score(3, 2), "a": Score(2, 1), "b": Score(1, 1)}


def test_a_tenant_judges_its_own_requests_and_sees_its_own_accuracy(ledger, settle):
    settle("ours", "a", "a", "b", tenant="acme")
    settle("theirs", "a", "a", "b", tenant="globex")
    with pytest.raises(UnknownRequest):
        keep(ledger.writable, "acme", "theirs", "a", 1)
    keep(ledger.writable, "acme", "ours", "a", 1)
    keep(ledger.writable, "globex", "theirs", "b", 1)
    assert scores(ledger.reader, "acme") == {WHOLE: Score(1, 1), "a": Score(1, 1)}
    assert scores(ledger.reader, "globex") == {WHOLE: Score(1, 0), "b": Score(1, 0)}
    assert scores(ledger.reader)[WHOLE] == Score(2, 1)


def test_only_a_settled_answer_can_be_judged(ledger, settle):
    ledger.open(ask("open"), 99_000, "hash", 0.0)
    ledger.close(hit("text"))
    ledger.close(record("failed", task="classify", status=502))
    for name, kind in (("open", UnknownRequest), ("never", UnknownRequest), ("text", InvalidInput), ("failed", InvalidInput)):  # fmt: skip
        with pytest.raises(kind) as refusal:
            keep(ledger.writable, "anonymous", name, "a", 1)
        assert refusal.value.field == "request_id"
    assert scores(ledger.reader) == {}


def test_of_many_that_judge_one_request_at_once_one_is_kept(ledger, settle):
    settle("one", "a", "a", "b")
    engine = ledger.writable
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: keep(engine, "anonymous", "one", "ab"[number % 2], number), range(24)))
    found = scores(ledger.reader)
    assert found[WHOLE].feedback == 1
    assert len(found) == 2


def test_statistics_tell_of_so_many_categories_and_of_all_feedback(ledger, settle):
    for number, name in enumerate("abbccc"):
        settle(f"{number}", name, *"abc")
        keep(ledger.writable, "anonymous", f"{number}", name, 1)
    assert list(scores(ledger.reader, most=2)) == [WHOLE, "c", "b"]


def test_a_ledger_of_before_keeps_its_rows_and_takes_feedback_on_new_ones(database, tmp_path):
    engine = open_engine(make_url(database))
    migrate(engine)
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "store/migrations")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001_ledger")
        connection.execute(
            text(
                "INSERT INTO requests (request_id, mark, instance, state, at_us, task, tenant, cost_nano) "
                "VALUES ('old', 1, 'x', 'settled', 5, 'classify', 'anonymous', 7)"
            )
        )
        connection.commit()
        assert not is_current(connection)
    assert "feedback" not in inspect(engine).get_table_names()
    migrate(engine)
    with engine.connect() as connection:
        assert is_current(connection)
        row = connection.execute(select(requests)).mappings().one()
    assert (row["request_id"], row["cost_nano"], row["classified"]) == ("old", 7, None)
    with pytest.raises(InvalidInput, match="got no category"):
        keep(engine, "anonymous", "old", "a", 1)
    engine.dispose()


def test_a_line_that_an_older_version_has_spooled_is_a_row():
    stored = {"request_id": "old", "mark": 1, "instance": "i", "state": "settled", "at_us": 0}
    assert row_from(stored).classified is None


# As curl sees it.


def test_feedback_says_whether_the_answer_was_right_and_the_stats_add_it_up(house, upstream):
    assert told(house) == {"feedback": 0, "correct": 0, "accuracy": None, "categories": {}}
    for number, said in enumerate(("billing", "billing", "sales", "technical")):
        classify(house, upstream, said, f"case-{number}")
    replies = [give(house, f"case-{number}", "billing") for number in range(3)]
    assert [reply.get_json()["correct"] for reply in replies] == [True, True, False]
    assert replies[0].get_json() == {"request_id": "case-0", "correct": True}
    give(house, "case-3", "technical")
    assert told(house) == {
        "feedback": 4,
        "correct": 3,
        "accuracy": 0.75,
        "categories": {
            "billing": {"feedback": 3, "correct": 2, "accuracy": 0.666667},
            "technical": {"feedback": 1, "correct": 1, "accuracy": 1.0},
        },
    }
    assert give(house, "case-2", "sales").get_json()["correct"] is True
    assert told(house)["accuracy"] == 1.0
    value = scraped(house)
    assert (value("llm_feedback_total", correct="true"), value("llm_feedback_total", correct="false")) == (4, 1)  # fmt: skip


def test_hits_are_judged_as_the_answer_that_they_repeat(house, upstream):
    classify(house, upstream, "sales", "bought")
    again = house.post("classify", PARTS, X_Request_ID="hit")
    assert again.headers["X-Cache-Status"] == "hit"
    assert give(house, "hit", "sales").get_json()["correct"] is True
    assert give(house, "bought", "billing").get_json()["correct"] is False


def test_several_categories_are_judged_as_a_list_that_may_be_empty(house, upstream):
    classify(house, upstream, '{"categories": ["sales", "billing"]}', "two", multi_label=True)
    classify(house, upstream, '{"categories": []}', "none", multi_label=True)
    assert give(house, "two", ["sales", "billing"]).get_json()["correct"] is True
    assert give(house, "two", ["billing", "technical"]).get_json()["correct"] is False
    assert give(house, "two", "billing").get_json()["correct"] is False
    assert give(house, "none", []).get_json()["correct"] is True
    stats = told(house)
    assert (stats["feedback"], stats["correct"]) == (2, 1)
    assert stats["categories"] == {"billing": {"feedback": 1, "correct": 1, "accuracy": 1.0}}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"correct_category": "billing"}, "request_id"),
        ({"request_id": 5, "correct_category": "billing"}, "request_id"),
        ({"request_id": "a b", "correct_category": "billing"}, "request_id"),
        ({"request_id": "known~1", "correct_category": "billing"}, "request_id"),
        ({"request_id": "known"}, "correct_category"),
        ({"request_id": "known", "correct_category": ""}, "correct_category"),
        ({"request_id": "known", "correct_category": 5}, "correct_category"),
        ({"request_id": "known", "correct_category": "x" * 101}, "correct_category"),
        ({"request_id": "known", "correct_category": "Billing"}, "correct_category"),
        ({"request_id": "known", "correct_category": ["billing"]}, "correct_category"),
        ({"request_id": "known", "correct_category": ["a", "a"]}, "correct_category"),
        ({"request_id": "known", "correct_category": [f"c{n}" for n in range(51)]}, "correct_category"),
        ({"request_id": "known", "correct_category": "billing", "why": "x"}, "why"),
        ({"request_id": "a-text", "correct_category": "billing"}, "request_id"),
    ],
    ids=str,
)
def test_what_cannot_be_feedback_is_refused_by_name_and_nothing_is_noted(house, upstream, body, field):
    classify(house, upstream, "billing", "known")
    house.post("text", {"prompt": "x"}, X_Request_ID="a-text")
    assert_refused(house.client.post(ROUTE, json=body), 400, "invalid_input", field)
    assert told(house)["feedback"] == 0


def test_an_id_that_nobody_was_given_is_404(house):
    assert_refused(give(house, "never", "billing"), 404, "unknown_request", "request_id")


def test_while_the_database_is_away_feedback_is_503_and_the_stats_say_that_they_do_not_know(make_house):
    house = make_house(database_url="postgresql+psycopg://a:b@127.0.0.1:1/c")
    assert house.post("classify", PARTS, X_Request_ID="spooled").status_code == 200
    response = give(house, "spooled", "billing")
    assert_refused(response, 503, "ledger_unavailable")
    assert int(response.headers["Retry-After"]) >= 1
    assert told(house) is None


def test_a_database_that_takes_no_row_takes_no_feedback(ledger, settle):
    settle("one", "a", "a", "b")
    engine = ledger.writable
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE feedback"))
    with pytest.raises(LedgerUnavailable):
        keep(engine, "anonymous", "one", "a", 1)


def test_neither_ledger_nor_logs_hold_a_name_that_nobody_sent_as_feedback(house, upstream):
    classify(house, upstream, "private-matter", "quiet", categories=["private-matter", "other-thing"])
    engine = house.services.ledger.reader
    with engine.connect() as connection:
        (row,) = connection.execute(select(requests)).all()
    assert "private-matter" not in str(row)
    for name in ("api_requests.log", "cost_tracking.log"):
        assert "private-matter" not in "\n".join(house.lines(name))


def test_swagger_describes_feedback(house):
    swagger = house.client.get("/api/v1/swagger.json").get_json()
    operation = swagger["paths"]["/classify/feedback"]["post"]
    assert {"200", "400", "404", "503"} <= set(operation["responses"])
    assert set(swagger["definitions"]["Feedback"]["required"]) == {"request_id", "correct_category"}
