"""The header Idempotency-Key over HTTP: what is served once, what is given again, and what may be tried anew."""

# Above 300 lines: each row of the table in docs/idempotency.md is a promise of its own.

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from api.guard import TABLE, TASKS
from api.idempotency import COSTLY, _digest, caller_of
from config import Settings
from conftest import House
from errors import LedgerUnavailable
from identity import OPERATOR, Identity, Scope
from security.sealing import new_key
from services import build_services
from store.replays import GRACE_SECONDS
from tests.ledger_house import die, rows
from tests.readers import LONG, events, said, wait_until
from tests.streamed import Directed, Served
from tests.test_pipeline import impatient
from tests.test_sse_served import Stage
from tests.upstream import Upstream

PROMPT = {"prompt": "Name three rivers."}
CHAT = {"model": "default", "messages": [{"role": "user", "content": "Hello"}]}
CLASSIFY = {"text": "The invoice is wrong.", "categories": ["billing", "sales"]}
TEXT = "/api/v1/generate/text"
ROUTES = [
    (TEXT, PROMPT),
    ("/api/v1/generate/code", PROMPT),
    ("/api/v1/classify/text", CLASSIFY),
    ("/api/v2/chat/completions", CHAT),
    ("/api/v2/embeddings", {"model": "default", "input": "Hello"}),
]
STREAMS = [
    (TEXT, PROMPT | {"stream": True}),
    ("/api/v2/chat/completions", CHAT | {"stream": True}),
    ("/api/v2/chat/completions", CHAT | {"stream": True, "stream_options": {"include_usage": True}}),
]
# Of this very request, and of how it travels; everything else is as it was.
OWN = {"x-request-id", "ratelimit-remaining", "ratelimit-reset", "content-length"}
MARKS = {"idempotent-replayed", "idempotent-request-id"}


@pytest.fixture(params=["sqlite", "postgresql"])
def each(
    request: pytest.FixtureRequest, make_house: Callable[..., House], settings: Settings
) -> Callable[..., House]:
    """Makes houses on one database: each is what one process of a platform is."""
    address = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")

    def make(provider: Directed | None = None, **changes: Any) -> House:
        changes |= {"database_url": address}
        return make_house(build_services(replace(settings, **changes), provider=provider), **changes)

    return make


@pytest.fixture
def play(make_house: Callable[..., House], settings: Settings) -> Iterator[Stage]:
    """A served house whose provider says what the test wants, and readers."""
    provider, known = Directed(), {"port": 0, "threads": 16, "stream_heartbeat_seconds": 0.02}
    services = build_services(replace(settings, **known), provider=provider)
    house = make_house(services, **known)
    stage = Stage(house, provider, Served(house).__enter__())
    yield stage
    stage.close()


def send(house: House, key: str, body: Any = PROMPT, path: str = TEXT, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    client = house.app.test_client()
    return client.post(path, json=body, headers={"Idempotency-Key": key, **named})


def told(response: Any) -> dict[str, str]:
    return {
        name.lower(): value for name, value in response.headers.items() if name.lower() not in OWN | MARKS
    }


def assert_again(first: Any, again: Any) -> None:
    """The same reply, marked as one that was given before."""
    assert (again.status_code, again.data) == (first.status_code, first.data)
    assert told(again) == told(first)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Idempotent-Request-ID"] == first.headers["X-Request-ID"]
    assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]
    assert "Idempotent-Replayed" not in first.headers


def code(response: Any) -> str:
    told = response.get_json()
    return told["error"]["code"] if isinstance(told["error"], dict) else told["code"]


# Served once.


@pytest.mark.parametrize(("path", "body"), ROUTES + STREAMS)
def test_the_same_request_is_served_once_and_its_reply_given_again_byte_for_byte(
    make_house, upstream, path, body
):
    house = make_house(openai_api_key="any-key", openai_base_url=f"{upstream.url}/v1")
    fresh = {"Cache-Control": "no-cache"}
    first = send(house, "k", body, path, **fresh)
    assert first.status_code == 200, first.text
    first.get_data()
    assert house.services.roads.wait(LONG)
    for _ in range(2):
        assert_again(first, send(house, "k", body, path, **fresh))
    assert len(upstream.journal) == 1
    (row,) = rows(house.services.ledger)
    assert row["request_id"] == first.headers["X-Request-ID"]


