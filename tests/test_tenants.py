"""Callers with keys: what a key allows, and tenants who never meet in cache, flights, limits, reports or feedback."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from api.reports import DESK, Desk
from conftest import House
from identity import OPERATOR, Budget
from security.api_keys import new_secret
from security.guesses import MOST_GUESSES
from tests.account_house import PASSWORD, Hands
from tests.readers import wait_until
from tests.tenants import CLASSIFY, CODE, KEYS, ONE_ID, PROMPT, TEXT, Town, town
from tests.test_auth import injections
from tests.test_tokens import forgeries
from tests.upstream import Upstream

CHAT = "/api/v2/chat/completions"
CONVERSATION = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def here(make_house: Callable[..., House]) -> Town:
    return town(make_house, rate_limit="1000000 per minute")


@pytest.fixture
def live(make_house: Callable[..., House], upstream: Upstream) -> Town:
    """Two tenants in front of the loopback Gemini, with its journal."""
    plain = {"google_api_key": "any-key", "gemini_base_url": upstream.url}
    return town(make_house, rate_limit="1000000 per minute", **plain)


# What is no key.


def test_every_defect_of_a_token_is_one_401(here):
    here.house.services.accounts.create_user(
        "ada", "developer", OPERATOR, organisation=here.home.organisation.id, password=PASSWORD
    )
    signed = here.ask("POST", "/api/v1/auth/token", body={"name": "ada", "password": PASSWORD}).get_json()
    forged = forgeries(signed["access_token"], signed["refresh_token"])
    assert len(forged) >= 25
    bodies = {refused(here, Authorization=f"Bearer {token}") for token in forged.values() if sendable(token)}
    bodies |= {refused(here, X_API_Key=token) for token in forged.values() if sendable(token)}
    for header in ("", "Bearer", "Bearer ", "Token x", f"bearer  {signed['refresh_token']}", "Negotiate x"):
        bodies.add(refused(here, Authorization=header))
    one, other = here.home.text("admin"), here.away.text("admin")
    bodies.add(refused(here, Authorization=f"Bearer {one}", X_API_Key=other))
    bodies.add(refused(here, Authorization=f"Bearer {one}, Bearer {other}"))
    bodies.add(refused(here))
    assert len(bodies) == 1
    assert here.ask("GET", KEYS, signed["access_token"]).status_code == 200


def test_a_thousand_injections_are_one_401(here):
    bodies = set()
    texts = [text.encode("utf-8", "surrogatepass").decode("latin-1") for text in injections(1200)]
    carried = [text for text in texts if sendable(text)]
    assert len(carried) >= 1000
    for number, wire in enumerate(carried):
        header = {"X_API_Key": wire} if number % 2 else {"Authorization": f"Bearer {wire}"}
        bodies.add(refused(here, **header))
    assert len(bodies) == 1
    assert not here.house.lines("api_errors.log") or "Traceback" not in "".join(
        here.house.lines("api_errors.log")
    )
    assert here.ask("GET", KEYS, here.home.text("admin")).status_code == 200


def refused(here: Town, **headers: str) -> bytes:
    reply = here.ask("POST", TEXT, body=PROMPT, **ONE_ID, **headers)
    assert reply.status_code == 401, (headers, reply.text)
    assert reply.headers["WWW-Authenticate"].startswith("Bearer ")
    return reply.data


def sendable(text: str) -> bool:
    """Whether a header can carry it at all; what cannot be sent is the wire's to refuse."""
    return not set(text) & set("\r\n\0")


def test_openais_client_raises_its_own_errors_for_keys_that_are_none_or_may_not(here):
    def ask(key: str) -> None:
        reply = here.ask("POST", CHAT, key, CONVERSATION)
        raise openai.OpenAI(api_key="x")._make_status_error(
            reply.text, body=reply.get_json(), response=_as_httpx(reply)
        )

    with pytest.raises(openai.AuthenticationError) as refusal:
        ask("x")
    assert refusal.value.code == "unauthorized"
    with pytest.raises(openai.PermissionDeniedError) as denied:
        ask(here.home.text("viewer"))
    assert (denied.value.code, denied.value.type) == ("forbidden", "permission_error")


