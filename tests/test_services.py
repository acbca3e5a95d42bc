"""Where objects meet: the house is built as the settings say, and building it does nothing yet."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from config import ConfigError, Settings
from providers.base import Reply
from services import FAILING, Load, asks_in_air, build_services
from tasks import Usage


class Fake:
    """A provider that answers every model with one line of text."""

    name = "gemini"
    offers: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.warmed = 0

    def models(self, requested, embeds=False):
        return (requested or "fake-1",)

    def call(self, call):
        self.asked.append(call.model)
        return Reply("a line", Usage(1, 1), call.model)

    def retired(self, model):
        """Nothing to note."""

    def warm(self):
        self.warmed += 1


def test_building_starts_no_thread_and_opens_no_file(tmp_path):
    before = threading.active_count()
    services = build_services(Settings(log_dir=str(tmp_path / "logs"), google_api_key="any-key"))
    assert threading.active_count() == before
    assert not (tmp_path / "logs").exists()
    services.close()
    assert not (tmp_path / "logs").exists()


def test_the_key_decides_between_gemini_and_the_sandbox():
    assert build_services(Settings()).chain.name == "sandbox"
    assert build_services(Settings(google_api_key="any-key")).chain.name == "gemini"


def test_the_order_of_the_chain_is_that_of_the_settings_and_a_provider_without_a_key_is_left_out():
    services = build_services(
        Settings(google_api_key="any-key", anthropic_api_key="any-key", llm_providers=("anthropic", "gemini"))
    )
    assert [link.name for link in services.chain.links] == ["anthropic", "gemini"]
    assert services.chain.name == "anthropic"


def test_a_key_that_fails_is_an_error_and_never_a_silent_sandbox(make_house, upstream):
    house = make_house(llm_max_attempts=1)
    upstream.script("forbidden")
    response = house.post("text", {"prompt": "x"})
    assert response.status_code == 502
    assert "sandbox" not in response.text + str(response.headers)


def test_settings_reach_the_objects_they_are_about():
    services = build_services(
        Settings(
            cache_max_size=7, cache_ttl_seconds=9, cache_max_bytes=5000, rate_limit_max_keys=11, threads=40
        )
    )
    stats = services.cache.get_stats()
    assert (stats["max_size"], stats["default_ttl"], stats["max_bytes"]) == (7, 9, 5000)
    assert services.limits.max_size == 11


@pytest.mark.parametrize(("threads", "asks"), [(96, 84), (8, 7), (4, 3), (1000, 875)])
def test_an_eighth_of_the_threads_stays_for_hits_and_health(threads, asks):
    assert asks_in_air(threads) == asks
    assert 1 <= asks < threads


def test_another_provider_can_be_handed_in_and_the_road_goes_through_it(make_house, settings):
    fake = Fake()
    house = make_house(build_services(settings, provider=fake))
    assert house.post("text", {"prompt": "x"}).get_json() == {"generated_text": "a line"}
    assert house.post("text", {"prompt": "x"}).headers["X-Cache-Status"] == "hit"
    assert fake.asked == ["fake-1"]


def test_warming_reaches_the_provider_and_calls_nothing(settings):
    fake = Fake()
    services = build_services(settings, provider=fake)
    services.warm()
    assert (fake.warmed, fake.asked) == (1, [])
    services.close()


def test_checks_are_ok_until_something_fails(settings, tmp_path):
    services = build_services(settings, provider=Fake())
    assert services.checks() == {"provider": "ok", "provider.gemini": "ok", "ledger": "ok", "logs": "ok"}
    services.chain.links[0].provider.failures_in_a_row = FAILING
    failing = {"provider": "degraded", "provider.gemini": "degraded", "ledger": "ok", "logs": "ok"}
    assert services.checks() == failing
    services.close()


def test_logs_that_can_not_be_written_degrade_health_and_break_no_reply(make_house, tmp_path):
    (tmp_path / "file").write_text("in the way")
    house = make_house(google_api_key="", gemini_base_url="", log_dir=str(tmp_path / "file" / "logs"))
    assert house.post("text", {"prompt": "x"}).status_code == 200
    house.services.writer.flush(5)
    health = house.client.get("/api/v1/health")
    assert health.status_code == 200
    assert (health.get_json()["status"], health.get_json()["checks"]["logs"]) == ("degraded", "degraded")
    assert house.post("text", {"prompt": "y"}).status_code == 200


def test_a_prices_file_is_used(make_house, tmp_path, settings):
    (tmp_path / "prices.toml").write_text(
        '[[price]]\nprovider = "gemini"\nmodel = "fake-1"\ninput = "1000"\noutput = "2000"\n'
    )
    services = build_services(replace(settings, prices_file=str(tmp_path / "prices.toml")), provider=Fake())
    response = make_house(services).post("text", {"prompt": "x"})
    assert response.headers["X-Cost-Input"] == "0.001000000"
    assert response.headers["X-Cost-Output"] == "0.002000000"


@pytest.mark.parametrize("content", [None, "not toml at all [", '[[price]]\nmodel = "x"\n'])
def test_a_prices_file_that_is_none_stops_the_start_in_one_sentence(tmp_path, content):
    path = tmp_path / "prices.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"^PRICES_FILE ") as refusal:
        build_services(Settings(prices_file=str(path), log_dir=str(tmp_path)))
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)


def test_closing_writes_what_was_queued(make_house):
    house = make_house(google_api_key="", gemini_base_url="")
    for number in range(50):
        house.post("text", {"prompt": f"number {number}"})
    house.services.close()
    assert len((Path(house.settings.log_dir) / "cost_tracking.log").read_text().splitlines()) == 50


def test_a_new_load_is_idle():
    load = Load()
    assert (load.draining, load.queue_length()) == (False, 0)