def test_every_route_that_costs_money_takes_a_key_and_no_other_one_does(house):
    asking = {name for name, methods in TABLE.items() if methods.get("POST") == TASKS}
    assert asking - {"api_v1.feedback_classify_feedback"} == COSTLY
    assert {rule.endpoint for rule in house.app.url_map.iter_rules()} >= COSTLY


def test_where_nothing_is_spent_the_header_says_nothing(house):
    given = {"request_id": "no-such", "correct_category": "a"}
    for _ in range(2):
        response = send(house, "k" * 300, given, "/api/v1/classify/feedback")
        assert (response.status_code, code(response)) == (404, "unknown_request")
    assert house.client.get("/api/v1/stats", headers={"Idempotency-Key": ""}).status_code == 200


def test_a_reply_from_the_cache_is_given_again_as_one_from_the_cache(house):
    send(house, "a")
    hit = send(house, "b")
    assert hit.headers["X-Cached"] == "true"
    assert_again(hit, send(house, "b"))


def test_a_cached_answer_as_a_stream_is_given_again(house):
    streamed = PROMPT | {"stream": True}
    send(house, "a")
    hit = send(house, "b", streamed)
    assert hit.headers["X-Cached"] == "true"
    assert_again(hit, send(house, "b", streamed))


def test_two_processes_on_one_database_serve_it_once_and_so_does_the_next_one_after_both(each, upstream):
    first_house, second_house = each(), each()
    first = send(first_house, "k")
    assert_again(first, send(second_house, "k"))
    for house in (first_house, second_house):
        house.services.close()
    third = each()
    assert_again(first, send(third, "k"))
    assert len(upstream.journal) == 1
    assert len(rows(third.services.ledger)) == 1


def test_duplicates_at_once_in_two_processes_wait_for_the_first_and_get_its_reply(each, upstream):
    houses = [each(threads=32), each(threads=32)]
    upstream.held = True
    with ThreadPoolExecutor(10) as pool:
        asked: list[Future[Any]] = [
            pool.submit(send, houses[number % 2], f"k{number // 5}", {"prompt": f"{number // 5}"})
            for number in range(10)
        ]
        assert wait_until(lambda: len(upstream.journal) == 2)
        upstream.held = False
        replies = [each.result(LONG) for each in asked]
    assert len(upstream.journal) == 2
    for some in (replies[:5], replies[5:]):
        assert [reply.status_code for reply in some] == [200] * 5
        assert len({reply.data for reply in some}) == 1
        assert sum("Idempotent-Replayed" in reply.headers for reply in some) == 4
    assert len(rows(houses[0].services.ledger)) == 2


def test_a_replay_costs_nothing_and_stands_in_the_log_beside_the_request_whose_reply_it_is(house):
    first = send(house, "k")
    spent = house.services.ledger.overall_nano("anonymous")
    again = send(house, "k", X_Request_ID="my.own")
    assert again.headers["X-Request-ID"] == "my.own"
    assert house.services.ledger.overall_nano("anonymous") == spent > 0
    (line,) = [line for line in house.lines("api_requests.log") if "REQUEST_END" in line and "my.own" in line]
    assert f'"replay_of":"{first.headers["X-Request-ID"]}"' in line.replace(": ", ":")
    assert "llm_replays_total 1.0" in house.client.get("/metrics").text


# Another body, another caller, another route.


def test_another_body_under_the_same_key_is_refused_and_asks_nobody(house, upstream):
    first = send(house, "k")
    for body in ({"prompt": "Name four rivers."}, PROMPT | {"max_tokens": 5}, {"nonsense": 1}):
        response = send(house, "k", body)
        assert (response.status_code, code(response)) == (422, "idempotency_key_reused")
        assert response.get_json()["field"] == "Idempotency-Key"
    assert len(upstream.journal) == 1
    assert_again(first, send(house, "k"))


