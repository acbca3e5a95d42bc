"""Rate limits: who is counted, how often they may ask, and that nobody asks more often than that."""

# Above 300 lines, because counting, waiting, forging and the real server share one way to ask.

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace

import pytest
from limits import parse, parse_many
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter

from addresses import caller_of
from api.limiting import LRUStorage
from config import ConfigError, load_settings
from lru_cache import RateLimitCache
from services import build_services
from tests.test_schemas import assert_refused
from tests.test_serve import Platform, start  # noqa: F401  the fixture that starts real servers

TEXT, CODE, STATS = "/api/v1/generate/text", "/api/v1/generate/code", "/api/v1/stats"
PROMPT = {"prompt": "Say hello."}


@pytest.fixture
def limited(make_house):
    """A sandbox with the given limit, or the default one."""

    def build(rate_limit: str = "10 per minute", **settings):
        return make_house(google_api_key="", gemini_base_url="", rate_limit=rate_limit, **settings)

    return build


@pytest.fixture
def timed(make_house, settings):
    """A sandbox whose limits live on a clock of the test's: the house, and the clock in a list."""

    def build(rate_limit: str):
        now = [1000.0]
        wanted = replace(settings, google_api_key="", gemini_base_url="", rate_limit=rate_limit)
        services = replace(build_services(wanted), limits=RateLimitCache(1000, timer=lambda: now[0]))
        return make_house(services), now

    return build


def ask(house, path: str = TEXT, address: str = "127.0.0.1", **headers: str):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return house.client.post(path, json=PROMPT, environ_base={"REMOTE_ADDR": address}, headers=named)


# What is counted.


def test_the_eleventh_request_of_a_minute_is_refused_by_default(limited, upstream):
    house = limited(load_settings({}, None).rate_limit)
    for number in range(10):
        response = ask(house)
        assert response.status_code == 200
        assert response.headers["RateLimit-Limit"] == "10"
        assert response.headers["RateLimit-Remaining"] == str(9 - number)
        assert 1 <= int(response.headers["RateLimit-Reset"]) <= 60
        assert "Retry-After" not in response.headers
    response = ask(house)
    assert_refused(response, 429, "rate_limited")
    assert response.headers["RateLimit-Remaining"] == "0"
    assert response.headers["Retry-After"] == response.headers["RateLimit-Reset"]
    assert 50 <= int(response.headers["Retry-After"]) <= 60


def test_each_limit_header_stands_once(limited):
    house = limited("1 per minute")
    for response in (ask(house), ask(house)):
        for name in ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"):
            assert len(response.headers.getlist(name)) == 1
        assert not [name for name, _ in response.headers if name.startswith("X-RateLimit")]


def test_each_route_has_a_count_of_its_own(limited):
    house = limited("2 per minute")
    assert [ask(house).status_code for _ in range(3)] == [200, 200, 429]
    assert ask(house, CODE).status_code == 200
    assert house.post("classify", {"text": "x", "categories": ["a"]}).status_code == 200
    assert house.client.get(STATS).status_code == 200


def test_each_address_has_a_count_of_its_own(limited):
    house = limited("2 per minute")
    assert [ask(house, address="192.0.2.1").status_code for _ in range(3)] == [200, 200, 429]
    assert [ask(house, address="192.0.2.2").status_code for _ in range(3)] == [200, 200, 429]


def test_a_network_of_ipv6_is_one_caller(limited):
    house = limited("2 per minute")
    near = [ask(house, address=f"2001:db8:1:1::{number:x}").status_code for number in range(1, 4)]
    assert near == [200, 200, 429]
    assert ask(house, address="2001:db8:1:1:ffff:ffff:ffff:ffff").status_code == 429
    assert ask(house, address="2001:db8:1:2::1").status_code == 200


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:DB8:0:0:1::", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("not:an:address", "not:an:address"),
        ("", ""),
    ],
)
def test_callers_by_address(address, caller):
    assert caller_of(address) == caller


def test_addresses_of_ipv4_in_ipv6_clothes_are_not_one_caller():
    """A proxy on a dual-stack socket writes them so; all of IPv4 must not share one count."""
    assert caller_of("::ffff:192.0.2.1") != caller_of("::ffff:198.51.100.7")


def test_hits_errors_and_refused_bodies_count_too(limited):
    house = limited("3 per minute")
    assert ask(house).status_code == ask(house).status_code == 200
    assert house.post("text", {"prompt": 5}).status_code == 400
    assert ask(house).status_code == 429


