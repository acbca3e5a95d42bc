"""One loopback server is three providers: one menu of faults, one script, one journal, and a price list for each."""

from __future__ import annotations

import gzip
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from genai_prices import Usage, calc_price
from langchain_core.messages import AIMessageChunk
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_google_genai.chat_models import GoogleAPIError

from tests.upstream import NAMES, Call, Fault, Tokens, Upstream, UpstreamProcess, answer_text
from tests.upstream.bills import LISTS, bill, is_lost, is_uncounted
from tests.upstream.faults import OWN, PLAIN, PROVIDERS

MODELS = {"gemini": "gemini-3.1-flash-lite", "openai": "gpt-5.4-nano", "anthropic": "claude-haiku-5-5"}
PATHS = {
    "gemini": f"/v1beta/models/{MODELS['gemini']}:generateContent",
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
}
KEYS = {
    "gemini": {"x-goog-api-key": "loopback"},
    "openai": {"Authorization": "Bearer loopback"},
    "anthropic": {"x-api-key": "loopback", "anthropic-version": "2023-06-01"},
}
FIXTURE = Tokens(prompt=11125, cached=7441, candidates=20, thoughts=409)
CAP = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def running() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(running: Upstream) -> Iterator[Upstream]:
    assert running.wait_idle()
    running.reset()
    yield running
    running.fault_rate = 0.0


def body_for(provider: str, prompt: str, stream: bool) -> dict[str, Any]:
    if provider == "gemini":
        return {"contents": [{"role": "user", "parts": [{"text": prompt}]}]}
    turns = [{"role": "user", "content": prompt}]
    return {"model": MODELS[provider], "messages": turns, "max_tokens": 4000, "stream": stream}


def post(port: int, provider: str, prompt: str = "hello", *, stream: bool = False) -> tuple[int, bytes]:
    path = PATHS[provider].replace("generate", "streamGenerate" if stream else "generate")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", path, json.dumps(body_for(provider, prompt, stream)), KEYS[provider])
        reply = connection.getresponse()
        raw = reply.read()
        return reply.status, gzip.decompress(raw) if reply.headers["Content-Encoding"] == "gzip" else raw
    finally:
        connection.close()


def statuses(upstream: Upstream, *providers: str) -> list[int]:
    return [post(upstream.port, provider)[0] for provider in providers or PROVIDERS]


# Three providers, one address.


def test_every_provider_answers_with_its_own_model_and_counts_the_same_tokens(upstream: Upstream) -> None:
    for provider in PROVIDERS:
        status, body = post(upstream.port, provider, "red")
        assert (status, answer_text(MODELS[provider], "", "red") in body.decode()) == (200, True)
    assert [call.provider for call in upstream.journal] == list(PROVIDERS)
    assert (
        len({(call.billed.prompt, call.billed.cached, call.billed.thoughts) for call in upstream.journal})
        == 1
    )
    assert all(call.usage_sent and Call.from_json(call.to_json()) == call for call in upstream.journal)


def test_a_path_of_nobody_is_not_found_and_not_in_the_journal(upstream: Upstream) -> None:
    for provider in PROVIDERS:
        connection = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=5)
        connection.request("POST", PATHS[provider].rpartition("/")[0] + "/nothing", b"{}", KEYS[provider])
        assert connection.getresponse().status == 404
        connection.close()
    assert upstream.journal == []


# Which fault meets which provider.


def test_a_fault_for_one_provider_waits_until_that_one_is_called(upstream: Upstream) -> None:
    upstream.script(Fault("unavailable", provider="openai"), "internal")
    assert statuses(upstream, "gemini", "anthropic", "openai", "openai") == [500, 200, 503, 200]
    upstream.script("unavailable", "internal", provider="anthropic")
    assert statuses(upstream, "gemini", "anthropic", "anthropic", "anthropic") == [200, 503, 500, 200]
    upstream.script("openai:unavailable", {"name": "internal", "provider": "gemini"})
    assert statuses(upstream) == [500, 503, 200]


def test_one_provider_may_be_down_while_the_others_serve(upstream: Upstream) -> None:
    upstream.menu, upstream.fault_rate = ("openai:unavailable", "openai:internal"), 1.0
    for _ in range(5):
        gemini, openai, anthropic = statuses(upstream)
        assert (gemini, anthropic) == (200, 200)
        assert openai in (500, 503)
    assert {call.fault for call in upstream.journal} == {"ok", "unavailable", "internal"}