def test_every_byte_of_the_body_counts(house, upstream):
    """Also where it is as long as the first one, and far behind what it begins with."""
    send(house, "k", {"prompt": "x" * 3000 + "a"})
    response = send(house, "k", {"prompt": "x" * 3000 + "b"})
    assert (response.status_code, code(response)) == (422, "idempotency_key_reused")
    assert len(upstream.journal) == 1


def test_parts_of_a_name_are_told_apart_wherever_they_end():
    assert _digest("ab", "c") != _digest("a", "bc") != _digest("abc", "")


def test_the_same_user_in_two_organisations_is_two_callers():
    """Another issuer may say tomorrow that they belong elsewhere."""
    scopes = frozenset({Scope.TASKS})
    callers = [
        caller_of(
            SimpleNamespace(identity=Identity(tenant, scopes, user_id="oidc-1")),
            SimpleNamespace(remote_addr="192.0.2.1"),
        )
        for tenant in ("t1", "t2")
    ]
    assert len(set(callers)) == 2


def test_a_key_counts_for_one_route(house, upstream):
    send(house, "k")
    other = send(house, "k", path="/api/v1/generate/code")
    assert other.status_code == 200
    assert "Idempotent-Replayed" not in other.headers
    assert len(upstream.journal) == 2


def test_version_2_says_it_in_its_own_shape(house):
    path = "/api/v2/chat/completions"
    send(house, "k", CHAT, path)
    response = send(house, "k", CHAT | {"max_tokens": 3}, path)
    assert response.status_code == 422
    assert response.get_json()["error"]["code"] == "idempotency_key_reused"
    assert response.get_json()["error"]["param"] == "Idempotency-Key"


def test_callers_have_keys_of_their_own(house, upstream):
    accounts = house.services.accounts
    home = accounts.create_organisation("one", OPERATOR)
    elsewhere = accounts.create_organisation("two", OPERATOR)
    ada = accounts.create_user("ada", "developer", OPERATOR, organisation=home.id)
    texts = [
        accounts.create_key("a", "developer", OPERATOR, organisation=home.id, user_id=ada.id)[1],
        accounts.create_key("b", "developer", OPERATOR, organisation=home.id, user_id=ada.id)[1],
        accounts.create_key("c", "developer", OPERATOR, organisation=elsewhere.id, user_id="")[1],
    ]
    seen = set()
    for number, text in enumerate(texts):
        for _ in range(2):
            response = send(house, "k", {"prompt": f"{number}"}, X_API_Key=text)
            assert response.status_code == 200, response.text
            seen.add(response.data)
    anonymous = [send(house, "k", {"prompt": "anonymous"}) for _ in range(2)]
    assert_again(*anonymous)
    assert len(upstream.journal) == 4
    assert len(seen) == 3


def test_anonymous_callers_are_told_apart_by_their_addresses(house, upstream):
    def ask(address: str) -> Any:
        client = house.app.test_client()
        return client.post(
            TEXT, json=PROMPT, headers={"Idempotency-Key": "k", "Cache-Control": "no-cache"},
            environ_base={"REMOTE_ADDR": address},
        )  # fmt: skip

    first, other = ask("192.0.2.1"), ask("192.0.2.2")
    assert "Idempotent-Replayed" not in other.headers
    assert_again(first, ask("192.0.2.1"))
    assert len(upstream.journal) == 2


def test_a_key_that_is_rotated_has_the_replies_of_before(house):
    accounts = house.services.accounts
    home = accounts.create_organisation("one", OPERATOR)
    key, text = accounts.create_key("a", "developer", OPERATOR, organisation=home.id, user_id="")
    first = send(house, "k", X_API_Key=text)
    _, rotated = accounts.rotate_key(key.id, OPERATOR)
    assert_again(first, send(house, "k", X_API_Key=rotated))


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\xe9", "\ttab"])
def test_a_key_that_is_none_is_refused_by_the_name_of_its_header(house, upstream, key):
    response = house.client.post(TEXT, json=PROMPT, headers=[("Idempotency-Key", key)])
    assert (response.status_code, response.get_json()["field"]) == (400, "Idempotency-Key")
    assert upstream.journal == []