def _as_httpx(reply: Any) -> Any:
    import httpx

    return httpx.Response(
        reply.status_code, content=reply.data, request=httpx.Request("POST", "http://127.0.0.1")
    )


def test_whoever_guesses_is_locked_out_and_nobody_else(here):
    known, unseen = here.home.text("developer"), here.home.text("admin")
    assert here.ask("POST", TEXT, known, PROMPT, address="192.0.2.66").status_code == 200
    for number in range(MOST_GUESSES):
        wrong = f"llm_{number:012x}_{new_secret()}"
        assert here.ask("POST", TEXT, wrong, PROMPT, address="192.0.2.66").status_code == 401
    locked = here.ask("POST", TEXT, f"llm_{'f' * 12}_{new_secret()}", PROMPT, address="192.0.2.66")
    assert (locked.status_code, locked.get_json()["code"]) == (429, "locked_out")
    assert 1 <= int(locked.headers["Retry-After"]) <= 60
    assert here.ask("POST", TEXT, unseen, PROMPT, address="192.0.2.67").status_code == 200
    assert here.ask("POST", TEXT, known, PROMPT, address="192.0.2.66").status_code == 200
    lines = [json.loads(line) for line in here.house.lines("security_audit.log")]
    assert [line["severity"] for line in lines if line["event"] == "AUTH_LOCKOUT"] == ["HIGH"]


# What a key allows.


def test_a_key_does_what_its_scopes_name_and_nothing_else(here):
    _, tasks = here.key(here.home, "developer", scopes=["tasks"])
    _, reports = here.key(here.home, "developer", scopes=["reports"])
    assert [here.ask("POST", TEXT, key, PROMPT).status_code for key in (tasks, reports)] == [200, 403]
    assert [here.ask("GET", "/api/v1/usage", key).status_code for key in (tasks, reports)] == [403, 200]


def test_a_key_ends_at_its_moment(here):
    auth, hands = here.house.services.auth, Hands(time.time())
    auth._clock = auth._timer = hands
    ends = hands.now + 3600
    _, text = here.key(here.home, "developer", expires_us=round(ends * 1_000_000))
    for now, status in ((hands.now, 200), (ends - 0.001, 200), (ends + 0.001, 401)):
        hands.now = now
        assert here.ask("POST", TEXT, text, PROMPT).status_code == status


def test_a_key_has_its_own_limit_for_all_that_it_posts(make_house):
    here = town(make_house, rate_limit="5 per minute")
    _, own = here.key(here.home, "developer", rate_limit="2 per minute")
    first = here.ask("POST", TEXT, own, PROMPT)
    assert (first.headers["RateLimit-Limit"], first.headers["RateLimit-Remaining"]) == ("2", "1")
    assert here.ask("POST", CODE, own, PROMPT).status_code == 200
    for path in (TEXT, CODE, CHAT):
        reply = here.ask("POST", path, own, PROMPT)
        assert reply.status_code == 429
        assert int(reply.headers["Retry-After"]) >= 1
    assert here.ask("GET", "/api/v1/stats", own).get_json()["rate_limit_stats"]["limit"] == "2 per minute"


def test_limits_are_counted_by_key_and_not_by_address(make_house):
    here = town(make_house, rate_limit="2 per minute")
    one, other = here.home.text("developer"), here.home.text("admin")
    for number in range(3):
        reply = here.ask("POST", TEXT, one, PROMPT, address=f"192.0.2.{number}")
        assert reply.status_code == (200 if number < 2 else 429)
    assert here.ask("POST", TEXT, other, PROMPT, address="192.0.2.1").status_code == 200
    assert here.ask("POST", TEXT, here.away.text("admin"), PROMPT, address="192.0.2.1").status_code == 200
    limited = [json.loads(line) for line in here.house.lines("security_audit.log") if "RATE_LIMITED" in line]
    assert [line["key_id"] for line in limited] == [here.home.keys["developer"][0].id]