def test_the_seeded_choice_takes_what_the_provider_knows(upstream: Upstream) -> None:
    upstream.menu, upstream.fault_rate = ("overloaded", "internal"), 1.0
    met: dict[str, set[str]] = {provider: set() for provider in PROVIDERS}
    for _ in range(10):
        statuses(upstream)
    for call in upstream.journal:
        met[call.provider].add(call.fault)
    assert met == {"gemini": {"internal"}, "openai": {"internal"}, "anthropic": {"internal", "overloaded"}}


@pytest.mark.parametrize(
    "given", ["openai:overloaded", "mistral:internal", {"name": "refusal", "provider": "gemini"}]
)
def test_a_fault_that_its_provider_does_not_know_is_refused(upstream: Upstream, given: Any) -> None:
    with pytest.raises(ValueError, match="is not a provider that knows"):
        upstream.script(given)


def test_as_a_process_it_is_three_providers_too() -> None:
    with UpstreamProcess(seed=1, fault_rate=1.0, menu=("openai:unavailable",)) as upstream:
        port = int(upstream.url.rpartition(":")[2])
        assert [post(port, provider)[0] for provider in PROVIDERS] == [200, 503, 200]
        usage = {"prompt": 100, "candidates": 10, "written": 40}
        upstream.control(
            reset=True, fault_rate=0, script=[{"name": "ok", "provider": "anthropic", "usage": usage}]
        )
        assert [post(port, provider)[0] for provider in PROVIDERS] == [200, 200, 200]
        calls = upstream.journal()
        assert [call.provider for call in calls] == list(PROVIDERS)
        assert calls[2].billed == calls[2].reported == Tokens(prompt=100, candidates=10, written=40)


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "stream"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_name_makes_a_reply(upstream: Upstream, provider: str, streamed: bool) -> None:
    short = {"hang": 0.01, "slow": 0.01, "drip": 0.0, "half_close": 0.01}
    ends = {"hang", "reset_before", "cut_body", "half_close", "reset_body"} | (
        {"stream_stops"} - {"" * streamed}
    )
    names = sorted(name for name in {*NAMES, *OWN} if provider in OWN.get(name, PROVIDERS))
    for name in names:
        upstream.script(Fault(name, seconds=short.get(name)))
        try:
            post(upstream.port, provider, stream=streamed)
        except (OSError, http.client.HTTPException):
            assert name in ends
    assert upstream.wait_idle()
    met = [name if streamed else PLAIN.get(name, name) for name in names]
    assert [call.fault for call in upstream.journal] == met


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "stream"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_huge_and_bomb_are_answers_above_the_cap_without_usage(
    upstream: Upstream, provider: str, streamed: bool
) -> None:
    upstream.script("huge", "gzip_bomb")
    for _ in range(2):
        status, body = post(upstream.port, provider, stream=streamed)
        assert (status, len(body) > CAP, b"sage" in body[-200:]) == (200, True, False)
    assert all(call.billed and not call.usage_sent for call in upstream.journal)


# Inside streams.


def sent(upstream: Upstream, provider: str, fault: Fault) -> tuple[str, Call]:
    upstream.script(fault)
    status, body = post(upstream.port, provider, "red", stream=True)
    assert status == 200
    assert upstream.wait_idle()
    return body.decode("utf-8", "replace"), upstream.journal[-1]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_error_inside_a_stream_bills_what_the_model_had_said(upstream: Upstream, provider: str) -> None:
    body, call = sent(upstream, provider, Fault("stream_error", usage=FIXTURE))
    assert "error" in body
    assert (call.billed.prompt, call.billed.candidates, call.delivered) == (11125, 10, True)
    body, call = sent(upstream, provider, Fault("stream_error", usage=FIXTURE, after=0))
    assert body.count("data:") == 1
    assert (call.billed.prompt, call.billed.candidates, call.billed.thoughts) == (11125, 0, 0)
    assert call.reported is None


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", ["stream_garbage", "stream_stops", "cut_body"])
def test_a_stream_that_loses_its_end_is_billed_in_full(upstream: Upstream, provider: str, name: str) -> None:
    if name == "cut_body":
        with pytest.raises(http.client.IncompleteRead):
            sent(upstream, provider, Fault(name, usage=FIXTURE))
    else:
        body, _ = sent(upstream, provider, Fault(name, usage=FIXTURE))
        assert answer_text(MODELS[provider], "", "red")[:20] in body
    assert upstream.wait_idle()
    call = upstream.journal[-1]
    assert (call.billed, call.usage_sent, is_lost(call)) == (FIXTURE, False, True)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_cut_stream_keeps_as_many_chunks_as_the_fault_says(upstream: Upstream, provider: str) -> None:
    for after in (0, 3):
        upstream.script(Fault("cut_body", after=after))
        with pytest.raises(http.client.IncompleteRead) as caught:
            post(upstream.port, provider, "red", stream=True)
        assert caught.value.partial.decode().count('"gemini' if provider == "gemini" else "delta") >= after
        assert bool(caught.value.partial) is bool(after)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_plain_call_meets_the_counterpart_of_a_fault_of_streams(upstream: Upstream, provider: str) -> None:
    upstream.script("stream_error")
    assert statuses(upstream, provider) == [503]
    assert (upstream.journal[0].fault, upstream.journal[0].billed) == ("unavailable", None)


