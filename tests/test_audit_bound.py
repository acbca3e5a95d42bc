"""What a caller can cause at will drives nothing of others out of the audit log: it is bounded, and what is left out is counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from conftest import House
from identity import OPERATOR
from security import audit_bound
from security.audit_bound import MOST_COUNTS, MOST_LINES, WINDOW_SECONDS, AuditBound
from tests.account_house import PASSWORD, Hands
from tests.tenants import KEYS, TEXT, Town, town

HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"
SIGN_IN, REVOKE, EXPORT = "/api/v1/auth/token", "/api/v1/auth/revoke", "/api/v1/usage/export"
MORE = MOST_LINES + 20


@pytest.fixture
def here(make_house: Callable[..., House]) -> Town:
    return town(make_house, rate_limit="1000000 per minute")


def lines(here: Town, event: str) -> Counter[str]:
    """How many there are of each address."""
    found = [json.loads(line) for line in here.house.lines("security_audit.log")]
    return Counter(line["address"] for line in found if line["event"] == event)


def left_out(here: Town) -> int:
    exposed = here.house.services.metrics.expose().decode()
    return int(float(exposed.partition("\nllm_audit_lines_left_out_total ")[2].partition("\n")[0]))


def wrong_token(here: Town, address: str) -> int:
    return here.ask("GET", "/api/v1/stats", "eyJ-no-token", address=address).status_code


def beyond_the_scopes(here: Town, address: str) -> int:
    return here.ask("GET", KEYS, here.home.text("viewer"), address=address).status_code


def attack(here: Town, address: str) -> int:
    return here.ask(
        "GET", "/api/v1/stats?x=../../etc/passwd", here.home.text("viewer"), address=address
    ).status_code


def large_body(here: Town, address: str) -> int:
    large = {"CONTENT_LENGTH": "9000000", "REMOTE_ADDR": address}
    key = {"Authorization": f"Bearer {here.home.text('developer')}", "Content-Type": "application/json"}
    return here.house.client.post(TEXT, data=b"{}", headers=key, environ_overrides=large).status_code


def export(here: Town, address: str) -> int:
    reply = here.ask("GET", EXPORT, here.home.text("admin"), address=address)
    assert reply.get_data() is not None
    reply.close()
    return reply.status_code


FLOODS = {
    "AUTH_FAILURE": (wrong_token, 401),
    "AUTHZ_DENIED": (beyond_the_scopes, 403),
    "THREAT_ENVELOPE": (attack, 200),
    "BODY_TOO_LARGE": (large_body, 413),
    "EXPORT_WRITTEN": (export, 200),
}


@pytest.mark.parametrize("event", FLOODS)
def test_a_flood_from_one_address_leaves_a_hundred_lines_and_a_count_of_the_others(here, event):
    flood, status = FLOODS[event]
    assert {flood(here, HERE) for _ in range(MORE)} == {status}
    assert flood(here, ELSEWHERE) == status
    assert lines(here, event) == {HERE: MOST_LINES, ELSEWHERE: 1}
    assert left_out(here) == MORE - MOST_LINES
    assert len(here.house.lines("api_requests.log")) == 2 * (MORE + 1), "the log of requests has all of them"


def test_sessions_that_are_begun_and_ended_over_and_over_are_bounded_too(here, monkeypatch):
    monkeypatch.setattr(audit_bound, "MOST_LINES", 3)  # a password takes a tenth of a second to check
    accounts = here.house.services.accounts
    accounts.create_user("ada", "viewer", OPERATOR, organisation=here.home.organisation.id, password=PASSWORD)
    for _ in range(5):
        body = {"name": "ada", "password": PASSWORD}
        tokens = here.ask("POST", SIGN_IN, body=body, address=HERE).get_json()
        assert (
            here.ask("POST", REVOKE, body={"token": tokens["access_token"]}, address=HERE).status_code == 200
        )
    assert lines(here, "SIGNED_IN") == lines(here, "SESSION_ENDED") == {HERE: 3}
    assert left_out(here) == 4


def test_one_kind_of_line_hides_no_other_and_no_change_is_ever_left_out(here):
    for _ in range(MORE):
        wrong_token(here, HERE)
    assert beyond_the_scopes(here, HERE) == 403
    key = here.home.keys["developer"][0].id
    for number in range(MORE):
        path, body = f"{KEYS}/{key}", {"name": f"name-{number}"}
        assert here.ask("PATCH", path, here.home.text("admin"), body, address=HERE).status_code == 200
    assert lines(here, "AUTHZ_DENIED") == {HERE: 1}
    assert lines(here, "KEY_CHANGED") == {HERE: MORE}


def test_the_bound_is_of_a_minute_and_a_network_and_of_callers_only():
    hands = Hands(1000.0)
    bound = AuditBound(hands)
    admitted = [bound.admits("AUTH_FAILURE", f"2001:db8::{number:x}") for number in range(MORE)]
    assert sum(admitted) == MOST_LINES
    assert bound.admits("AUTH_FAILURE", "2001:db8:0:1::1")
    assert bound.left_out == MORE - MOST_LINES
    hands.now += WINDOW_SECONDS
    assert bound.admits("AUTH_FAILURE", "2001:db8::1")
    assert all(bound.admits("AUTH_FAILURE", None) for _ in range(MORE)), "a command's own lines"


def test_a_flood_from_everywhere_takes_nobody_elses_lines(monkeypatch):
    monkeypatch.setattr(audit_bound, "MOST_COUNTS", 10)
    bound = AuditBound(Hands(1000.0))
    assert all(bound.admits("AUTHZ_DENIED", f"10.0.{number // 256}.{number % 256}") for number in range(1000))
    assert bound._counts.size() == 10
    assert MOST_COUNTS == 10_000
