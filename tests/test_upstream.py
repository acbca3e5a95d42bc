"""The loopback provider keeps its word: on the wire, at the real client, and in the journal."""

from __future__ import annotations

import gzip
import http.client
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from google.genai.errors import APIError, UnknownApiResponseError
from langchain_core.messages import AIMessageChunk
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_google_genai.chat_models import (
    ChatGoogleGenerativeAIError,
    GoogleAPIError,
    GoogleAuthenticationError,
    GoogleContextOverflowError,
    GoogleInvalidRequestError,
    GoogleModelNotFoundError,
    GooglePermissionDeniedError,
    GoogleRateLimitError,
)

from tests.servers.ports import free_port
from tests.upstream import (
    CANARY,
    NAMES,
    REFUSED,
    Call,
    Fault,
    Tokens,
    Upstream,
    UpstreamProcess,
    answer_text,
    mark,
)

MODEL = "gemini-3.1-flash-lite"
KEY = "loopback"
FIXTURE = Tokens(prompt=11125, cached=7441, candidates=20, thoughts=409)
SCHEMA = {
    "type": "object",
    "properties": {"category": {"type": "string", "enum": ["bill", "fault", "praise"]}},
    "required": ["category"],
}
CAP = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def running() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(running: Upstream) -> Upstream:
    assert running.wait_idle()
    running.reset()
    running.latency, running.meet = 0.0, 0
    return running


@pytest.fixture(scope="module")
def shared_chat(running: Upstream) -> Iterator[ChatGoogleGenerativeAI]:
    chat = ChatGoogleGenerativeAI(
        model=MODEL,
        api_key=KEY,
        base_url=running.url,
        max_retries=1,
        timeout=5,
        vertexai=False,
        client_args={"trust_env": False, "follow_redirects": False},
    )
    yield chat
    chat.client.close()


@pytest.fixture
def chat(upstream: Upstream, shared_chat: ChatGoogleGenerativeAI) -> ChatGoogleGenerativeAI:
    return shared_chat


def post(
    port: int, prompt: str = "hello", *, verb: str = "generateContent", query: str = "", key: str = KEY
) -> tuple[http.client.HTTPResponse, bytes]:
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": prompt}]}]})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"x-goog-api-key": key} if key else {}
        connection.request("POST", f"/v1beta/models/{MODEL}:{verb}{query}", body, headers)
        reply = connection.getresponse()
        return reply, reply.read()
    finally:
        connection.close()


def get(port: int, path: str, *, key: str = KEY) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"x-goog-api-key": key} if key else {})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not holds() and time.monotonic() < end:
        time.sleep(0.002)
    return holds()


def whole(chat: ChatGoogleGenerativeAI, prompt: str, **options: Any) -> AIMessageChunk:
    first, *rest = chat.stream(prompt, **options)
    for chunk in rest:
        first = first + chunk
    assert isinstance(first, AIMessageChunk)
    return first


# Good answers.


def test_an_answer_is_a_function_of_the_request_and_quotes_the_hash_of_its_prompt(chat: Any) -> None:
    first, again, other = (chat.invoke(prompt).text for prompt in ("red", "red", "blue"))
    assert first == again == answer_text(MODEL, "", "red")
    assert mark("red") in first
    assert mark("red") not in other


def test_model_and_system_change_the_answer() -> None:
    texts = {answer_text(*parts, "red") for parts in ((MODEL, ""), (MODEL, "Be brief."), ("other", ""))}
    assert len(texts) == 3


def test_a_system_that_asks_for_code_gets_a_python_fence(upstream: Upstream, chat: Any) -> None:
    text = chat.invoke([("system", "Write code only."), ("human", "sort a list")]).text
    fenced = text.removeprefix("```python\n").removesuffix("```")
    compile(fenced, "answer", "exec")
    assert (upstream.journal[0].system, upstream.journal[0].prompt) == ("Write code only.", "sort a list")