# Gemini's own client, for what is new in its protocol.


@pytest.fixture
def gemini(upstream: Upstream) -> Iterator[ChatGoogleGenerativeAI]:
    chat = ChatGoogleGenerativeAI(
        model=MODELS["gemini"],
        api_key="loopback",
        base_url=upstream.url,
        max_retries=1,
        timeout=5,
        vertexai=False,
        client_args={"trust_env": False},
    )
    yield chat
    chat.client.close()


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "stream"])
def test_gemini_calls_a_tool_and_answers_its_result_with_words(gemini: Any, streamed: bool) -> None:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    able = gemini.bind_tools([{"name": "weather", "description": "Of a city.", "parameters": city}])
    message = able.invoke("red")
    if streamed:
        first, *rest = able.stream("red")
        message = sum(rest, first)
        assert isinstance(message, AIMessageChunk)
    (call,) = message.tool_calls
    assert (call["name"], list(call["args"])) == ("weather", ["city"])
    done = able.invoke(
        [("human", "red"), message, {"role": "tool", "content": "sun", "tool_call_id": call["id"]}]
    )
    assert (done.text, done.tool_calls) == (answer_text(MODELS["gemini"], "", "red"), [])


def test_gemini_stops_at_a_stop_sequence(gemini: Any) -> None:
    assert gemini.invoke("red", stop=[" answers"]).text == MODELS["gemini"]


def test_an_error_inside_geminis_stream_is_raised_after_what_came_before_it(
    upstream: Upstream, gemini: Any
) -> None:
    upstream.script("stream_error")
    read = []
    with pytest.raises(GoogleAPIError) as caught:
        read.extend(gemini.stream("red"))
    assert (len(read), caught.value.code) == (2, 503)


# The bills.

BOTH: list[tuple[str, str]] = [(provider, model) for provider, prices in LISTS.items() for model in prices]


@pytest.mark.parametrize("prompt", [1000, 150_000], ids=["short", "long"])
@pytest.mark.parametrize(("provider", "model"), BOTH, ids=[model for _, model in BOTH])
def test_the_prices_by_hand_are_those_of_the_price_package(provider: str, model: str, prompt: int) -> None:
    """Only Anthropic bills what it writes to its cache."""
    tokens = Tokens(prompt, cached=300, candidates=50, thoughts=20, written=100 * (provider == "anthropic"))
    if "embedding" in model:
        tokens = Tokens(prompt)
    usage = Usage(
        input_tokens=prompt,
        cache_read_tokens=tokens.cached,
        cache_write_tokens=tokens.written,
        output_tokens=tokens.candidates + tokens.thoughts,
    )
    known = calc_price(usage, model, provider_id={"gemini": "google"}.get(provider, provider))
    call = Call(1, 0.0, model, "generate", "", "", {}, "ok", billed=tokens, provider=provider)
    assert bill(call) == known.total_price * 1_000_000_000


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_bill_is_that_of_the_model_which_served(upstream: Upstream, provider: str) -> None:
    upstream.script(
        Fault("other_model", usage=FIXTURE), Fault("ok", usage=FIXTURE), "unavailable", "no_usage"
    )
    for _ in range(4):
        post(upstream.port, provider)
    other, own, refused, uncounted = upstream.journal
    assert bill(other) > bill(own) > 0 == bill(refused)
    assert is_uncounted(uncounted)
    assert not is_lost(uncounted)
