"""The three task routes and the stats, as curl sees them; and Swagger's description of them."""

from __future__ import annotations

import json
import threading
from decimal import Decimal

import pytest

from api.schemas import CLASSIFY_FIELDS, GENERATE_FIELDS
from tests.readers import wait_until
from tests.upstream import Fault

PATHS = {"text": "/generate/text", "code": "/generate/code", "classify": "/classify/text"}
BODIES = {
    "text": {"prompt": "Say hello."},
    "code": {"prompt": "Write a function that reverses a string."},
    "classify": {"text": "I love this phone.", "categories": ["negative", "positive"]},
}
FIELDS = {"text": "generated_text", "code": "generated_code", "classify": "classification"}


@pytest.fixture
def sandbox(make_house):
    return make_house(google_api_key="", gemini_base_url="")


@pytest.mark.parametrize("task", BODIES)
def test_each_task_answers_in_its_own_field_and_nothing_else(house, task):
    response = house.post(task, BODIES[task])
    assert response.status_code == 200
    assert set(response.get_json()) == {FIELDS[task]}
    assert response.headers["X-Provider"] == "gemini"
    assert Decimal(response.headers["X-Cost-Total"]) > 0


@pytest.mark.parametrize("task", BODIES)
def test_the_sandbox_answers_each_task_free_and_says_that_it_is_one(sandbox, upstream, task):
    response = sandbox.post(task, BODIES[task])
    assert response.status_code == 200
    assert response.headers["X-Provider"] == "sandbox"
    assert Decimal(response.headers["X-Cost-Total"]) == 0
    assert upstream.journal == []


def test_sandbox_answers_are_of_use(sandbox):
    text, code, category = (
        sandbox.post(task, body).get_json()[FIELDS[task]] for task, body in BODIES.items()
    )
    assert "sandbox" in text
    assert "Say hello." in text
    scope: dict = {}
    exec(code, scope)
    (function,) = (value for name, value in scope.items() if name != "__builtins__")
    assert function("abc") == "cba"
    assert category == "positive"


@pytest.mark.parametrize(
    ("directive", "again", "calls"),
    [
        ("", "hit", 1),
        ("no-cache", "bypass", 2),
        ("no-store", "bypass", 2),
        ("max-age=0, No-Cache", "bypass", 2),
    ],
)
def test_cache_control_decides_whether_the_cache_is_read(house, upstream, directive, again, calls):
    house.post("text", BODIES["text"])
    response = house.post("text", BODIES["text"], Cache_Control=directive)
    assert response.headers["X-Cache-Status"] == again
    assert response.headers["X-Cached"] == ("true" if again == "hit" else "false")
    assert len(upstream.journal) == calls


@pytest.mark.parametrize(("directive", "kept"), [("no-cache", "hit"), ("no-store", "miss")])
def test_no_cache_still_remembers_and_no_store_does_not(house, directive, kept):
    house.post("text", BODIES["text"], Cache_Control=directive)
    assert house.post("text", BODIES["text"]).headers["X-Cache-Status"] == kept


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "Say hello!"},
        {"prompt": "Say hello. "},
        {"prompt": "Say hello.", "max_tokens": 50},
        {"prompt": "Say hello.", "model": "gemini-3.5-flash"},
    ],
)
def test_an_answer_is_served_again_for_the_very_same_ask_only(house, other):
    house.post("text", BODIES["text"])
    assert house.post("text", other).headers["X-Cache-Status"] == "miss"


def test_categories_in_another_cut_are_another_ask(house):
    statuses = [
        house.post("classify", {"text": "x", "categories": names}).headers["X-Cache-Status"]
        for names in (["a,b", "c"], ["a", "b,c"], ["a", "b", "c"], ["a,b", "c"])
    ]
    assert statuses == ["miss", "miss", "miss", "hit"]