@pytest.mark.parametrize("field", ["response_json_schema", "response_schema"])
def test_a_schema_is_answered_with_json_that_takes_its_label_from_the_enum(chat: Any, field: str) -> None:
    labels = set()
    for prompt in map(str, range(20)):
        text = chat.invoke(prompt, response_mime_type="application/json", **{field: SCHEMA}).text
        labels.add(json.loads(text)["category"])
    assert labels == {"bill", "fault", "praise"}


def test_usage_arrives_at_the_client_as_sent(upstream: Upstream, chat: Any) -> None:
    upstream.script(Fault("ok", usage=FIXTURE), Fault("ok", usage=FIXTURE))
    for message in (chat.invoke("fixture"), whole(chat, "fixture")):
        usage = message.usage_metadata
        assert usage is not None
        assert (usage["input_tokens"], usage["output_tokens"]) == (11125, 429)
        assert usage["input_token_details"] == {"cache_read": 7441}
        assert usage["output_token_details"] == {"reasoning": 409}
    assert [call.billed for call in upstream.journal] == [FIXTURE, FIXTURE]


def test_some_prompts_are_partly_cached_and_some_take_thought(upstream: Upstream, chat: Any) -> None:
    for number in range(40):
        chat.invoke(f"prompt number {number}")
    billed = [call.billed or Tokens() for call in upstream.journal]
    assert 0 < sum(tokens.cached > 0 for tokens in billed) < 40
    assert 0 < sum(tokens.thoughts > 0 for tokens in billed) < 40
    assert all(tokens.cached < tokens.prompt for tokens in billed)


def test_the_output_limit_bounds_what_is_billed_and_cuts_the_text(upstream: Upstream, chat: Any) -> None:
    message = chat.invoke("a long story", max_output_tokens=8, temperature=0.2)
    assert message.response_metadata["finish_reason"] == "MAX_TOKENS"
    assert message.usage_metadata["output_tokens"] == 8
    assert upstream.journal[0].body["generationConfig"]["maxOutputTokens"] == 8
    assert upstream.journal[0].body["generationConfig"]["temperature"] == 0.2


def test_a_stream_comes_in_chunks_that_add_up_to_the_whole_answer(upstream: Upstream, chat: Any) -> None:
    chunks = [chunk for chunk in chat.stream("red") if chunk.text]
    assert len(chunks) == 4
    assert whole(chat, "red").text == chat.invoke("red").text
    assert [call.method for call in upstream.journal] == ["stream", "stream", "generate"]
    assert len({call.billed for call in upstream.journal}) == 1
    assert all(call.delivered and call.usage_sent for call in upstream.journal)


# Faults, as the real client sees them: the class, the status, and where it is found.

RAISED: list[tuple[str, type[Exception], int]] = [
    ("rate_limited", GoogleRateLimitError, 429),
    ("quota_per_day", GoogleRateLimitError, 429),
    ("internal", GoogleAPIError, 500),
    ("unavailable", GoogleAPIError, 503),
    ("bad_gateway", GoogleAPIError, 502),
    ("gateway_timeout", GoogleAPIError, 504),
    ("request_timeout", ChatGoogleGenerativeAIError, 408),
    ("bad_request", GoogleInvalidRequestError, 400),
    ("bad_key", GoogleInvalidRequestError, 400),
    ("too_long", GoogleContextOverflowError, 400),
    ("forbidden", GooglePermissionDeniedError, 403),
    ("unauthorized", GoogleAuthenticationError, 401),
    ("not_found", GoogleModelNotFoundError, 404),
    ("redirect", APIError, 302),
]


def test_the_table_of_refusals_is_complete() -> None:
    assert {name for name, _, _ in RAISED} == set(REFUSED)


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "stream"])
@pytest.mark.parametrize(("name", "kind", "status"), RAISED, ids=[name for name, _, _ in RAISED])
def test_a_refusal_raises_its_class_and_is_not_billed(
    upstream: Upstream, chat: Any, name: str, kind: type[Exception], status: int, streamed: bool
) -> None:
    upstream.script(name)
    with pytest.raises(kind) as caught:
        whole(chat, "red") if streamed else chat.invoke("red")
    source = caught.value if isinstance(caught.value, APIError) else caught.value.__cause__
    assert isinstance(source, APIError)
    assert source.code == status
    (call,) = upstream.journal
    assert (call.fault, call.status, call.billed, call.delivered) == (name, status, None, True)