def test_health_metrics_swagger_and_unknown_paths_are_free(limited):
    house = limited("1 per minute", rate_limit_reads="1 per minute")
    for path in (
        "/api/v1/health",
        "/api/v1/health/live",
        "/api/v1/health/ready",
        "/metrics",
        "/swagger/",
        "/",
        "/nowhere",
    ):
        for _ in range(3):
            response = house.client.get(path)
            assert response.status_code in (200, 404)
            assert "RateLimit-Limit" not in response.headers
    assert ask(house).status_code == 200


def test_routes_that_read_have_a_limit_of_their_own(limited):
    house = limited("1 per minute", rate_limit_reads="3 per minute")
    assert [house.client.get(STATS).status_code for _ in range(4)] == [200, 200, 200, 429]


# Several limits.


def test_of_several_limits_each_holds(timed):
    house, now = timed("2 per minute; 3 per hour")
    assert [ask(house).status_code for _ in range(3)] == [200, 200, 429]
    now[0] += 60
    assert [ask(house).status_code for _ in range(2)] == [200, 429]
    now[0] += 60
    assert ask(house).status_code == 429
    now[0] += 3480
    assert ask(house).status_code == 200


def test_the_headers_show_the_limit_that_is_nearest(timed):
    house, now = timed("2 per minute; 3 per hour")
    first = ask(house)
    assert (first.headers["RateLimit-Limit"], first.headers["RateLimit-Remaining"]) == ("2", "1")
    now[0] += 60
    ask(house)
    now[0] += 60
    third = ask(house)
    assert (third.headers["RateLimit-Limit"], third.headers["RateLimit-Remaining"]) == ("3", "0")
    assert third.headers["RateLimit-Reset"] == str(3600 - 120)


def test_a_refusal_by_several_limits_says_the_wait_after_which_the_request_passes(timed):
    """Refused requests must not use up the shorter limit and hide the longer wait behind it."""
    house, now = timed("2 per minute; 3 per hour")
    for _ in range(3):
        ask(house)
        now[0] += 60
    waits = [int(ask(house).headers["Retry-After"]) for _ in range(4)]
    assert waits == [3600 - 180] * 4
    now[0] += waits[-1]
    assert ask(house).status_code == 200


# The wait.


@pytest.mark.parametrize(("age", "wait"), [(0, 60), (1, 59), (12.3, 48), (59, 1), (59.9, 1)])
def test_retry_after_is_the_true_wait(timed, age, wait):
    house, now = timed("1 per minute")
    assert "Retry-After" not in ask(house).headers
    now[0] += age
    refused = ask(house)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, str(wait))
    now[0] += wait
    assert ask(house).status_code == 200


def test_a_moving_window_gives_no_double_burst_at_the_minutes_edge(timed):
    house, now = timed("2 per minute")
    now[0] += 59
    assert [ask(house).status_code for _ in range(2)] == [200, 200]
    now[0] += 2
    assert ask(house).status_code == 429


def test_refused_requests_do_not_lengthen_the_wait(timed):
    house, now = timed("1 per minute")
    ask(house)
    for _ in range(59):
        now[0] += 1
        assert ask(house).status_code == 429
    now[0] += 1
    assert ask(house).status_code == 200


# Those who would like more.


FORGERIES = (
    "X-Forwarded-For",
    "X-Real-IP",
    "Forwarded",
    "X-Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "Client-IP",
)


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_address_changes_neither_the_count_nor_the_log(limited, name):
    house = limited("2 per minute")
    value = "for=198.51.100.{}" if name == "Forwarded" else "198.51.100.{}"
    assert [ask(house, **{name: value.format(number)}).status_code for number in range(4)] == [
        200,
        200,
        429,
        429,
    ]
    assert "198.51.100" not in "".join(house.lines("api_requests.log"))


def test_a_flood_of_fresh_callers_does_not_free_a_limited_one(limited):
    house = limited("2 per minute", rate_limit_max_keys=10)
    assert [ask(house, address="192.0.2.1").status_code for _ in range(3)] == [200, 200, 429]
    flood = Counter(
        ask(house, address=f"198.51.{number // 250}.{number % 250}").status_code for number in range(500)
    )
    assert set(flood) == {200, 429}
    assert ask(house, address="192.0.2.1").status_code == 429
    assert house.services.limits.size() <= 10