def test_64_identical_asks_at_once_make_one_call_and_one_bill(house, upstream):
    upstream.held = True
    replies = []

    def ask() -> None:
        replies.append(house.app.test_client().post("/api/v1/generate/text", json=BODIES["text"]))

    threads = [threading.Thread(target=ask) for _ in range(64)]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: house.services.flights.waiting() == 63)
    upstream.held = False
    for thread in threads:
        thread.join(30)
    assert [reply.status_code for reply in replies] == [200] * 64
    assert len(upstream.journal) == 1
    statuses = sorted(reply.headers["X-Cache-Status"] for reply in replies)
    assert statuses == ["coalesced"] * 63 + ["miss"]
    costs = sorted(Decimal(reply.headers["X-Cost-Total"]) for reply in replies)
    assert costs[:63] == [0] * 63
    assert costs[63] > 0
    saved = {
        reply.headers["X-Cost-Saved"] for reply in replies if reply.headers["X-Cache-Status"] == "coalesced"
    }
    assert {Decimal(value) for value in saved} == {costs[63]}


def test_a_category_is_one_of_those_sent_whatever_the_model_says(house, upstream):
    names = ["Spam", "No spam"]
    upstream.script(Fault("says", text='{"category": " sPaM."}'))
    assert house.post("classify", {"text": "x", "categories": names}).get_json() == {"classification": "Spam"}
    upstream.script(*[Fault("says", text="Something else entirely")] * 2)
    response = house.post("classify", {"text": "y", "categories": names})
    assert (response.status_code, response.get_json()["code"]) == (502, "upstream_invalid_response")
    assert len(upstream.journal) == 3


def test_every_category_that_fits_is_one_of_those_sent_in_their_order_and_once(house, upstream):
    body = {"text": "x", "categories": ["a", "b", "c"], "multi_label": True}
    for said, answered in (
        ('{"categories": ["c", "a", "c"]}', ["a", "c"]),
        ('{"categories": []}', []),
        ('{"categories": ["a", "b", "c"]}', ["a", "b", "c"]),
    ):
        upstream.script(Fault("says", text=said))
        response = house.post("classify", body, Cache_Control="no-cache")
        assert (response.status_code, response.get_json()) == (200, {"classifications": answered})
    hit = house.post("classify", body)
    assert (hit.headers["X-Cache-Status"], hit.get_json()) == ("hit", {"classifications": ["a", "b", "c"]})


def test_what_the_callers_own_cap_has_cut_is_not_paid_for_a_second_time(house, upstream):
    body = {"text": "x", "categories": ["a", "b"]}
    upstream.script("max_tokens")
    response = house.post("classify", body | {"max_tokens": 20})
    assert (response.status_code, response.get_json()["code"]) == (502, "upstream_invalid_response")
    assert (response.get_json()["field"], len(upstream.journal)) == ("max_tokens", 1)
    assert "larger" in response.get_json()["error"]
    upstream.script("max_tokens")
    assert house.post("classify", body).status_code == 200  # nobody's cap: asked again once
    assert len(upstream.journal) == 3


def test_what_is_no_category_is_asked_again_once_and_then_refused_with_its_bill(house, upstream):
    body = {"text": "x", "categories": ["a", "b"], "multi_label": True}
    upstream.script(Fault("says", text='{"categories": ["z"]}'), Fault("says", text='{"categories": ["b"]}'))
    assert house.post("classify", body).get_json() == {"classifications": ["b"]}
    upstream.script(*[Fault("says", text='{"categories": ["a", "z"]}')] * 2)
    response = house.post("classify", body | {"text": "y"})
    assert (response.status_code, response.get_json()["code"]) == (502, "upstream_invalid_response")
    assert Decimal(response.headers["X-Cost-Total"]) > 0
    assert len(upstream.journal) == 4


def test_one_category_and_all_that_fit_are_two_asks(house, upstream):
    body = {"text": "x", "categories": ["a", "b"]}
    upstream.script(Fault("says", text="a"), Fault("says", text='{"categories": ["a", "b"]}'))
    first, second = (house.post("classify", body | {"multi_label": many}) for many in (False, True))
    assert [first.get_json(), second.get_json()] == [
        {"classification": "a"},
        {"classifications": ["a", "b"]},
    ]
    assert second.headers["X-Cache-Status"] == "miss"
    assert house.post("classify", body).headers["X-Cache-Status"] == "hit"