def refusal_details(upstream: Upstream, fault: Fault) -> list[dict[str, Any]]:
    upstream.script(fault)
    error = json.loads(post(upstream.port)[1])["error"]
    assert CANARY in error["message"]
    return list(error.get("details", []))


def test_a_rate_limit_says_its_delay_or_nothing_at_all(upstream: Upstream) -> None:
    quota, _, retry = refusal_details(upstream, Fault("rate_limited", delay="7s"))
    assert retry["retryDelay"] == "7s"
    assert "PerMinute" in quota["violations"][0]["quotaId"]
    assert refusal_details(upstream, Fault("rate_limited", delay="")) == []


def test_a_daily_quota_names_the_day(upstream: Upstream) -> None:
    for delay in ("1s", ""):
        quota = refusal_details(upstream, Fault("quota_per_day", delay=delay))[0]
        assert "PerDay" in quota["violations"][0]["quotaId"]


def test_a_fault_may_add_headers(upstream: Upstream) -> None:
    upstream.script(Fault("rate_limited", headers=(("Retry-After", "3"),)))
    assert post(upstream.port)[0].headers["Retry-After"] == "3"


BROKEN: list[tuple[Fault, type[Exception], type[Exception]]] = [
    (Fault("reset_before"), httpx.ReadError, httpx.ReadError),
    (Fault("cut_body"), httpx.RemoteProtocolError, httpx.RemoteProtocolError),
    (Fault("hang"), httpx.ReadTimeout, httpx.ReadTimeout),
    (Fault("drip", seconds=5), httpx.ReadTimeout, httpx.ReadTimeout),
    (Fault("garbage"), json.JSONDecodeError, UnknownApiResponseError),
    (Fault("html"), json.JSONDecodeError, UnknownApiResponseError),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "stream"])
@pytest.mark.parametrize(("fault", "plain", "stream"), BROKEN, ids=[fault.name for fault, _, _ in BROKEN])
def test_a_broken_reply_raises_and_is_billed_without_the_client_knowing(
    upstream: Upstream,
    chat: Any,
    fault: Fault,
    plain: type[Exception],
    stream: type[Exception],
    streamed: bool,
) -> None:
    upstream.script(fault)
    seconds = 0.2 if fault.name in ("hang", "drip") else 5
    with pytest.raises(stream if streamed else plain):
        whole(chat, "red", timeout=seconds) if streamed else chat.invoke("red", timeout=seconds)
    assert upstream.wait_idle()
    (call,) = upstream.journal
    assert call.billed is not None
    assert not call.usage_sent
    assert call.delivered is (fault.name in ("garbage", "html"))


SOFT: list[tuple[str, str, str]] = [
    ("blocked_answer", "", "SAFETY"),
    ("recitation", "", "RECITATION"),
    ("empty", "", "MAX_TOKENS"),
    ("max_tokens", answer_text(MODEL, "", "red")[:20], "MAX_TOKENS"),
    ("no_usage", answer_text(MODEL, "", "red"), "STOP"),
    ("other_model", answer_text(MODEL, "", "red"), "STOP"),
]


@pytest.mark.parametrize(("name", "start", "reason"), SOFT, ids=[name for name, _, _ in SOFT])
def test_a_soft_failure_raises_nothing_and_is_billed(
    upstream: Upstream, chat: Any, name: str, start: str, reason: str
) -> None:
    upstream.script(name)
    message = chat.invoke("red")
    assert message.response_metadata["finish_reason"] == reason
    assert message.text.startswith(start)
    assert bool(message.text) is bool(start)
    billed = upstream.journal[0].billed
    assert billed is not None
    if name == "no_usage":
        assert message.usage_metadata is None
        assert not upstream.journal[0].usage_sent
    else:
        assert message.usage_metadata["output_tokens"] == billed.candidates + billed.thoughts
        assert upstream.journal[0].usage_sent