def test_200_requests_of_16_threads_admit_exactly_the_limit(limited):
    house = limited("50 per minute")
    statuses: list[int] = []
    begin = threading.Barrier(16)

    def hammer(share: int) -> None:
        client = house.app.test_client()
        begin.wait(10)
        statuses.extend([client.post(TEXT, json=PROMPT).status_code for _ in range(share)])

    threads = [threading.Thread(target=hammer, args=(13 if number < 8 else 12,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert Counter(statuses) == {200: 50, 429: 150}


# A real server.


def test_on_a_real_server_forged_addresses_have_no_effect(start):  # noqa: F811
    platform: Platform = start(RATE_LIMIT="3 per minute")
    forged = {
        "X_Forwarded_For": "198.51.100.{}, 203.0.113.{}",
        "X_Real_IP": "198.51.100.{}",
        "Forwarded": "for=198.51.100.{}",
        "X_Forwarded_Host": "evil.example",
    }
    for number in range(8):
        headers = {name: value.replace("{}", str(number)) for name, value in forged.items()}
        status = platform.ask("hello", **headers)[0]
        assert status == (200 if number < 3 else 429)
    assert platform.end() == 0
    logged = (platform.log_dir / "api_requests.log").read_text()
    assert "198.51.100" not in logged
    assert "203.0.113" not in logged


def test_one_trusted_proxy_means_that_exactly_the_last_hop_is_believed(start):  # noqa: F811
    platform: Platform = start(RATE_LIMIT="2 per minute", TRUSTED_PROXIES="1", ALLOW_ANONYMOUS="true")
    hops = [f"198.51.100.{number}, 203.0.113.7" for number in range(4)]
    assert [platform.ask("hello", X_Forwarded_For=hop)[0] for hop in hops] == [200, 200, 429, 429]
    fresh = [f"203.0.113.7, 198.51.100.{number}" for number in range(4)]
    assert [platform.ask("hello", X_Forwarded_For=hop)[0] for hop in fresh] == [200] * 4
    assert platform.ask("hello", Forwarded="for=192.0.2.9", X_Real_IP="192.0.2.9")[0] == 200
    assert platform.end() == 0
    logged = (platform.log_dir / "api_requests.log").read_text()
    assert '"203.0.113.7"' in logged
    assert "192.0.2.9" not in logged


# Settings and storage.


@pytest.mark.parametrize("name", ["RATE_LIMIT", "RATE_LIMIT_READS"])
@pytest.mark.parametrize(
    "wrong", ["ten per minute", "10", "10 per fortnight", "per minute", ";", "10 per minute; x"]
)
def test_a_rate_that_is_none_stops_the_start(name, wrong):
    with pytest.raises(ConfigError, match=f"^{name} must be a rate"):
        load_settings({name: wrong}, None)


@pytest.mark.parametrize(
    "right", ["5/second", "10 per minute; 500 per day", "1 per 2 hours", "100/minute,1000/hour"]
)
def test_the_usual_ways_to_write_a_rate_are_understood(right):
    assert parse_many(load_settings({"RATE_LIMIT": right}, None).rate_limit)


def test_the_scheme_of_our_storage_is_known_to_the_library():
    cache = RateLimitCache(10)
    storage = storage_from_string("lru://", cache=cache)
    assert isinstance(storage, LRUStorage)
    limit = MovingWindowRateLimiter(storage)
    assert [limit.hit(parse("2 per minute"), "a") for _ in range(3)] == [True, True, False]
    assert limit.get_window_stats(parse("2 per minute"), "a").remaining == 0
    assert cache.size() == 1


def test_the_rest_of_the_librarys_storage_contract_holds():
    now = [50.0]
    storage = LRUStorage(cache=RateLimitCache(10, timer=lambda: now[0]))
    assert (storage.incr("a", 60), storage.incr("a", 60, amount=2), storage.get("a")) == (1, 3, 3)
    assert storage.check()
    assert storage.base_exceptions == ()
    storage.clear("nothing there")
    storage.reset()
    assert storage.get("a") == 0


def test_clearing_one_key_of_the_storage_frees_its_caller():
    storage = LRUStorage(cache=RateLimitCache(10))
    assert storage.acquire_entry("a", 1, 60)
    assert not storage.acquire_entry("a", 1, 60)
    storage.clear("a")
    assert storage.acquire_entry("a", 1, 60)