def test_people_who_are_signed_in_share_the_limit_of_their_tenant_and_no_other(make_house):
    here = town(make_house, rate_limit="2 per minute")
    accounts = here.house.services.accounts
    tokens = {}
    for place, tenant in (("a", here.home), ("b", here.home), ("c", here.away)):
        accounts.create_user(
            place, "developer", OPERATOR, organisation=tenant.organisation.id, password=PASSWORD
        )
        tokens[place] = here.house.services.auth.sign_in(place, PASSWORD, "192.0.2.1").access
    statuses = [here.ask("POST", TEXT, tokens[place], PROMPT).status_code for place in "aabc"]
    assert statuses == [200, 200, 429, 200]


MODELS = ["gemini-3.5-flash-lite"]


def test_a_key_for_some_models_asks_no_other_named_or_not(live, upstream):
    _, text = live.key(live.home, "developer", models=MODELS)
    reply = live.ask("POST", TEXT, text, PROMPT)
    assert (reply.status_code, reply.headers["X-Model"]) == (200, MODELS[0])
    for model in ("gemini-3.1-flash-lite", "gemini/gemini-3.1-flash-lite"):
        refusal = live.ask("POST", TEXT, text, PROMPT | {"model": model})
        assert (refusal.status_code, refusal.get_json()["field"]) == (403, "model")
        assert MODELS[0] in refusal.get_json()["error"]
    assert live.ask("POST", TEXT, text, PROMPT | {"model": f"gemini/{MODELS[0]}"}).status_code == 200
    chat = live.ask("POST", CHAT, text, CONVERSATION | {"model": "gemini-3.1-flash-lite"})
    assert (chat.status_code, chat.get_json()["error"]["param"]) == (403, "model")
    assert {call.model for call in upstream.journal} == set(MODELS)
    listed = live.ask("GET", "/api/v2/models", text).get_json()["data"]
    assert [card["id"] for card in listed] == ["default", *MODELS]


def test_a_key_for_some_models_gets_no_other_model_from_the_cache(live):
    """Not even where a colleague has asked the same before."""
    free, bound = live.home.text("developer"), live.key(live.home, "developer", models=MODELS)[1]
    first = live.ask("POST", TEXT, free, PROMPT)
    named = live.ask("POST", TEXT, free, PROMPT | {"model": "gemini-3.1-flash-lite"})
    assert first.headers["X-Model"] == named.headers["X-Model"] == "gemini-3.1-flash-lite"
    assert live.ask("POST", TEXT, bound, PROMPT).headers["X-Model"] == MODELS[0]
    assert live.ask("POST", TEXT, bound, PROMPT | {"model": "gemini-3.1-flash-lite"}).status_code == 403


def test_a_key_for_models_that_the_platform_does_not_have_is_told_which_it_may_name(live, upstream):
    _, text = live.key(live.home, "developer", models=["gpt-5.4-nano"])
    refusal = live.ask("POST", TEXT, text, PROMPT)
    assert refusal.status_code == 403
    assert "gpt-5.4-nano" in refusal.get_json()["error"]
    assert not upstream.journal


# Tenants.


def test_a_cached_answer_is_its_tenants_alone(live, upstream):
    keys = {tenant: getattr(live, tenant).text("developer") for tenant in ("home", "away")}
    statuses = {
        (tenant, turn): live.ask("POST", TEXT, keys[tenant], PROMPT).headers["X-Cache-Status"]
        for turn in range(2)
        for tenant in keys
    }
    assert statuses == {
        ("home", 0): "miss",
        ("away", 0): "miss",
        ("home", 1): "hit",
        ("away", 1): "hit",
    }
    assert live.ask("POST", TEXT, live.home.text("admin"), PROMPT).headers["X-Cache-Status"] == "hit"
    assert len(upstream.journal) == 2