def test_an_empty_answer_spent_its_limit_on_thoughts(upstream: Upstream, chat: Any) -> None:
    upstream.script("empty")
    message = chat.invoke("red", max_output_tokens=20)
    assert message.usage_metadata["output_token_details"] == {"reasoning": 20}
    billed = upstream.journal[0].billed
    assert billed is not None
    assert (billed.candidates, billed.thoughts) == (0, 20)


@pytest.mark.parametrize("name", ["blocked_prompt", "no_candidates"])
def test_a_reply_without_candidates_bills_the_prompt_alone(upstream: Upstream, chat: Any, name: str) -> None:
    upstream.script(name, name)
    message = chat.invoke("red")
    assert message.text == ""
    assert ("prompt_feedback" in message.response_metadata) is (name == "blocked_prompt")
    body = json.loads(post(upstream.port, "red")[1])
    assert "candidates" not in body
    billed = upstream.journal[0].billed
    assert billed is not None
    assert (billed.candidates, billed.thoughts) == (0, 0)
    assert (
        body["usageMetadata"]["promptTokenCount"] == billed.prompt == body["usageMetadata"]["totalTokenCount"]
    )


def test_another_model_may_serve(upstream: Upstream, chat: Any) -> None:
    upstream.script("other_model", Fault("ok", model="gemini-2.5-flash-lite"))
    names = [chat.invoke("red").response_metadata["model_name"] for _ in range(2)]
    assert names == ["gemini-3.5-flash", "gemini-2.5-flash-lite"]


def test_an_answer_may_say_anything_even_the_words_of_an_error(upstream: Upstream, chat: Any) -> None:
    essay = "An essay on 429 rate limit and RESOURCE_EXHAUSTED."
    upstream.script(Fault("says", text=essay), Fault("says", text='{"category": "weather"}'))
    assert chat.invoke("red").text == essay
    label = chat.invoke("x", response_mime_type="application/json", response_json_schema=SCHEMA).text
    assert label == '{"category": "weather"}'


@pytest.mark.parametrize("body", ["", "[1, 2]"])
def test_a_wrong_schema_is_json_without_any_answer(upstream: Upstream, chat: Any, body: str) -> None:
    upstream.script(Fault("wrong_schema", text=body or None), Fault("wrong_schema", text=body or None))
    assert json.loads(post(upstream.port)[1]) == ([1, 2] if body else {"foo": 1})
    message = chat.invoke("red")
    assert (message.text, message.usage_metadata) == ("", None)


# Faults, on the wire.


def test_a_redirect_that_is_followed_stands_in_the_journal(upstream: Upstream) -> None:
    upstream.script("redirect")
    reply, _ = post(upstream.port)
    assert reply.status == 302
    assert [call.method for call in upstream.journal] == ["generate"]
    get(upstream.port, reply.headers["Location"])
    assert [call.method for call in upstream.journal] == ["generate", "followed"]


def test_a_cut_body_is_half_of_what_its_length_says(upstream: Upstream) -> None:
    upstream.script("cut_body")
    with pytest.raises(http.client.IncompleteRead) as caught:
        post(upstream.port)
    assert abs(len(caught.value.partial) - (caught.value.expected or 0)) <= 1
    assert not upstream.journal[0].delivered


def test_a_stream_cut_after_half_of_its_chunks_reports_the_usage_of_that_half(
    upstream: Upstream, chat: Any
) -> None:
    upstream.script(Fault("cut_body", usage=FIXTURE))
    read = []
    with pytest.raises(httpx.RemoteProtocolError):
        read.extend(chat.stream("red"))
    (call,) = upstream.journal
    assert (call.billed, call.delivered) == (FIXTURE, False)
    assert call.reported == Tokens(prompt=11125, cached=7441, candidates=10, thoughts=409)


def test_a_reset_comes_before_any_byte(upstream: Upstream) -> None:
    upstream.script("reset_before")
    with pytest.raises(ConnectionResetError):
        post(upstream.port)
    assert upstream.journal[0].status is None


