"""api/sse.py: an answer as events costs, is kept, fails and is recorded as the same answer in one piece."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from api.sse import shown
from conftest import House
from errors import ContentBlocked, DeadlineExceeded, PlatformError
from services import build_services
from tasks import Usage
from tests.ledger_house import rows
from tests.readers import LONG, events, said, wait_until
from tests.streamed import MODEL, Directed, counting_stream
from tests.test_ledger import locked_out
from tests.test_pipeline import impatient
from tests.upstream import Call, Fault, Upstream
from tests.upstream.bills import bill as journal_bill

PROMPT = {"prompt": "Name three rivers."}
STREAM = PROMPT | {"stream": True}
FENCED = "```python\nprint('hello')\n```"
BLOCKS = "```py\na = 1\n```\nand then\n```py\nb = 2\n```"


def live(provider: str, upstream: Upstream) -> dict[str, Any]:
    """Settings of a house with this one provider."""
    settings: dict[str, Any] = {"google_api_key": "", "gemini_base_url": "", "llm_providers": (provider,)}
    key, address = {
        "gemini": ("google_api_key", upstream.url),
        "openai": ("openai_api_key", f"{upstream.url}/v1"),
        "anthropic": ("anthropic_api_key", upstream.url),
    }[provider]
    return settings | {key: "any-key", f"{provider}_base_url": address}


@pytest.fixture(params=["gemini", "openai", "anthropic"])
def each(request, make_house, upstream) -> House:
    """A house on each of the providers in turn."""
    return make_house(**live(request.param, upstream))


@pytest.fixture
def directed(make_house, settings) -> Iterator[tuple[House, Directed]]:
    """A house whose provider says what the test wants."""
    provider = Directed()
    yield make_house(build_services(settings, provider=provider)), provider
    provider.end()


def stream(house: House, body: Any = STREAM, task: str = "text", **headers: str) -> tuple[Any, list[Any]]:
    """The response, and all of its events."""
    response = house.post(task, body, **headers)
    assert response.mimetype == "text/event-stream", response.text
    told = list(events(response.response))
    response.close()
    assert house.services.roads.wait(LONG)
    return response, told


def row_of(house: House, response: Any) -> Any:
    found = rows(house.services.ledger)
    (row,) = [row for row in found if row["request_id"] == response.headers["X-Request-ID"]]
    return row


def assert_billed_as_far_as_it_came(row: Any, call: Call) -> None:
    """To the nano-dollar where the provider had told by then what it counted, else estimated and marked."""
    assert (row["state"], row["attempts"], row["unknown_attempts"]) == ("settled", 1, 0)
    if call.reported is None or call.provider == "anthropic":  # which tells the input alone before the end
        assert row["estimated"]
        assert row["cost_nano"] > 0
    else:
        assert not row["estimated"]
        assert row["cost_nano"] == journal_bill(replace(call, billed=call.reported)) > 0


def nano(dollars: str) -> int:
    return int(Decimal(dollars) * 10**9)


# The shape.


def test_pieces_come_in_the_field_of_the_whole_reply_and_the_bill_comes_last(each, upstream):
    response, told = stream(each)
    *pieces, (last, bill) = told
    assert {name for name, _ in pieces} == {"message"}
    assert len(pieces) == 4
    assert last == "bill"
    (call,) = upstream.journal
    assert call.method == "stream"
    row = row_of(each, response)
    assert nano(bill["cost"]["total"]) == row["cost_nano"] == journal_bill(call) > 0
    assert nano(bill["cost"]["input"]) + nano(bill["cost"]["output"]) == nano(bill["cost"]["total"])
    assert nano(bill["cost"]["overall"]) == each.services.ledger.overall_nano("anonymous")
    assert bill["tokens"] == {
        "input": call.billed.prompt,
        "output": call.billed.candidates + call.billed.thoughts,
        "estimated": False,
    }
    assert (bill["cached"], bill["cache_status"], bill["whole"], bill["attempts"]) == (False, "miss", True, 1)
    assert bill["request_id"] == response.headers["X-Request-ID"]


def test_the_head_of_a_stream_says_all_that_is_known_by_then(each):
    response, (*_, (_, bill)) = stream(each, X_Request_ID="my.own-id")
    headers = response.headers
    assert (response.status_code, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert (headers["X-Cached"], headers["X-Cache-Status"], headers["X-Upstream-Attempts"]) == (
        "false",
        "miss",
        "1",
    )
    assert (headers["X-Model"], headers["X-Provider"]) == (bill["model"], bill["provider"])
    assert headers["X-Request-ID"] == bill["request_id"] == "my.own-id"
    assert (headers["X-Accel-Buffering"], headers["Cache-Control"]) == ("no", "no-store")
    assert not [name for name, _ in headers if name.startswith(("X-Cost", "X-Tokens"))]


def test_the_head_of_a_hit_says_what_it_saved_as_that_of_a_plain_reply_does(each):
    stream(each)
    response, told = stream(each)
    plain = each.post("text", PROMPT)
    assert [name for name, _ in told] == ["message", "bill"]
    changing = {"X-Request-ID", "Content-Type", "Content-Length", "X-Accel-Buffering"}
    changing |= {"RateLimit-Remaining", "RateLimit-Reset"}  # the second is told by the clock
    ours, theirs = (
        {name: value for name, value in each_response.headers if name not in changing}
        for each_response in (response, plain)
    )
    assert ours == theirs
    bill = told[-1][1]
    assert (bill["cached"], bill["cache_status"], bill["cost"]["total"]) == (True, "hit", "0.000000000")
    assert nano(bill["cost"]["saved"]) == nano(plain.headers["X-Cost-Saved"]) > 0


def test_what_the_model_does_not_take_is_named_with_a_stream_and_with_its_hits(make_house, upstream):
    for model, ignored in (("gpt-6-luna", ["temperature"]), ("gpt-5.4-nano", None)):
        house = make_house(**live("openai", upstream) | {"openai_model": model})
        for status in ("miss", "hit"):
            response, told = stream(house)
            assert response.headers["X-Cache-Status"] == status
            assert response.headers.get("X-Params-Ignored") == (ignored and ", ".join(ignored))
            assert told[-1][1].get("params_ignored") == ignored


@pytest.mark.parametrize("value", ["yes", 1, 0, []])
def test_stream_is_true_or_false_and_nothing_else(house, value):
    response = house.post("text", PROMPT | {"stream": value})
    assert (response.status_code, response.get_json()["field"]) == (400, "stream")


def test_stream_false_is_a_plain_reply(house):
    assert house.post("text", PROMPT | {"stream": False}).get_json().keys() == {"generated_text"}


def test_a_classification_has_no_stream(house):
    response = house.post("classify", {"text": "x", "categories": ["a", "b"], "stream": True})
    assert (response.status_code, response.get_json()["field"]) == (400, "stream")


# One answer, whole or in pieces.


@pytest.mark.parametrize(
    ("task", "text"), [("text", None), ("code", FENCED), ("code", "x = 1\n"), ("code", None)]
)
@pytest.mark.parametrize("first", ["streamed", "plain"])
def test_what_came_in_one_way_is_found_in_the_other_with_the_very_same_text(
    each, upstream, task, text, first
):
    upstream.script(Fault("ok", text=text))
    field = f"generated_{task}"
    if first == "streamed":
        came = said(stream(each, task=task)[1])
        found = each.post(task, PROMPT)
        assert found.headers["X-Cache-Status"] == "hit"
        again = found.get_json()[field]
    else:
        came = each.post(task, PROMPT).get_json()[field]
        response, told = stream(each, task=task)
        assert response.headers["X-Cache-Status"] == "hit"
        again = said(told)
    assert came == again
    assert "```" not in came
    assert len(upstream.journal) == 1


def test_code_of_several_blocks_loses_its_outer_fences_as_it_comes_and_keeps_them_as_a_whole(house, upstream):
    upstream.script(Fault("ok", text=BLOCKS))
    assert said(stream(house, task="code")[1]) == BLOCKS.removeprefix("```py\n").removesuffix("\n```")
    assert house.post("code", PROMPT).get_json()["generated_code"] == BLOCKS


def test_an_answer_that_the_limit_cut_says_so_and_is_not_kept(each, upstream):
    upstream.script("max_tokens")
    _, told = stream(each)
    assert told[-1][1]["whole"] is False
    assert each.post("text", PROMPT).headers["X-Cache-Status"] == "miss"


def test_a_stream_past_the_cache_says_so_and_is_bought_anew(each, upstream):
    stream(each)
    response, told = stream(each, Cache_Control="no-cache")
    assert (response.headers["X-Cache-Status"], told[-1][1]["cache_status"]) == ("bypass", "bypass")
    assert len(upstream.journal) == 2


def test_uncounted_pieces_are_estimated_and_marked(each, upstream):
    upstream.script("no_usage")
    response, told = stream(each)
    tokens, row = told[-1][1]["tokens"], row_of(each, response)
    assert tokens["estimated"] is True
    assert row["estimated"]
    count = each.services.tracker._counter.count_tokens
    assert tokens["output"] == row["output_tokens"] == count(said(told))


def test_identical_asks_share_one_flight_streamed_or_not(directed):
    house, provider = directed
    with ThreadPoolExecutor(7) as pool:
        leader = pool.submit(stream, house)
        assert provider.called.acquire(timeout=LONG)
        others = [pool.submit(ask_like, house, number) for number in range(6)]
        assert wait_until(lambda: house.services.flights.waiting() == 6)
        provider.say("a whole", " answer")
        provider.end()
        texts = [other.result(LONG) for other in others]
        _, told = leader.result(LONG)
    assert {said(told), *texts} == {"a whole answer"}
    assert len(provider.calls) == 1
    kept = rows(house.services.ledger)
    assert Counter(row["cache_status"] for row in kept) == {"miss": 1, "coalesced": 6}
    assert sorted(row["cost_nano"] for row in kept) == [0] * 6 + [10 * 250 + 5 * 1500]


def ask_like(house: House, number: int) -> str:
    """Every other one streams; a client of its own for each."""
    own = replace(house, client=house.app.test_client())
    if number % 2:
        return own.post("text", PROMPT).get_json()["generated_text"]
    response = own.post("text", STREAM)
    assert response.headers["X-Cache-Status"] == "coalesced"
    assert nano(response.headers["X-Cost-Total"]) == 0 < nano(response.headers["X-Cost-Saved"])
    return said(events(response.response))


def test_a_streamed_hit_is_logged_and_counted_as_one(each):
    bought, found = stream(each)[0], stream(each)[0]
    ends = [
        line for line in map(json.loads, each.lines("api_requests.log")) if line["event"] == "REQUEST_END"
    ]
    assert [(line["request_id"], line["cached"], line["cost"]["cache_status"]) for line in ends] == [
        (bought.headers["X-Request-ID"], False, "miss"),
        (found.headers["X-Request-ID"], True, "hit"),
    ]
    assert ends[0]["cost"]["cost_nanodollars"] > 0 == ends[1]["cost"]["cost_nanodollars"]
    records = [json.loads(line) for line in each.lines("cost_tracking.log")]
    assert [(record["cached"], record["cache_status"]) for record in records] == [
        (False, "miss"),
        (True, "hit"),
    ]
    usage = each.services.tracker.get_usage_stats()
    assert (usage["total_requests"], usage["cached_requests"], usage["cache_hit_rate"]) == (2, 1, 0.5)
    assert usage["cost_savings_from_cache"] == usage["total_cost"] > 0
    (row,) = [row for row in rows(each.services.ledger) if row["cache_status"] == "hit"]
    assert (row["cost_nano"], row["saved_nano"] > 0) == (0, True)


# Failures before the first piece: plain errors.


def refused(house: House, status: int, code: str, body: Any = STREAM, **headers: str) -> Any:
    response = house.post("text", body, **headers)
    assert (response.status_code, response.mimetype) == (status, "application/json")
    assert response.get_json()["code"] == code
    return response


def test_what_is_refused_at_the_door_is_no_stream(make_house, upstream):
    house = make_house(rate_limit="4 per minute")
    refused(house, 400, "invalid_input", {"stream": True})
    refused(house, 400, "invalid_input", STREAM | {"prompt": "x" * 100_001})
    refused(house, 400, "invalid_input", STREAM | {"model": "no-such-model"})
    response = house.client.post("/api/v1/generate/text", data="stream", content_type="text/plain")
    assert response.status_code == 415
    assert refused(house, 429, "rate_limited").headers["Retry-After"]
    assert upstream.journal == []


def test_without_its_ledger_the_house_streams_nothing_and_calls_nobody(house, upstream):
    house.post("text", {"prompt": "the first row"})
    with locked_out(house.services.ledger):
        assert refused(house, 503, "ledger_unavailable").headers["Retry-After"]
    assert [call.prompt for call in upstream.journal] == ["the first row"]
    assert house.services.roads.wait(LONG)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("blocked_prompt", 422, "content_blocked"),
        ("blocked_answer", 422, "content_blocked"),
        ("empty", 502, "upstream_empty"),
        ("bad_request", 502, "upstream_error"),
        ("quota_per_day", 503, "upstream_quota_exhausted"),
        ("too_long", 400, "invalid_input"),
    ],
)
def test_what_a_provider_refuses_at_once_is_a_plain_error_with_its_bill(each, upstream, fault, status, code):
    upstream.script(fault)
    response = refused(each, status, code)
    (call,) = upstream.journal
    row = row_of(each, response)
    assert (row["status"], row["cost_nano"]) == (status, journal_bill(call))
    assert nano(response.headers.get("X-Cost-Total", "0")) == row["cost_nano"]


def test_a_drip_ends_at_the_deadline_with_a_plain_504(make_house, upstream):
    house = make_house(**live("gemini", upstream) | {"llm_timeout_seconds": 4.0})
    house.services.warm()
    upstream.script("drip")
    began = time.monotonic()
    response = refused(house, 504, "deadline")
    assert 4.0 <= time.monotonic() - began < 20  # dripped to its end it takes many minutes
    row = row_of(house, response)
    assert (row["status"], row["unknown_attempts"], row["state"]) == (504, 1, "unknown")


def test_before_the_first_piece_a_call_is_tried_again(make_house, settings, upstream):
    house = make_house(impatient(build_services(settings)))
    upstream.script("unavailable", "reset_before", Fault("cut_body", after=0), "ok")
    response, told = stream(house)
    assert response.headers["X-Upstream-Attempts"] == "4"
    assert (told[-1][0], told[-1][1]["attempts"]) == ("bill", 4)
    row = row_of(house, response)
    assert (row["status"], row["attempts"], row["unknown_attempts"]) == (200, 4, 2)


def test_before_the_first_piece_another_provider_takes_over(make_house, upstream):
    both = live("openai", upstream) | {"llm_providers": ("gemini", "openai")}
    both |= {"google_api_key": "any-key", "gemini_base_url": upstream.url}
    house = make_house(**both)
    upstream.script("quota_per_day", provider="gemini")
    response, told = stream(house)
    assert (response.headers["X-Provider"], response.headers["X-Upstream-Attempts"]) == ("openai", "2")
    assert said(told)
    assert told[-1][1]["provider"] == "openai"


# Failures after it: an error event, and the bill of what came.

CUTS = ("cut_body", "reset_body", "stream_error", "stream_garbage", "stream_stops")


@pytest.mark.parametrize("fault", CUTS)
def test_a_stream_that_the_provider_cuts_ends_with_an_error_and_its_bill_and_is_never_tried_again(
    each, upstream, fault
):
    upstream.script(Fault(fault, after=2))
    response, told = stream(each)
    assert [name for name, _ in told] == ["message", "message", "error", "bill"]
    (_, error), (_, bill) = told[-2:]
    assert error.keys() == {"error", "code", "request_id"}
    assert error["code"] in ("upstream_error", "upstream_invalid_response")
    (call,) = upstream.journal
    row = row_of(each, response)
    assert row["status"] == 502
    assert_billed_as_far_as_it_came(row, call)
    assert nano(bill["cost"]["total"]) == row["cost_nano"]
    assert bill["tokens"] == {
        "input": row["input_tokens"],
        "output": row["output_tokens"],
        "estimated": bool(row["estimated"]),
    }
    assert (bill["whole"], bill["cached"], bill["cache_status"], bill["attempts"]) == (
        False,
        False,
        "failed",
        1,
    )
    assert each.services.cache.size() == 0


def test_a_stream_that_counts_as_it_comes_and_ends_without_a_reason_is_one_that_was_cut(make_house, upstream):
    house = make_house(**live("openai", upstream))
    upstream.script(Fault("garbage", text=counting_stream(("one", 3), (" two", 7))))
    response, told = stream(house)
    assert [name for name, _ in told] == ["message", "message", "error", "bill"]
    (_, error), (_, bill) = told[-2:]
    assert (error["code"], bill["whole"]) == ("upstream_invalid_response", False)
    assert bill["tokens"] == {"input": 10, "output": 7, "estimated": False}
    row = row_of(house, response)
    assert (row["status"], row["cost_nano"]) == (502, 6 * 200 + 4 * 20 + 7 * 1250)
    assert nano(bill["cost"]["total"]) == row["cost_nano"]
    assert (len(upstream.journal), house.services.cache.size()) == (1, 0)


def test_a_stream_that_counts_at_its_beginning_only_is_billed_for_what_came_after_it_too(
    make_house, upstream
):
    house = make_house(**live("openai", upstream))
    upstream.script(Fault("garbage", text=counting_stream(("one", 1), (" two three four five six", None))))
    response, told = stream(house)
    count = house.services.tracker._counter.count_tokens("one two three four five six")
    assert told[-1][1]["tokens"] == {"input": 10, "output": count, "estimated": True}
    row = row_of(house, response)
    assert row["cost_nano"] == 6 * 200 + 4 * 20 + count * 1250


def test_the_error_log_says_which_fault_ended_a_stream_and_for_which_request(each, upstream):
    upstream.script(Fault("cut_body", after=2))
    response, _ = stream(each)
    lines = [json.loads(line) for line in each.lines("api_errors.log")]
    assert [line["event"] for line in lines] == ["ERROR", "REQUEST_ERROR"]
    assert lines[0]["context"]["request_id"] == lines[1]["request_id"] == response.headers["X-Request-ID"]
    assert (lines[0]["context"]["code"], lines[1]["code"], lines[1]["status"]) == (
        "upstream_error",
        "upstream_error",
        502,
    )


def test_content_that_is_blocked_in_mid_stream_is_an_error_event_billed_as_the_provider_says(directed):
    house, provider = directed
    provider.say("one", " two")
    provider.fail(ContentBlocked(usage=Usage(10, 7), model=MODEL))
    response, told = stream(house)
    assert said(told) == "one two"
    assert [(name, data.get("code")) for name, data in told[2:]] == [
        ("error", "content_blocked"),
        ("bill", None),
    ]
    row = row_of(house, response)
    assert (row["status"], row["cost_nano"], row["estimated"]) == (422, 10 * 250 + 7 * 1500, 0)
    assert house.services.cache.size() == 0


def test_the_deadline_covers_the_whole_stream(make_house, upstream):
    house = make_house(**live("gemini", upstream) | {"llm_timeout_seconds": 4.0})
    house.services.warm()
    upstream.script(Fault("ok", pause=60.0))
    began = time.monotonic()
    response, told = stream(house)
    assert 4.0 <= time.monotonic() - began < 30  # its next piece comes after a minute
    assert [name for name, _ in told] == ["message", "error", "bill"]
    assert told[1][1]["code"] == "deadline"
    assert row_of(house, response)["status"] == 504
    assert upstream.wait_idle()
    assert [call.delivered for call in upstream.journal] == [False]


def test_where_another_provider_could_have_taken_over_a_stream_that_has_begun_still_has_all_its_time(
    make_house, upstream
):
    """The first of two providers may use half of the time; its stream may use the rest as well."""
    both = live("openai", upstream) | {"llm_providers": ("gemini", "openai"), "llm_timeout_seconds": 8.0}
    house = make_house(**both | {"google_api_key": "any-key", "gemini_base_url": upstream.url})
    house.services.warm()
    upstream.script(Fault("ok", pause=1.5))
    _, told = stream(house)
    assert [name for name, _ in told] == ["message"] * 4 + ["bill"]
    assert told[-1][1]["provider"] == "gemini"


# A reader who leaves; over real sockets in test_sse_served.py.


def test_a_reader_who_leaves_hangs_up_on_the_provider(each, upstream):
    upstream.script(Fault("ok", pause=0.2))
    response = each.post("text", STREAM)
    told = events(response.response)
    assert next(told)[0] == "message"
    response.close()
    assert each.services.roads.wait(LONG)
    assert upstream.wait_idle()
    (call,) = upstream.journal
    assert not call.delivered
    row = row_of(each, response)
    assert row["status"] == 499
    assert_billed_as_far_as_it_came(row, call)
    assert (each.services.gate.in_air, each.services.flights.in_air(), each.services.cache.size()) == (
        0,
        0,
        0,
    )


def test_a_body_that_is_closed_before_it_was_read_is_a_reader_who_left(directed):
    house, provider = directed
    provider.say("one")
    response = house.post("text", STREAM)
    response.close()
    provider.say(" two")
    assert provider.hung_up.wait(LONG)
    assert house.services.roads.wait(LONG)
    assert row_of(house, response)["status"] == 499


def test_what_is_no_failure_of_the_house_is_shown_as_a_bug_that_says_nothing():
    kept = DeadlineExceeded()
    assert shown(kept) is kept
    bug = shown(ZeroDivisionError("secret"))
    assert (type(bug), "secret" in str(bug)) == (PlatformError, False)