@pytest.mark.parametrize("key", ["x", "x" * 255, "a b~!", "018f-uuid"])
def test_keys_are_up_to_255_printable_characters(house, key):
    assert_again(send(house, key), send(house, key))


# What may be tried anew.


def test_what_was_refused_before_a_call_may_be_put_right_under_the_same_key(house, upstream):
    assert send(house, "k", {"prompt": ""}).status_code == 400
    assert send(house, "k", {"prompt": 5}).status_code == 400
    wrong = house.client.post(TEXT, data="{}", headers={"Idempotency-Key": "k", "Content-Type": "text/plain"})
    assert wrong.status_code == 415
    first = send(house, "k")
    assert first.status_code == 200
    assert_again(first, send(house, "k"))
    assert len(upstream.journal) == 1


def test_a_limit_that_is_reached_does_not_use_up_a_key(make_house):
    house = make_house(rate_limit="1 per minute")
    assert send(house, "a").status_code == 200
    assert send(house, "b").status_code == 429
    roomy = make_house()
    assert "Idempotent-Replayed" not in send(roomy, "b").headers
    assert "Idempotent-Replayed" in send(roomy, "a").headers


def test_a_provider_that_refused_unpaid_may_be_asked_again_under_the_same_key(make_house, settings, upstream):
    house = make_house(impatient(build_services(settings), attempts=1))
    upstream.script("unavailable", "rate_limited")
    assert [send(house, "k").status_code for _ in range(2)] == [502, 429]
    first = send(house, "k")
    assert first.status_code == 200
    assert_again(first, send(house, "k"))
    assert len(upstream.journal) == 3


@pytest.mark.parametrize(
    ("fault", "status"), [("blocked_answer", 422), ("empty", 502), ("garbage", 502), ("cut_body", 502)]
)
def test_a_failure_that_was_paid_for_or_may_have_been_is_given_again(
    make_house, settings, upstream, fault, status
):
    house = make_house(impatient(build_services(settings), attempts=1))
    upstream.script(fault)
    first = send(house, "k")
    assert first.status_code == status, first.text
    assert_again(first, send(house, "k"))
    assert len(upstream.journal) == 1
    assert len(rows(house.services.ledger)) == 1


def test_a_bug_of_ours_is_given_again_since_nobody_knows_what_it_cost(make_house, settings):
    provider = Directed()
    provider.fail(ZeroDivisionError("a bug"))
    house = make_house(build_services(settings, provider=provider))
    house.app.testing = False
    first = send(house, "k")
    assert first.status_code == 500
    assert_again(first, send(house, "k"))
    assert len(provider.calls) == 1


# At work.


def test_one_that_is_still_at_work_at_the_end_of_our_own_deadline_is_a_409_with_retry_after(
    make_house, settings
):
    provider = Directed()
    house = make_house(build_services(settings, provider=provider))
    hurried = make_house(llm_timeout_seconds=0.2)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(send, house, "k")
        assert provider.called.acquire(timeout=LONG)
        response = send(hurried, "k")
        assert (response.status_code, code(response)) == (409, "idempotency_key_in_use")
        assert 1 <= int(response.headers["Retry-After"]) <= 30
        assert send(hurried, "k", {"prompt": "another"}).status_code == 422
        provider.say("Rhine")
        provider.end()
        first = asked.result(LONG)
    assert_again(first, send(hurried, "k"))
    assert len(provider.calls) == 1


def test_only_a_quarter_of_the_threads_waits_for_others(make_house, settings):
    provider = Directed()
    house = make_house(
        build_services(replace(settings, threads=8, upstream_concurrency=4), provider=provider)
    )
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(send, house, "k")]
        assert provider.called.acquire(timeout=LONG)
        asked += [pool.submit(send, house, "k") for _ in range(2)]
        assert wait_until(lambda: house.services.gate.in_air == 3)
        response = send(house, "k")
        assert (response.status_code, response.headers["Retry-After"]) == (409, "1")
        provider.say("Rhine")
        provider.end()
        assert {each.result(LONG).data for each in asked} == {b'{"generated_text":"Rhine"}\n'}
        assert house.services.gate.in_air == 0
        asked = [pool.submit(send, house, "next", PROMPT | {"max_tokens": 7})]
        assert provider.called.acquire(timeout=LONG)
        asked += [pool.submit(send, house, "next", PROMPT | {"max_tokens": 7}) for _ in range(2)]
        assert wait_until(lambda: house.services.gate.in_air == 3), "their places are free again"
        provider.say("Elbe")
        provider.end()
        assert {each.result(LONG).data for each in asked} == {b'{"generated_text":"Elbe"}\n'}


