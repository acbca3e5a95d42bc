"""Every failure has a status, a stable code and a sentence of our own; 500 is left to bugs."""

from __future__ import annotations

import re

import pytest

import errors
from errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelUnknown,
    Overloaded,
    PlatformError,
    ProviderUnreachable,
    UpstreamFault,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
)
from providers.base import Call, Reply
from providers.sandbox import SandboxProvider
from services import build_services
from tasks import Usage
from tests.test_pipeline import impatient, records

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PlatformError)]
FAULTS = [kind for kind in KINDS if issubclass(kind, UpstreamFault)]
SECRET = "what the provider said"

# The codes are for programs: they may be added to, never changed.
STATUS_OF = {
    "invalid_input": 400,
    "blocked": 400,
    "unknown_host": 400,
    "model_not_found": 404,
    "unsupported_media_type": 415,
    "overloaded": 503,
    "ledger_unavailable": 503,
    "unknown_request": 404,
    "history_too_short": 409,
    "idempotency_key_in_use": 409,
    "idempotency_key_reused": 422,
    "reply_lost": 503,
    "upstream_error": 502,
    "upstream_rate_limited": 429,
    "upstream_quota_exhausted": 503,
    "no_provider": 503,
    "deadline": 504,
    "upstream_invalid_response": 502,
    "upstream_empty": 502,
    "content_blocked": 422,
    "caller_left": 499,
    "internal_error": 500,
    "budget_exceeded": 402,
    "conflict": 409,
    "forbidden": 403,
    "issuer_unavailable": 503,
    "locked_out": 429,
    "model_without_price": 402,
    "not_found": 404,
    "unauthorized": 401,
}


class Failing(SandboxProvider):
    """A provider that raises what it was given."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure

    def call(self, call: Call) -> Reply:
        raise self._failure


def test_the_codes_and_their_statuses_are_those_that_programs_rely_on():
    assert {(kind.code, kind.status) for kind in KINDS} == set(STATUS_OF.items())


def test_500_belongs_to_our_own_bugs_alone():
    assert [kind for kind in KINDS if kind.status == 500] == [PlatformError]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_failure_speaks_one_stable_word_and_a_sentence_with_a_next_step(kind):
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    sentence = str(kind())
    assert sentence == kind.sentence
    assert sentence.endswith(".")
    assert sentence[0].isupper()
    assert sentence.isascii()
    if kind is not InvalidInput:  # its sentence is always given
        assert re.search(
            r"\b(Try|Wait|Tell|Word|Raise|Leave|Send|Shorten|Remove|Use|Call|Ask|Check)\b|\btry again\b",
            sentence,
        )


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_each_fault_of_a_provider_comes_out_in_its_own_status_without_the_providers_words(
    make_house, settings, kind
):
    fault = kind(detail=SECRET)
    fault.__cause__ = ValueError(SECRET)
    house = make_house(impatient(build_services(settings, provider=Failing(fault))))
    response = house.post("text", {"prompt": "Hello"})
    assert (response.status_code, response.get_json()["code"]) == (kind.status, kind.code)
    if kind is not ModelUnknown:  # it lists what there is
        assert response.get_json()["error"] == kind.sentence
    assert SECRET not in response.text + str(response.headers)
    assert ("Retry-After" in response.headers) == (kind.status in (429, 503))
    assert [record["status"] for record in records(house)] == [kind.status]


def test_the_providers_words_go_to_the_error_log_for_the_operator(make_house, settings):
    house = make_house(build_services(settings, provider=Failing(UpstreamFault(detail=SECRET))))
    house.post("text", {"prompt": "Hello"})
    assert any(SECRET in line for line in house.lines("api_errors.log"))


@pytest.mark.parametrize(
    ("failure", "seconds"),
    [
        (UpstreamRateLimited(), "1"),
        (UpstreamRateLimited(delay=0.2), "1"),
        (UpstreamRateLimited(delay=46.1), "47"),
        (UpstreamQuotaExhausted(delay=3600.0), "3600"),
        (ProviderUnreachable(), "1"),
        (Overloaded(retry_after=7), "7"),
        (UpstreamFault(delay=9.0), None),
        (DeadlineExceeded(delay=9.0), None),
    ],
    ids=repr,
)
def test_retry_after_is_whole_seconds_and_only_where_it_belongs(make_house, settings, failure, seconds):
    house = make_house(build_services(settings, provider=Failing(failure)))
    assert house.post("text", {"prompt": "Hello"}).headers.get("Retry-After") == seconds


def test_a_fault_is_retryable_as_the_provider_says_and_all_else_as_its_kind_says():
    assert UpstreamFault(transient=True).retryable
    assert not UpstreamFault().retryable
    assert Overloaded().retryable
    assert not InvalidInput("Say more.", field="prompt").retryable


def test_a_fault_carries_what_the_bill_needs():
    fault = UpstreamFault(
        "Said otherwise.", usage=Usage(1, 2), model="m", unknown=True, delay=3.0, field="prompt"
    )
    assert str(fault) == "Said otherwise."
    assert (fault.usage, fault.model, fault.unknown, fault.delay) == (Usage(1, 2), "m", True, 3.0)
    assert (fault.field, fault.bill, fault.overall_nano) == ("prompt", None, 0)
