"""security/familiar.py: what was harmless once need not be looked at again, and nothing else is let through."""

import pytest

from security.familiar import Familiar, envelope_of

CURL = {
    "PATH_INFO": "/api/v1/generate/text",
    "HTTP_HOST": "localhost",
    "HTTP_USER_AGENT": "curl/8",
    "HTTP_ACCEPT": "*/*",
}


def test_an_envelope_is_known_once_it_was_remembered():
    familiar = Familiar()
    assert not familiar.knows(envelope_of(CURL))
    familiar.remember(envelope_of(CURL))
    assert familiar.knows(envelope_of(dict(CURL)))


@pytest.mark.parametrize(
    "change",
    [
        {"PATH_INFO": "/api/v1/generate/code"},
        {"HTTP_USER_AGENT": "sqlmap/1.7"},
        {"HTTP_REFERER": "x"},
        {"CONTENT_TYPE": "text/plain"},
        {"HTTP_X_REQUEST_ID": "' OR 1=1--"},
    ],
    ids=str,
)
def test_any_change_makes_it_a_stranger(change):
    familiar = Familiar()
    familiar.remember(envelope_of(CURL))
    assert not familiar.knows(envelope_of({**CURL, **change}))


def test_a_plain_request_id_is_no_change():
    assert envelope_of({**CURL, "HTTP_X_REQUEST_ID": "abc-1"}) == envelope_of(CURL)


@pytest.mark.parametrize(
    "name", ["HTTP_AUTHORIZATION", "HTTP_X_API_KEY", "HTTP_X_GOOG_API_KEY", "HTTP_COOKIE"]
)
def test_what_may_hold_a_secret_is_never_remembered(name):
    assert envelope_of({**CURL, name: "anything"}) is None
    assert envelope_of({**CURL, "QUERY_STRING": "key=anything"}) is None


def test_memory_is_bounded_in_number_and_length():
    familiar = Familiar(size=10)
    for number in range(1000):
        familiar.remember(envelope_of({**CURL, "HTTP_REFERER": str(number)}))
    assert len(familiar._seen) == 10
    assert envelope_of({**CURL, "HTTP_REFERER": "x" * 2000}) is None


def test_an_attack_is_seen_each_time(house):
    for _ in range(3):
        house.client.get("/api/v1/health", headers={"User-Agent": "sqlmap/1.7"})
    assert len(house.lines("security_audit.log")) == 3


def test_an_attack_in_one_header_is_seen_after_harmless_requests_of_the_same_caller(house):
    for _ in range(3):
        house.client.get("/api/v1/health")
    house.client.get("/api/v1/health", headers={"Referer": "<script>alert(1)</script>"})
    assert len(house.lines("security_audit.log")) == 1