def test_when_the_first_is_refused_one_of_those_who_wait_is_served(make_house, settings, upstream):
    house = make_house(impatient(build_services(settings), attempts=1))
    upstream.script("unavailable")
    upstream.held = True
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(send, house, "k") for _ in range(4)]
        assert wait_until(lambda: house.services.gate.in_air == 4)
        upstream.held = False
        replies = [each.result(LONG) for each in asked]
    assert sorted(reply.status_code for reply in replies) == [200, 200, 200, 502]
    assert len(upstream.journal) == 2


def test_a_process_that_died_has_an_unknown_row_and_its_claim_ends_with_its_lease(each, upstream):
    provider = Directed()
    dying, alive = each(provider=provider, llm_timeout_seconds=5), each()
    hurried = each(llm_timeout_seconds=0.3)
    asked = threading.Thread(target=send, args=(dying, "k"), kwargs={"X_Request_ID": "first"}, daemon=True)
    asked.start()
    assert provider.called.acquire(timeout=LONG)
    die(dying.services.ledger)
    alive.services.ledger.start()
    assert send(hurried, "k").status_code == 409
    alive.services.replays._clock = lambda: time.time() + 5 + GRACE_SECONDS
    assert send(alive, "k", X_Request_ID="second").status_code == 200
    states = {row["request_id"]: row["state"] for row in rows(alive.services.ledger)}
    assert states == {"first": "unknown", "second": "settled"}
    assert len(upstream.journal) == 1
    provider.end()
    asked.join(LONG)


def test_whoever_waited_in_vain_for_a_dead_process_is_told_how_long_its_claim_still_holds(each):
    provider = Directed()
    dying, alive = each(provider=provider, llm_timeout_seconds=5), each(llm_timeout_seconds=0.3)
    asked = threading.Thread(target=send, args=(dying, "k"), daemon=True)
    asked.start()
    assert provider.called.acquire(timeout=LONG)
    die(dying.services.ledger)
    begun = time.time()  # time flies, so that the dead one's deadline passes while somebody waits for it
    alive.services.replays._clock = lambda: begun + 1 + (time.time() - begun) * 20
    response = send(alive, "k")
    assert response.status_code == 409
    assert GRACE_SECONDS / 2 < int(response.headers["Retry-After"]) <= GRACE_SECONDS
    provider.end()
    asked.join(LONG)


# The database is away.


def test_without_the_database_a_request_with_a_key_asks_nobody_and_one_without_is_the_ledgers(
    house, upstream
):
    send(house, "before")

    def gone() -> None:
        raise LedgerUnavailable()

    house.services.database._ready = gone
    response = send(house, "k")
    assert (response.status_code, code(response)) == (503, "ledger_unavailable")
    assert "Idempotency-Key" in response.get_json()["error"]
    assert int(response.headers["Retry-After"]) >= 1
    assert len(upstream.journal) == 1
    assert house.post("text", {"prompt": "without"}).status_code == 200


def test_a_reply_that_could_not_be_kept_at_once_is_kept_by_the_keeper(make_house, settings):
    provider = Directed()
    house = make_house(build_services(settings, provider=provider))
    there, gone = house.services.database._ready, threading.Event()

    def ready() -> object:
        if gone.is_set():
            raise LedgerUnavailable()
        return there()

    house.services.database._ready = ready
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(send, house, "k")
        assert provider.called.acquire(timeout=LONG)
        gone.set()
        provider.say("Rhine")
        provider.end()
        first = asked.result(LONG)
    assert first.status_code == 200
    assert house.services.replays.owed == 1
    gone.clear()
    house.services.ledger.tend()
    assert house.services.replays.owed == 0
    assert_again(first, send(house, "k"))