def test_a_drip_sends_byte_for_byte(upstream: Upstream) -> None:
    upstream.script(Fault("drip", seconds=0.001))
    _, body = post(upstream.port, "red")
    assert json.loads(body)["candidates"][0]["finishReason"] == "STOP"
    (call,) = upstream.journal
    assert call.delivered
    assert (call.ended or 0) - call.at >= 0.001 * (len(body) - 1)


def test_a_hang_ends_without_a_byte_at_its_bound(upstream: Upstream) -> None:
    upstream.script(Fault("hang", seconds=0.05))
    with pytest.raises(http.client.RemoteDisconnected):
        post(upstream.port)
    assert (upstream.journal[0].status, upstream.journal[0].delivered) == (None, False)


def test_huge_and_bomb_are_answers_above_the_cap_without_usage(upstream: Upstream) -> None:
    upstream.script("huge", "gzip_bomb")
    _, huge = post(upstream.port)
    reply, packed = post(upstream.port)
    assert reply.headers["Content-Encoding"] == "gzip"
    assert len(huge) > CAP
    assert len(packed) < CAP // 100
    opened = gzip.decompress(packed)
    assert len(opened) > CAP
    for body in map(json.loads, (huge, opened)):
        assert set(body) == {"candidates"}
    assert all(call.billed and not call.usage_sent for call in upstream.journal)


def test_slow_and_latency_add_up_and_latency_may_change_while_it_runs(upstream: Upstream) -> None:
    """With the latency of before the second client would give up."""
    upstream.latency = 600.0
    raw = raw_ask(upstream.port)
    assert eventually(lambda: upstream.in_flight == 1)
    raw.close()
    upstream.latency = 0.05
    upstream.script(Fault("slow", seconds=0.05))
    assert post(upstream.port)[0].status == 200
    slow = upstream.journal[-1]
    assert (slow.ended or 0) - slow.at >= 0.1


# Keys and other requests.


def test_a_key_is_required_in_the_header(upstream: Upstream) -> None:
    reply, body = post(upstream.port, key="", query=f"?key={KEY}")
    assert (reply.status, json.loads(body)["error"]["status"]) == (403, "PERMISSION_DENIED")
    assert upstream.journal[0].key_in_url
    post(upstream.port)
    assert not upstream.journal[1].key_in_url


def test_a_bad_key_is_an_invalid_argument_with_its_reason(upstream: Upstream) -> None:
    upstream.script("ok")
    reply, body = post(upstream.port, key="bad-key")
    assert reply.status == 400
    assert json.loads(body)["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert post(upstream.port)[0].status == 200


def test_models_are_listed_and_a_retired_one_is_gone(upstream: Upstream) -> None:
    upstream.retire("gemini-2.0-flash")
    assert f"models/{MODEL}" in {card["name"] for card in get(upstream.port, "/v1beta/models")[1]["models"]}
    assert get(upstream.port, f"/v1beta/models/{MODEL}")[0] == 200
    assert get(upstream.port, "/v1beta/models/gemini-2.0-flash")[0] == 404
    assert get(upstream.port, "/v1beta/models", key="")[0] == 403
    assert get(upstream.port, "/nowhere")[0] == 404
    assert upstream.journal == []


def test_a_retired_model_answers_404_and_leaves_the_script_alone(upstream: Upstream) -> None:
    upstream.retire(MODEL)
    upstream.script("internal")
    assert post(upstream.port)[0].status == 404
    upstream.reset()
    assert post(upstream.port)[0].status == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"contents": []}'])
def test_a_body_that_asks_nothing_is_a_bad_request(upstream: Upstream, body: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=5)
    headers = {"x-goog-api-key": KEY}
    connection.request("POST", f"/v1beta/models/{MODEL}:generateContent", body, headers)
    assert connection.getresponse().status == 400
    connection.close()


