"""API_V1_SUNSET: version 1 says when it ends and what comes after it, in every reply, and nothing else changes."""

from __future__ import annotations

from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime

import pytest

from config import V2_SINCE, ConfigError, load_settings

NAMES = ("Deprecation", "Sunset", "Link")
END = date(2027, 6, 30)


@pytest.fixture
def ending(make_house):
    return make_house(google_api_key="", gemini_base_url="", api_v1_sunset=END, rate_limit="3 per minute")


def replies_of_version_1(house):
    post, get = house.client.post, house.client.get
    return [
        *(house.post("text", {"prompt": "x"}) for _ in range(4)),  # the fourth is over the limit
        house.post("classify", {"text": "x", "categories": []}),
        post("/api/v1/generate/code", json={"prompt": "x", "stream": True}),
        post("/api/v1/generate/code", data="x"),
        get("/api/v1/generate/code"),
        get("/api/v1/health"),
        get("/api/v1/stats"),
        get("/api/v1/nowhere"),
    ]


def test_every_reply_of_version_1_says_when_it_ends_and_what_comes_after_it(ending):
    replies = replies_of_version_1(ending)
    assert {reply.status_code for reply in replies} == {200, 400, 404, 405, 415, 429}
    for reply in replies:
        since = datetime.fromtimestamp(int(reply.headers["Deprecation"].removeprefix("@")), UTC)
        until = parsedate_to_datetime(reply.headers["Sunset"])
        assert (since.date(), until.date()) == (V2_SINCE, END)
        assert since <= until
        assert reply.headers["Link"] == '</api/v2/swagger/>; rel="successor-version"'
    successor = ending.client.get("/api/v2/swagger/")
    assert successor.status_code == 200


def test_nothing_else_says_so(ending, make_house):
    for path in ("/", "/metrics", "/api/v2/models", "/api/v2/nowhere", "/swagger/"):
        assert not [name for name in NAMES if name in ending.client.get(path).headers]
    endless = make_house(google_api_key="", gemini_base_url="")
    for reply in replies_of_version_1(endless):
        assert not [name for name in NAMES if name in reply.headers]


def test_it_is_set_by_a_date():
    assert load_settings({"API_V1_SUNSET": "2027-06-30"}, dotenv=None).api_v1_sunset == END
    assert load_settings({"API_V1_SUNSET": ""}, dotenv=None).api_v1_sunset is None


@pytest.mark.parametrize("wrong", ["soon", "2027-02-30", "30.06.2027", "1", "2020-01-01", "2027-06-30T00:00"])
def test_a_wrong_date_stops_the_start_with_one_sentence(wrong):
    with pytest.raises(ConfigError) as refusal:
        load_settings({"API_V1_SUNSET": wrong}, dotenv=None)
    assert str(refusal.value).startswith("API_V1_SUNSET must be a date")
    assert wrong not in str(refusal.value) or wrong == "1"