def test_no_answer_of_a_thousand_is_found_by_another_tenant(here):
    """In every task and with every option: the second tenant pays as the first did."""
    dice = random.Random(5)
    for number in range(500):
        path, body = _some_ask(dice, number)
        for tenant in (here.home, here.away):
            reply = here.ask("POST", path, tenant.text("developer"), body)
            assert (reply.status_code, reply.headers["X-Cache-Status"]) == (200, "miss"), (path, body)


def test_an_id_that_another_tenant_has_sent_too_is_still_ones_own(here):
    """Feedback finds the row by it, and the row is the caller's."""
    for tenant in (here.away, here.home):
        key, body = tenant.text("developer"), {"text": "an invoice", "categories": ["a", "b"]}
        answer = here.ask("POST", CLASSIFY, key, body, X_Request_ID="order-1")
        said = {"request_id": "order-1", "correct_category": answer.get_json()["classification"]}
        told = here.ask("POST", "/api/v1/classify/feedback", key, said)
        assert (told.status_code, told.get_json()["correct"]) == (200, True)
    for tenant in (here.away, here.home):
        exported = here.ask("GET", "/api/v1/usage/export?format=ndjson&hours=1", tenant.text("admin")).text
        assert [json.loads(line)["request_id"] for line in exported.splitlines()] == ["order-1"]


def _some_ask(dice: random.Random, number: int) -> tuple[str, dict[str, Any]]:
    word = f"word {number}"
    kinds: list[tuple[str, dict[str, Any]]] = [
        (TEXT, {"prompt": word}),
        (TEXT, {"prompt": word, "max_tokens": 9}),
        (CODE, {"prompt": word}),
        (CLASSIFY, {"text": word, "categories": ["a", "b"]}),
        (CLASSIFY, {"text": word, "categories": ["a", "b"], "multi_label": True}),
        (CHAT, {"messages": [{"role": "user", "content": word}]}),
    ]
    return dice.choice(kinds)


def test_identical_asks_in_the_air_share_a_flight_within_a_tenant_only(live, upstream):
    upstream.held = True
    callers = [tenant.text(role) for tenant in (live.home, live.away) for role in ("developer", "admin")] * 4

    def ask(key: str) -> str:
        return str(live.ask("POST", TEXT, key, {"prompt": "All at once."}).headers["X-Cache-Status"])

    with ThreadPoolExecutor(len(callers)) as pool:
        asked = [pool.submit(ask, key) for key in callers]
        assert wait_until(lambda: live.house.services.flights.waiting() == 14)
        upstream.held = False
        statuses = [each.result() for each in asked]
    assert len(upstream.journal) == 2
    assert sorted(statuses) == ["coalesced"] * 14 + ["miss"] * 2


def test_what_was_spent_overall_is_the_tenants(live):
    first = live.ask("POST", TEXT, live.home.text("developer"), PROMPT)
    other = live.ask("POST", TEXT, live.away.text("developer"), PROMPT)
    assert first.headers["X-Cost-Overall"] == first.headers["X-Cost-Total"] != "0.000000000"
    assert other.headers["X-Cost-Overall"] == other.headers["X-Cost-Total"]
    again = live.ask("POST", TEXT, live.home.text("admin"), {"prompt": "More."})
    assert float(again.headers["X-Cost-Overall"]) == pytest.approx(
        float(first.headers["X-Cost-Total"]) + float(again.headers["X-Cost-Total"]), abs=1e-9
    )


REPORTS = (
    "/api/v1/stats",
    "/api/v1/usage?group_by=key",
    "/api/v1/usage/export?format=ndjson",
    "/dashboard/data",
)