def test_bytes_that_are_no_request_are_refused_and_the_connection_closed(upstream: Upstream) -> None:
    with socket.create_connection(("127.0.0.1", upstream.port), timeout=5) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert raw.recv(1024).startswith(b"HTTP/1.1 400")
        assert raw.recv(1024) == b""


# Which fault meets which call.


def test_a_script_is_consumed_in_order_and_then_all_is_well(upstream: Upstream) -> None:
    upstream.script("internal", Fault("ok"), {"name": "rate_limited", "delay": "2s"})
    assert [post(upstream.port)[0].status for _ in range(4)] == [500, 200, 429, 200]
    assert [call.fault for call in upstream.journal] == ["internal", "ok", "rate_limited", "ok"]


def drawn(seed: int, rate: float) -> list[str]:
    with Upstream(seed=seed, fault_rate=rate, menu=("internal", Fault("rate_limited"))) as upstream:
        for _ in range(60):
            post(upstream.port)
        return [call.fault for call in upstream.journal]


def test_the_seeded_choice_is_the_same_in_every_run() -> None:
    assert drawn(7, 0.5) == drawn(7, 0.5)
    assert drawn(7, 0.5) != drawn(8, 0.5)
    assert set(drawn(7, 0.5)) == {"ok", "internal", "rate_limited"}
    assert set(drawn(7, 0.0)) == {"ok"}
    assert "ok" not in drawn(7, 1.0)


def test_an_unknown_fault_is_refused_with_the_names(upstream: Upstream) -> None:
    with pytest.raises(ValueError, match="rate_limited"):
        upstream.script("rate_limit")


# The journal.


def test_the_journal_tells_what_was_asked_and_what_it_costs(upstream: Upstream) -> None:
    before = time.monotonic()
    post(upstream.port, "first")
    post(upstream.port, "second")
    first, second = upstream.journal
    assert (first.number, second.number) == (1, 2)
    assert before <= first.at <= (first.ended or 0) <= second.at
    assert (first.model, first.method, first.prompt, first.status) == (MODEL, "generate", "first", 200)
    assert first.body["contents"][0]["parts"][0]["text"] == "first"
    assert first.billed == first.reported
    assert upstream.calls("second") == upstream.calls(containing="eco") == [second]
    assert Call.from_json(json.loads(json.dumps(first.to_json()))) == first


def test_reset_forgets_calls_script_and_retired_models(upstream: Upstream) -> None:
    post(upstream.port)
    assert upstream.wait_idle()
    upstream.script("internal")
    upstream.retire(MODEL)
    upstream.reset()
    assert (upstream.journal, upstream.max_in_flight, upstream.connections) == ([], 0, 0)
    assert post(upstream.port)[0].status == 200
    assert upstream.journal[0].number == 1


def raw_ask(port: int) -> socket.socket:
    body = b'{"contents": [{"parts": [{"text": "raw"}]}]}'
    raw = socket.create_connection(("127.0.0.1", port), timeout=5)
    head = f"POST /v1beta/models/{MODEL}:generateContent HTTP/1.1\r\nx-goog-api-key: {KEY}\r\n"
    raw.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return raw


def test_what_was_sent_is_in_the_journal_though_the_client_has_left_at_once(upstream: Upstream) -> None:
    upstream.latency = 30
    for number in range(1, 21):
        raw_ask(upstream.port).close()
        assert upstream.wait_idle()
        assert len(upstream.journal) == number


def test_a_client_that_leaves_before_the_reply_was_not_answered(upstream: Upstream) -> None:
    upstream.latency = 30
    raw = raw_ask(upstream.port)
    assert eventually(lambda: upstream.in_flight == 1)
    assert upstream.journal[0].ended is None
    raw.close()
    assert upstream.wait_idle()
    (call,) = upstream.journal
    assert (call.delivered, call.status) == (False, None)
    assert call.billed is not None


def test_a_client_that_leaves_without_reading_the_reply_was_not_answered(upstream: Upstream) -> None:
    raw = raw_ask(upstream.port)
    assert select.select([raw], [], [], 5)[0]
    assert upstream.journal[0].delivered
    raw.close()
    assert eventually(lambda: not upstream.journal[0].delivered)
    assert upstream.journal[0].reported is None