def test_the_sandbox_finds_every_category_that_fits_and_none_where_none_does(sandbox):
    body = {"categories": ["technical", "sports", "billing"], "multi_label": True}
    both = sandbox.post("classify", body | {"text": "The app crashes and I want a refund of my payment."})
    assert both.get_json() == {"classifications": ["technical", "billing"]}
    assert sandbox.post("classify", body | {"text": "Good morning."}).get_json() == {"classifications": []}


def test_half_a_character_from_the_model_is_an_answer_and_no_bug(house, upstream):
    part = {"content": {"role": "model", "parts": [{"text": "half \ud83d a pair"}]}, "finishReason": "STOP"}
    upstream.script(Fault("wrong_schema", text=json.dumps({"candidates": [part]})))
    response = house.post("text", BODIES["text"])
    assert response.status_code == 200, response.text
    assert response.get_json()["generated_text"].startswith("half ")


def test_categories_that_look_like_json_are_categories_too(sandbox, house, upstream):
    """Star ratings, for one; whether the model answers in JSON or in plain words."""
    stars = {"text": "I love it. 5", "categories": ["1", "2", "3", "4", "5"]}
    assert sandbox.post("classify", stars).get_json()["classification"] in stars["categories"]
    upstream.script(Fault("says", text="5"))
    assert house.post("classify", stars).get_json() == {"classification": "5"}


def test_the_sandbox_knows_one_model(sandbox):
    assert sandbox.post("text", {"prompt": "x", "model": "sandbox-1"}).status_code == 200
    response = sandbox.post("text", {"prompt": "x", "model": "gemini-3.5-flash"})
    assert (response.status_code, response.get_json()["field"]) == (400, "model")


def test_stats_show_cache_usage_and_limits(make_house):
    house = make_house(rate_limit="50 per minute")
    for _ in range(3):
        spent = house.post("text", BODIES["text"]).headers["X-Cost-Overall"]
    stats = house.client.get("/api/v1/stats").get_json()
    assert set(stats) == {"cache_stats", "usage_stats", "rate_limit_stats"}
    assert (stats["cache_stats"]["hit_count"], stats["cache_stats"]["miss_count"]) == (2, 1)
    assert stats["cache_stats"]["size"] == 1
    usage = stats["usage_stats"]
    assert (usage["total_requests"], usage["cached_requests"]) == (3, 2)
    assert usage["total_cost_nanodollars"] == Decimal(spent) * 10**9
    assert set(usage["endpoints"]) == {"/api/v1/generate/text"}
    assert stats["rate_limit_stats"]["limit"] == "50 per minute"
    assert stats["rate_limit_stats"]["size"] >= 1


@pytest.fixture
def swagger(sandbox):
    return sandbox.client.get("/api/v1/swagger.json").get_json()


def resolved(swagger: dict, schema: dict) -> dict:
    return swagger["definitions"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


@pytest.mark.parametrize("task", BODIES)
def test_swagger_describes_the_body_and_every_reply(swagger, task):
    operation = swagger["paths"][PATHS[task]]["post"]
    (body,) = (part for part in operation["parameters"] if part["in"] == "body")
    described = resolved(swagger, body["schema"])
    assert set(described["required"]) == set(BODIES[task])
    taken = CLASSIFY_FIELDS if task == "classify" else GENERATE_FIELDS
    assert set(described["properties"]) == taken
    good = resolved(swagger, operation["responses"]["200"]["schema"])
    several = {"classifications"} if task == "classify" else set()
    assert set(good["properties"]) == {FIELDS[task]} | several
    for status in ("400", "413", "415", "422", "429", "502", "503", "504"):
        failure = resolved(swagger, operation["responses"][status]["schema"])
        assert {"error", "code", "request_id", "field"} <= set(failure["properties"])
    assert operation["summary"]


def test_swaggers_own_examples_are_accepted(swagger, sandbox):
    for path in PATHS.values():
        (body,) = (p for p in swagger["paths"][path]["post"]["parameters"] if p["in"] == "body")
        properties = resolved(swagger, body["schema"])["properties"]
        example = {name: facts["example"] for name, facts in properties.items() if "example" in facts}
        assert sandbox.client.post(f"/api/v1{path}", json=example).status_code == 200


def test_swagger_describes_the_stats_and_where_the_api_is(swagger):
    assert swagger["basePath"] == "/api/v1"
    assert "get" in swagger["paths"]["/stats"]