@pytest.mark.parametrize("path", REPORTS)
def test_reports_show_a_tenant_its_own_and_nothing_of_others(live, path):
    # It stands still, so that no hour ends between two looks; in the hour to come, so that all that was asked is past.
    live.house.app.extensions[DESK] = Desk(clock=Hands(time.time() + 3600))
    mine = [live.ask("POST", TEXT, live.home.text("developer"), {"prompt": f"mine {n}"}) for n in range(3)]
    before = live.ask("GET", path, live.home.text("admin")).text
    for number in range(5):
        live.ask("POST", TEXT, live.away.text("developer"), {"prompt": f"theirs {number}"})
        live.ask("POST", TEXT, live.away.text("viewer"), PROMPT)  # an audit line of theirs
    report = live.ask("GET", path, live.home.text("admin")).text
    theirs = live.ask("GET", path, live.away.text("admin")).text
    for secret in (live.away.organisation.id, *(key.id for key, _ in live.away.keys.values())):
        assert secret not in report
    assert report == before != theirs
    if "export" in path:
        assert {row["request_id"] for row in map(json.loads, report.splitlines())} == {
            reply.headers["X-Request-ID"] for reply in mine
        }


def test_a_stranger_in_open_mode_sees_what_strangers_did(make_house):
    here = town(make_house, auth="open", rate_limit="1000000 per minute")
    here.ask("POST", TEXT, here.home.text("developer"), PROMPT)
    here.ask("POST", TEXT, body=PROMPT)
    assert here.ask("GET", "/api/v1/usage").get_json()["total"]["requests"] == 1
    assert here.ask("GET", "/api/v1/stats").get_json()["usage_stats"]["total_requests"] == 1
    assert len(here.ask("GET", "/api/v1/usage/export?format=ndjson").text.splitlines()) == 1
    assert len(here.ask("GET", "/dashboard/data").get_json()["requests"]) == 1


def test_while_the_ledger_is_away_the_stats_of_this_process_are_the_tenants_too(here):
    for tenant, count in ((here.home, 2), (here.away, 3)):
        for number in range(count):
            here.ask("POST", TEXT, tenant.text("developer"), {"prompt": f"{number}"})
    tracker = here.house.services.tracker
    assert tracker.get_usage_stats()["total_requests"] == 5
    assert tracker.get_usage_stats(tenant=here.home.organisation.id)["total_requests"] == 2
    assert tracker.get_usage_stats(tenant="nobody")["total_requests"] == 0


def test_feedback_is_on_ones_own_classifications_only(here):
    asked = here.ask("POST", CLASSIFY, here.home.text("developer"), {"text": "x", "categories": ["a", "b"]})
    verdict = {"request_id": asked.headers["X-Request-ID"], "correct_category": "a"}
    unknown = verdict | {"request_id": "no-such"}
    path = "/api/v1/classify/feedback"
    other = here.ask("POST", path, here.away.text("developer"), verdict, **ONE_ID)
    nothing = here.ask("POST", path, here.away.text("developer"), unknown, **ONE_ID)
    assert (other.status_code, other.data) == (404, nothing.data)
    assert here.ask("POST", path, here.home.text("admin"), verdict).status_code == 200
    accuracy = {
        tenant: here.ask("GET", "/api/v1/stats", getattr(here, tenant).text("viewer")).get_json()[
            "usage_stats"
        ]["classification_accuracy"]["feedback"]
        for tenant in ("home", "away")
    }
    assert accuracy == {"home": 1, "away": 0}


def test_rows_know_the_tenant_the_key_and_the_user(here):
    here.ask("POST", TEXT, here.home.text("developer"), PROMPT)
    (row,) = map(
        json.loads,
        here.ask("GET", "/api/v1/usage/export?format=ndjson", here.home.text("admin")).text.splitlines(),
    )
    key = here.home.keys["developer"][0]
    assert (row["tenant"], row["key_id"], row["user_id"]) == (key.organisation, key.id, key.user_id)
    (line,) = map(json.loads, here.house.lines("cost_tracking.log"))
    assert (line["tenant"], line["key_id"]) == (key.organisation, key.id)


def test_a_refused_budget_is_the_keys_and_nobody_elses(live, upstream):
    _, text = live.key(live.home, "developer", budget=Budget("", "total", 1))
    refusal = live.ask("POST", TEXT, text, PROMPT)
    assert (refusal.status_code, refusal.get_json()["code"]) == (402, "budget_exceeded")
    assert not upstream.journal
    assert live.ask("POST", TEXT, live.home.text("developer"), PROMPT).status_code == 200