def test_a_stream_left_half_way_reports_what_had_been_sent(upstream: Upstream, chat: Any) -> None:
    upstream.script(Fault("ok", usage=FIXTURE, pause=30.0))
    chunks = chat.stream("red")
    next(chunks)
    chunks.close()
    assert upstream.wait_idle()
    (call,) = upstream.journal
    assert (call.billed, call.delivered) == (FIXTURE, False)
    assert call.reported is not None
    assert 5 <= call.reported.candidates < 20


def test_many_calls_wait_at_once_each_for_its_own_latency(upstream: Upstream) -> None:
    upstream.latency, upstream.meet = 1.0, 200
    threads = [threading.Thread(target=post, args=(upstream.port, f"ask {n}")) for n in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert upstream.max_in_flight == 200
    assert upstream.connections == len(upstream.journal) == 200
    took = [(call.ended or 0) - call.at for call in upstream.journal]
    assert min(took) >= 1.0
    assert sorted(took)[190] < 20  # one after the other they take 200


def test_a_kept_connection_is_counted_once(upstream: Upstream) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=5)
    for _ in range(3):
        connection.request("GET", f"/v1beta/models/{MODEL}", headers={"x-goog-api-key": KEY})
        connection.getresponse().read()
    connection.close()
    assert upstream.connections == 1


# Running.


def test_it_stops_with_calls_in_flight_and_frees_its_port() -> None:
    before = set(threading.enumerate())
    with Upstream(latency=30, port=free_port()) as first:
        raw = raw_ask(first.port)
        assert eventually(lambda: first.in_flight == 1)
    raw.close()
    assert first.in_flight == 0
    assert set(threading.enumerate()) <= before
    with Upstream(port=first.port) as second:
        assert second.url == first.url
        assert post(second.port)[0].status == 200


def test_it_may_go_down_and_come_back_at_the_same_address_with_its_journal() -> None:
    upstream = Upstream(port=free_port())
    for _ in range(2):
        with upstream:
            assert post(upstream.port)[0].status == 200
        with pytest.raises(ConnectionRefusedError):
            post(upstream.port)
    assert [call.number for call in upstream.journal] == [1, 2]


def test_a_taken_port_is_an_error_and_leaves_no_thread(upstream: Upstream) -> None:
    before = set(threading.enumerate())
    with pytest.raises(OSError, match="in use"):
        Upstream(port=upstream.port).__enter__()
    assert set(threading.enumerate()) <= before


def test_as_a_process_it_is_controlled_and_read_over_http() -> None:
    with UpstreamProcess(seed=1, menu=("internal",)) as upstream:
        port = int(upstream.url.rpartition(":")[2])
        usage = {"prompt": 11125, "cached": 7441, "candidates": 20, "thoughts": 409}
        upstream.control(script=["unavailable", {"name": "ok", "usage": usage}], retire=["gemini-2.0-flash"])
        assert [post(port)[0].status for _ in range(2)] == [503, 200]
        assert get(port, "/v1beta/models/gemini-2.0-flash")[0] == 404
        assert [call.billed for call in upstream.journal()] == [None, FIXTURE]
        upstream.control(reset=True, fault_rate=1.0, latency=0.05)
        assert post(port)[0].status == 500
        (call,) = upstream.journal()
        assert (call.ended or 0) - call.at >= 0.05
        assert upstream.state()["max_in_flight"] == 1
        with pytest.raises(ValueError, match="Unknown orders"):
            upstream.control(speed=1)


def test_every_name_makes_a_reply(upstream: Upstream) -> None:
    short = {"hang": 0.01, "slow": 0.01, "drip": 0.0001}
    for name in sorted(NAMES):
        upstream.script(Fault(name, seconds=short.get(name)))
        try:
            post(upstream.port)
        except (OSError, http.client.HTTPException):
            assert name in ("hang", "reset_before", "cut_body")
    assert upstream.wait_idle()
    assert [call.fault for call in upstream.journal] == sorted(NAMES)
