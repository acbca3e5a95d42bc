"""Each fault of a provider comes out as the one status and code that it is promised, and with nobody else's words."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from typing import Any

import pytest
from google.genai.errors import ClientError

from conftest import House
from errors import UpstreamFault, UpstreamQuotaExhausted, UpstreamRateLimited
from gemini_wrapper import GeminiProvider
from providers.base import Call
from providers.gemini_faults import fault_of
from providers.wire_faults import QUOTA_RESETS_SECONDS
from services import build_services
from tasks import Ask, Task
from tests.readers import LONG, wait_until
from tests.test_pipeline import impatient, nano, records
from tests.upstream import CANARY, NAMES, Fault, Tokens
from tests.watches import SinceAsked
from wording import Wording

PROMPT = {"prompt": "Name three rivers."}
CHOICE = {"text": "I love this phone.", "categories": ["positive", "negative"]}
SHORT = 0.4  # seconds, where a fault ends by the deadline only

# fault: status, code, calls, of which may have been billed unseen
MAPPING = {
    "ok": (200, None, 1, 0),
    "slow": (200, None, 1, 0),
    "says": (200, None, 1, 0),
    "other_model": (200, None, 1, 0),
    "no_usage": (200, None, 1, 0),
    "max_tokens": (200, None, 1, 0),
    "rate_limited": (429, "upstream_rate_limited", 5, 0),
    "quota_per_day": (503, "upstream_quota_exhausted", 1, 0),
    "request_timeout": (502, "upstream_error", 5, 0),
    "internal": (502, "upstream_error", 5, 0),
    "bad_gateway": (502, "upstream_error", 5, 0),
    "unavailable": (502, "upstream_error", 5, 0),
    "gateway_timeout": (502, "upstream_error", 5, 0),
    "reset_before": (502, "upstream_error", 5, 5),
    "cut_body": (502, "upstream_error", 5, 5),
    "hang": (504, "deadline", 1, 1),
    "drip": (504, "deadline", 1, 1),
    "garbage": (502, "upstream_invalid_response", 2, 2),
    "wrong_schema": (502, "upstream_invalid_response", 2, 2),
    "html": (502, "upstream_invalid_response", 2, 2),
    "huge": (502, "upstream_invalid_response", 1, 1),
    "gzip_bomb": (502, "upstream_invalid_response", 1, 1),
    "no_candidates": (502, "upstream_empty", 1, 0),
    "empty": (502, "upstream_empty", 1, 0),
    "blocked_prompt": (422, "content_blocked", 1, 0),
    "blocked_answer": (422, "content_blocked", 1, 0),
    "recitation": (422, "content_blocked", 1, 0),
    "bad_request": (502, "upstream_error", 1, 0),
    "too_long": (400, "invalid_input", 1, 0),
    "bad_key": (502, "upstream_error", 1, 0),
    "unauthorized": (502, "upstream_error", 1, 0),
    "forbidden": (502, "upstream_error", 1, 0),
    "not_found": (502, "upstream_error", 2, 0),  # the model and its fallback
    "redirect": (502, "upstream_error", 1, 0),
}
BILLED = ("blocked_prompt", "blocked_answer", "recitation", "empty", "no_candidates")
SECONDS = {"hang": SHORT, "drip": SHORT}
HURRIED = {"slow": {"seconds": 0.05}, "says": {"text": "the answer"}}


def fault_named(name: str) -> Fault:
    return Fault(name, **HURRIED.get(name, {}))


@pytest.fixture
def failing(timed, upstream):
    """A house whose provider fails in one way again and again; it does not wait between attempts."""

    def build(fault: Fault, **changes: Any) -> House:
        upstream.script(*[fault] * 6)
        return timed(**changes)[0]

    return build


@pytest.fixture
def timed(make_house, settings, upstream):
    """A house that does not wait between attempts, and the timer of its deadlines."""

    def build(**changes: Any) -> tuple[House, SinceAsked]:
        timer = SinceAsked(upstream)
        provider = GeminiProvider(
            "any-key",
            settings.gemini_model,
            settings.gemini_fallback_models,
            base_url=upstream.url,
            timer=timer,
        )
        provider.warm()
        services = build_services(replace(settings, **changes), provider=provider)
        timer.stand()
        return make_house(impatient(services, timer=timer)), timer

    return build


def test_the_table_names_every_fault_of_the_loopback_provider():
    assert set(MAPPING) == NAMES


@pytest.mark.parametrize("name", sorted(MAPPING))
def test_each_fault_has_its_status_code_and_number_of_calls(failing, upstream, name):
    status, code, calls, unknown = MAPPING[name]
    house = failing(fault_named(name), llm_timeout_seconds=SECONDS.get(name, 60.0))
    response = house.post("text", PROMPT)
    assert response.status_code == status
    assert CANARY not in response.text + str(response.headers)
    assert wait_until(
        lambda: len(upstream.journal) >= calls
    )  # who hangs may have read the call after its time
    assert [call.fault for call in upstream.journal] == [name] * calls
    (record,) = records(house)
    assert (record["status"], record["attempts"], record["unknown_attempts"]) == (status, calls, unknown)
    assert CANARY not in json.dumps(record)
    if status == 200:
        assert response.get_json()["generated_text"]
        return
    body = response.get_json()
    assert body["code"] == code
    assert set(body) <= {"error", "code", "request_id", "field"}
    assert body["error"].endswith(".")
    assert ("Retry-After" in response.headers) == (status in (429, 503))
    assert ("X-Cost-Total" in response.headers) == (name in BILLED)


@pytest.mark.parametrize("name", sorted(set(MAPPING) - {"says", "max_tokens", "hang", "drip"}))
def test_a_classification_meets_each_fault_in_the_same_way(failing, upstream, name):
    """But for what only a text may be: cut, or free words."""
    status, code, calls, _ = MAPPING[name]
    response = failing(fault_named(name)).post("classify", CHOICE)
    assert (response.status_code, response.get_json().get("code")) == (status, code)
    assert CANARY not in response.text
    assert len(upstream.journal) == calls


@pytest.mark.parametrize(
    ("task", "body", "field"), [("text", PROMPT, "prompt"), ("classify", CHOICE, "text")]
)
def test_a_prompt_too_long_for_the_model_names_its_field(failing, task, body, field):
    response = failing(Fault("too_long")).post(task, body)
    assert (response.status_code, response.get_json().get("field")) == (400, field)


@pytest.mark.parametrize("name", BILLED)
def test_a_failure_that_was_billed_shows_its_bill_and_adds_it_to_the_total(house, upstream, name):
    house.post("text", PROMPT)
    before = house.services.tracker.overall_nano
    usage = Tokens(prompt=1000, cached=200, candidates=0, thoughts=0 if "prompt" in name else 50)
    upstream.script(Fault(name, usage=usage))
    response = house.post("text", {"prompt": "else"})
    billed = upstream.journal[-1].billed
    cost = (1000 - 200) * 250 + 200 * 25 + (billed.candidates + billed.thoughts) * 1500
    assert nano(response) == cost
    assert nano(response, "Input") + nano(response, "Output") == cost
    assert nano(response, "Saved") == 0
    assert nano(response, "Overall") == house.services.tracker.overall_nano == before + cost
    assert response.headers["X-Model"] == house.settings.gemini_model
    assert response.headers["X-Tokens-Input"] == "1000"


# What ends by the deadline only, or by a limit.


@pytest.mark.parametrize("name", ["hang", "drip", "huge", "gzip_bomb", "redirect"])
def test_a_reply_without_end_is_ended_by_the_deadline_and_a_redirect_is_not_followed(failing, upstream, name):
    fault = Fault(name, seconds=0.05 if name == "drip" else None)
    house = failing(fault, llm_timeout_seconds=SECONDS.get(name, 60.0))
    began = time.monotonic()
    response = house.post("text", PROMPT)
    assert time.monotonic() - began < SHORT + 15  # on a busy machine; without the deadline it lasts a minute
    assert response.status_code == (504 if name in SECONDS else 502)
    assert wait_until(lambda: upstream.journal)
    assert [(call.method, call.fault) for call in upstream.journal] == [("generate", name)]
    assert upstream.wait_idle(LONG)


def test_after_a_hang_the_connection_is_not_used_again_and_the_next_ask_is_answered(timed, upstream):
    house, timer = timed(llm_timeout_seconds=0.3, upstream_concurrency=1)
    upstream.script(Fault("hang"), Fault("drip", seconds=0.05))
    for number in range(2):
        timer.stand()
        assert house.post("text", {"prompt": f"{number}"}).status_code == 504
        assert wait_until(lambda asked=number + 1: len(upstream.journal) == asked)
    timer.stand()
    patient = Ask(Task.TEXT, "x", time.monotonic() + LONG)
    assert house.services.pipeline.answer(patient).cache_status == "miss"


def test_a_provider_that_cannot_be_reached_is_503_and_is_tried_again(make_house, settings):
    waits: list[float] = []
    services = build_services(replace(settings, gemini_base_url="http://127.0.0.1:9"))
    house = make_house(impatient(services, waits))
    response = house.post("text", PROMPT)
    assert (response.status_code, response.get_json()["code"]) == (503, "no_provider")
    assert int(response.headers["Retry-After"]) >= 1
    assert waits == [1, 2, 4, 8]
    (record,) = records(house)
    assert (record["attempts"], record["unknown_attempts"]) == (5, 0)


def test_an_answer_that_speaks_of_a_rate_limit_is_an_answer(house, upstream):
    said = "429 RESOURCE_EXHAUSTED: rate limit, retry in 5s. 503 UNAVAILABLE. API_KEY_INVALID"
    upstream.script(Fault("says", text=said))
    response = house.post("text", PROMPT)
    assert (response.status_code, response.get_json()["generated_text"]) == (200, said)
    assert len(upstream.journal) == 1


@pytest.mark.parametrize(
    "text", ['{"candidates": ' + "[" * 100_000, "[" * 100_000, "", "null", "[]", "5", '"x"']
)
@pytest.mark.parametrize("task", ["text", "classify"])
def test_whatever_json_comes_in_place_of_a_reply_is_502(failing, task, text):
    response = failing(Fault("garbage", text=text)).post(task, PROMPT if task == "text" else CHOICE)
    assert (response.status_code, response.get_json()["code"]) == (502, "upstream_invalid_response")


def test_a_classification_nested_too_deep_to_be_read_is_502(failing):
    response = failing(Fault("says", text="[" * 5000)).post("classify", CHOICE)
    assert (response.status_code, response.get_json()["code"]) == (502, "upstream_invalid_response")


# What the provider says about waiting.


def test_a_daily_quota_is_never_tried_again_and_passes_the_providers_delay_on(failing, upstream):
    response = failing(Fault("quota_per_day", delay="40.2s")).post("text", PROMPT)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "41")
    assert len(upstream.journal) == 1


def test_a_daily_quota_without_a_delay_says_an_hour(failing):
    response = failing(Fault("quota_per_day", delay="")).post("text", PROMPT)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "3600")


def test_a_limit_without_any_details_is_tried_again_after_growing_waits(make_house, settings, upstream):
    waits: list[float] = []
    house = make_house(impatient(build_services(settings), waits))
    upstream.script(*[Fault("rate_limited", delay="")] * 5)
    assert house.post("text", PROMPT).headers["Retry-After"] == "1"
    assert waits == [1, 2, 4, 8]


def test_a_retry_after_header_is_honoured_where_the_body_names_no_delay(make_house, settings, upstream):
    waits: list[float] = []
    house = make_house(impatient(build_services(settings), waits))
    upstream.script(Fault("rate_limited", delay="", headers=(("Retry-After", "7"),)), "ok")
    assert house.post("text", PROMPT).status_code == 200
    assert waits == [7]


@pytest.mark.parametrize("delay", ["1e999s", "infs", "nans", "-5s", "soon", "1e300s"])
def test_a_delay_that_is_no_sensible_time_breaks_nothing(failing, upstream, delay):
    response = failing(Fault("rate_limited", delay=delay)).post("text", PROMPT)
    assert (response.status_code, response.get_json()["code"]) == (429, "upstream_rate_limited")
    assert 1 <= int(response.headers["Retry-After"]) <= 86_400


GOOGLE = "type.googleapis.com/google.rpc."


def limited(*details: Any) -> UpstreamFault:
    return fault_of(ClientError(429, {"error": {"code": 429, "details": list(details)}}))


@pytest.mark.parametrize(
    ("told", "delay"),
    [("1s", 1), ("1.5s", 1.5), ("0s", 0), ("47.999999999s", 47.999999999), ("", None), (None, None)],
)
def test_the_delay_is_read_from_the_structured_details(told, delay):
    fault = limited({"@type": GOOGLE + "RetryInfo", "retryDelay": told})
    assert type(fault) is UpstreamRateLimited
    assert (fault.transient, fault.delay) == (True, delay)


@pytest.mark.parametrize("told", ["nans", "infs", "1e400s"])
def test_a_delay_that_is_no_finite_number_is_none(told):
    fault = limited({"@type": GOOGLE + "RetryInfo", "retryDelay": told})
    assert fault.delay is None or (math.isfinite(fault.delay) and fault.delay > 0)


@pytest.mark.parametrize(
    "details",
    [
        [None, 5, "x", []],
        [{}],
        [{"@type": 7}],
        [{"@type": GOOGLE + "QuotaFailure"}],
        [{"@type": GOOGLE + "QuotaFailure", "violations": None}],
        [{"@type": GOOGLE + "QuotaFailure", "violations": 5}],
        [{"@type": GOOGLE + "QuotaFailure", "violations": [None, "PerDay", {"quotaId": None}]}],
        [{"@type": GOOGLE + "RetryInfo", "retryDelay": {"seconds": 3}}],
    ],
    ids=str,
)
def test_details_of_any_other_shape_are_a_plain_limit(details):
    fault = limited(*details)
    assert (type(fault), fault.delay) == (UpstreamRateLimited, None)


@pytest.mark.parametrize(
    "body", [{}, {"error": None}, {"error": "x"}, {"error": {"details": 5}}, [], ""], ids=str
)
def test_an_error_body_of_any_shape_is_judged_by_its_status(body):
    assert fault_of(ClientError(429, body)).transient
    assert not fault_of(ClientError(400, body)).transient


def test_a_quota_of_the_day_is_known_by_its_id_and_not_by_its_text():
    daily = {"@type": GOOGLE + "QuotaFailure", "violations": [{"quotaId": "RequestsPerDayPerProject"}]}
    spoken = {
        "@type": GOOGLE + "QuotaFailure",
        "violations": [{"quotaId": "PerMinute", "description": "PerDay"}],
    }
    fault = limited(daily)
    assert (type(fault), fault.transient, fault.delay) == (
        UpstreamQuotaExhausted,
        False,
        QUOTA_RESETS_SECONDS,
    )
    assert type(limited(spoken)) is UpstreamRateLimited


def test_only_the_passing_statuses_are_worth_another_attempt():
    for status in range(300, 600):
        fault = fault_of(ClientError(status, {"error": {"message": f"429 503 {CANARY}"}}))
        assert fault.transient == (status in {408, 429, 500, 502, 503, 504, 529})
        assert fault.status == (429 if status == 429 else 502)
        assert CANARY not in str(fault) + fault.detail


def test_the_fault_of_a_call_keeps_the_clients_exception_for_the_log_only(upstream):
    upstream.script("forbidden")
    provider = GeminiProvider("any-key", "gemini-3.1-flash-lite", base_url=upstream.url)
    with pytest.raises(UpstreamFault) as fault:
        provider.call(Call("gemini-3.1-flash-lite", Wording("", "Hello", 0.7), 100, 10))
    assert CANARY in str(fault.value.__cause__)
    assert CANARY not in str(fault.value) + fault.value.detail