# Sealed.


def test_a_reply_whose_encryption_key_is_lost_is_a_clear_error_and_asks_nobody(make_house, upstream):
    one, other = new_key(), new_key()
    first = send(make_house(encryption_keys=(one,)), "k")
    assert_again(first, send(make_house(encryption_keys=(other, one)), "k"))
    lost = make_house(encryption_keys=(other,))
    response = send(lost, "k")
    assert (response.status_code, code(response)) == (503, "reply_lost")
    assert response.headers["Retry-After"] == "3600"
    assert "operator" in response.get_json()["error"]
    assert "replays" not in response.text
    assert any("ENCRYPTION_KEYS" in line and "replays" in line for line in lost.lines("api_errors.log"))
    assert_again(first, send(make_house(encryption_keys=(one,)), "k"))
    assert len(upstream.journal) == 1


# Streams whose readers leave.


def test_a_stream_whose_reader_leaves_goes_on_to_its_end_and_costs_nothing_when_it_is_read_again(play):
    body, headers = PROMPT | {"stream": True}, {"Idempotency-Key": "k"}
    reader = play.reader(body, headers=headers)
    play.called()
    play.provider.say("Rhine, ")
    reader.head()
    next(reader.events())
    reader.leave()
    play.provider.say("Rhone, ", "Danube")
    play.provider.end()
    (row,) = play.rows()
    assert (row["status"], row["state"]) == (200, "settled")
    assert not play.provider.hung_up.is_set()
    again = send(play.house, "k", body)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Idempotent-Request-ID"] == row["request_id"]
    assert said(events([again.data])) == "Rhine, Rhone, Danube"
    assert len(play.provider.calls) == len(play.rows()) == 1


def test_a_stream_that_breaks_is_given_again_as_it_broke(make_house, settings):
    provider = Directed()
    house = make_house(build_services(settings, provider=provider))
    body = PROMPT | {"stream": True}
    provider.say("Rhine, ")
    provider.fail(ConnectionError("gone"))
    house.app.testing = False
    first = send(house, "k", body)
    first.get_data()
    assert b"event: error" in first.data
    assert house.services.roads.wait(LONG)
    assert_again(first, send(house, "k", body))
    assert len(provider.calls) == 1


def test_a_stream_is_kept_before_its_last_event_goes_out(play):
    body, headers = PROMPT | {"stream": True}, {"Idempotency-Key": "k"}
    reader = play.reader(body, headers=headers)
    play.called()
    play.provider.say("Rhine")
    reader.head()
    told, gate = reader.events(), threading.Event()
    assert next(told) == ("message", {"generated_text": "Rhine"})
    database = play.house.services.database
    there = database._ready
    database._ready = lambda: gate.wait(LONG) and there()
    play.provider.end()
    heard = [next(told)[0] for _ in range(20)]  # though the provider has come to its end
    assert set(heard) == {"comment"}
    gate.set()
    assert [name for name, _ in told if name != "comment"] == ["bill"]
    assert send(play.house, "k", body).headers["Idempotent-Replayed"] == "true"


def test_silences_are_not_given_again(play):
    body, headers = PROMPT | {"stream": True}, {"Idempotency-Key": "k"}
    reader = play.reader(body, headers=headers)
    play.called()
    play.provider.say("Rhine")
    reader.head()
    pieces: Iterator[bytes] = reader._chunks()
    heard = b""
    while b": heartbeat" not in heard:
        heard += next(pieces)
    play.provider.end()
    heard += b"".join(pieces)
    again = send(play.house, "k", body)
    assert again.data == heard.replace(b": heartbeat\n\n", b"")


def test_a_stream_that_fails_before_its_first_piece_may_be_asked_for_again(
    make_house, settings, upstream: Upstream
):
    house = make_house(impatient(build_services(settings), attempts=1))
    upstream.script("unavailable")
    body = PROMPT | {"stream": True}
    assert send(house, "k", body).status_code == 502
    first = send(house, "k", body)
    first.get_data()
    assert house.services.roads.wait(LONG)
    assert_again(first, send(house, "k", body))
