"""providers/gemini_replies.py: money is made of counts, so counts that make no sense are no counts."""

import json
from decimal import Decimal

import pytest

from providers.gemini_replies import read_usage
from providers.reply_facts import MOST_TOKENS
from tasks import Usage
from tests.upstream import Fault

PROMPT = {"prompt": "Say hello."}
GOOD = {
    "promptTokenCount": 10,
    "candidatesTokenCount": 5,
    "thoughtsTokenCount": 2,
    "cachedContentTokenCount": 4,
}


def body(usage, **more) -> str:
    parts = {"candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}]} | more
    return json.dumps({**parts, "usageMetadata": usage, "modelVersion": "gemini-3.1-flash-lite"})


def test_geminis_own_counts_become_ours():
    assert read_usage({"usageMetadata": GOOD}) == Usage(10, 7, 4, 2)
    assert read_usage({"usageMetadata": {}}) == Usage(0, 0)


@pytest.mark.parametrize("name", sorted(GOOD))
@pytest.mark.parametrize("count", [-1, True, 1.5, "7", None, [], 10**30, MOST_TOKENS + 1])
def test_one_count_that_is_none_makes_all_of_them_worthless(name, count):
    assert read_usage({"usageMetadata": GOOD | {name: count}}) is None


def test_more_cached_than_asked_is_nonsense():
    assert read_usage({"usageMetadata": GOOD | {"cachedContentTokenCount": 11}}) is None


@pytest.mark.parametrize("usage", [None, [], "x", 5])
def test_what_is_no_list_of_counts_is_none(usage):
    assert read_usage({"usageMetadata": usage}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"promptTokenCount": -1000},
        {"candidatesTokenCount": -500},
        {"cachedContentTokenCount": -400},
        {"promptTokenCount": 10**30},
        {"promptTokenCount": 10**400},
    ],
    ids=str,
)
def test_absurd_counts_break_neither_the_reply_nor_the_ledger(house, upstream, change):
    upstream.script(Fault("garbage", text=body(GOOD | change)), "ok")
    for prompt in ("absurd", "plain"):
        response = house.post("text", {"prompt": prompt})
        assert response.status_code in (200, 502), response.text
        assert Decimal(response.headers.get("X-Cost-Overall", "0")) < 1
        if "X-Cost-Total" in response.headers:
            assert Decimal(response.headers["X-Cost-Total"]) >= 0
    assert len(house.lines("cost_tracking.log")) == 2
    assert house.services.tracker.overall_nano >= 0


def test_zeros_that_the_provider_counted_are_zeros(house, upstream):
    upstream.script(Fault("garbage", text=body({"promptTokenCount": 0, "candidatesTokenCount": 0})))
    response = house.post("text", PROMPT)
    assert response.status_code == 200
    assert (response.headers["X-Tokens-Input"], response.headers["X-Tokens-Output"]) == ("0", "0")
    assert "X-Tokens-Estimated" not in response.headers


@pytest.mark.parametrize("shape", [{"candidates": 5}, {"candidates": [{"content": {"parts": 5}}]}], ids=str)
def test_an_unreadable_reply_that_says_what_it_cost_is_billed(house, upstream, shape):
    broken = Fault("garbage", text=body(GOOD, **shape))
    upstream.script(broken, broken)
    response = house.post("text", PROMPT)
    assert (response.status_code, response.get_json()["code"]) == (502, "upstream_invalid_response")
    once = (10 - 4) * 250 + 4 * 25 + 7 * 1500
    assert Decimal(response.headers["X-Cost-Total"]) * 10**9 == 2 * once
    (line,) = map(json.loads, house.lines("cost_tracking.log"))
    assert (line["attempts"], line["unknown_attempts"], line["cost_nanodollars"]) == (2, 0, 2 * once)


def test_the_providers_words_reach_no_log(house, upstream):
    secret = "the prompt quoted back"
    upstream.script(Fault("bad_request", text=secret))
    assert house.post("text", {"prompt": secret}).status_code == 502
    for name in ("api_errors", "api_requests", "cost_tracking", "security_audit", "performance"):
        assert secret not in "".join(house.lines(f"{name}.log"))
    assert house.lines("api_errors.log")


def test_models_that_callers_invent_say_nothing_about_the_providers_health(house, upstream):
    upstream.retire(*(f"invented-{number}" for number in range(8)))
    for number in range(8):
        assert house.post("text", PROMPT | {"model": f"invented-{number}"}).status_code == 400
    assert house.client.get("/api/v1/health").get_json()["status"] == "healthy"
    assert "invented" not in house.client.get("/metrics").text


def test_a_model_name_of_the_provider_is_plain_and_short_everywhere(house, upstream):
    upstream.script(Fault("other_model", model="gem\r\nini " + "x" * 5000))
    response = house.post("text", PROMPT)
    assert response.status_code == 200
    assert len(response.headers["X-Model"]) == 100
    assert "gem??ini" in response.headers["X-Model"]
    assert len(house.client.get("/metrics").data) < 100_000
