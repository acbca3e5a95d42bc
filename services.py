"""Where objects meet: the only caller of constructors."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from account_services import build_accounts, build_auth
from auth import Authenticator
from config import VERSION, ConfigError, Settings
from cost_tracker import CostTracker, TokenCounter, digest
from enhanced_logging import RequestLogger
from gemini_wrapper import GeminiProvider
from log_writer import LogWriter
from lru_cache import RateLimitCache, ResponseCache
from metrics import Metrics, PrometheusMetrics
from pipeline import Pipeline
from prices import PriceBook
from prices_file import price_book
from provider_keys import with_kept_keys
from providers.anthropic import AnthropicProvider
from providers.asking import Terms
from providers.base import Provider
from providers.breaker import CLOSED, Breaker
from providers.chain import Chain, Link
from providers.gate import Gate, GatedProvider
from providers.openai import OpenAIProvider
from providers.retry import Guard, RetryPolicy
from providers.sandbox import SandboxProvider
from readings import readings
from security.redaction import make_redactor
from security.sealing import Sealing
from single_flight import SingleFlight
from soft_limits import SoftLimits
from store.accounts import Accounts
from store.db import ledger_url
from store.ledger import Ledger
from store.patient import Patient
from store.replays import Replays
from store.rows import storable
from streams import Roads
from tasks import EMBEDDINGS
from webhook import Events, NoEvents, Webhook, http_post

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

# Seconds of log lines that go to disk together: fewer, larger writes leave more of the interpreter to requests.
LOG_LINGER = 0.05
# Of a prompt or answer, where PROMPT_LOG lets them be kept at all.
SHOWN_CHARS = 2048
# So many failed calls in a row, and health says that the provider is failing.
FAILING = 5


@dataclass(slots=True)
class Load:
    """How the server stands; serve.py tells it, app.py acts on it."""

    draining: bool = False
    queue_length: Callable[[], int] = int


@dataclass(frozen=True)
class Services:
    """Everything that a request meets."""

    settings: Settings
    chain: Chain
    pipeline: Pipeline
    prices: PriceBook
    ledger: Ledger
    cache: ResponseCache
    flights: SingleFlight
    gate: Gate
    tracker: CostTracker
    limits: RateLimitCache
    writer: LogWriter
    logger: RequestLogger
    metrics: Metrics
    roads: Roads
    database: Patient
    accounts: Accounts
    auth: Authenticator
    soft_limits: SoftLimits
    events: Events
    replays: Replays
    load: Load = field(default_factory=Load)

    def checks(self) -> dict[str, str]:
        """Each thing that this process depends on: ok, or in which way it is not. Never calls a provider."""
        providers = {f"provider.{link.name}": state_of(link) for link in self.chain.links}
        return {
            # Asks are answered as long as one of them is well.
            "provider": "ok" if "ok" in providers.values() else "degraded",
            **providers,
            "ledger": self.ledger.state,
            "logs": "degraded" if self.writer.failing else "ok",
        }

    def details(self) -> dict[str, str]:
        """Of what is not ok, what an operator has to put right, where that is known."""
        return {"ledger": self.ledger.refusal} if self.ledger.refusal else {}

    def warm(self) -> None:
        """Load what the first caller would otherwise wait for."""
        self.prices.warm()
        self.chain.warm()
        self.auth.warm()

    def close(self) -> None:
        """What is still under way is cut off: whoever stops the house waits for it before."""
        self.ledger.stop()
        self.database.close()
        self.events.close()
        self.logger.close()
        self.writer.close()


def build_services(
    settings: Settings, *, provider: Provider | None = None, providers: Sequence[Provider] = ()
) -> Services:
    """The house as the settings want it, or with other providers; nothing is started yet, and nothing opened but for
    a look at the keys of providers, where those may be kept in the database."""
    settings = with_kept_keys(settings)
    cache = ResponseCache(
        settings.cache_max_size, settings.cache_ttl_seconds, max_bytes=settings.cache_max_bytes
    )
    limits = RateLimitCache(settings.rate_limit_max_keys)
    flights, writer = SingleFlight(), LogWriter(linger=LOG_LINGER, redact=make_redactor(settings.secrets))
    gate = Gate(settings.upstream_concurrency, asks_in_air(settings.threads))
    providers = providers or ((provider,) if provider else _providers(settings))
    known_models = [model for each in providers for model in models_of(each)]
    metrics = PrometheusMetrics(VERSION, settings.mode, known_models)
    chain = _chain(settings, providers, gate, metrics)
    counter = TokenCounter(settings.tiktoken_cache_dir)
    prices = price_book(settings.prices_file)
    sealing = Sealing(settings.encryption_keys)
    logger, events = _logger(settings, writer), _events(settings)
    soft_limits = SoftLimits(logger.log_security_event, metrics.soft_limit_reached, events)
    ledger = _ledger(settings, soft_limits, sealing)
    tracker = _tracker(settings, writer, counter, ledger)
    pipeline = Pipeline(
        chain=chain,
        terms=Terms(RetryPolicy(settings.llm_max_attempts), settings.max_output_tokens),
        cache=cache,
        flights=flights,
        gate=gate,
        prices=prices,
        tracker=tracker,
        ledger=ledger,
        metrics=metrics,
        estimate=counter.count_tokens,
    )
    database = Patient(_database_url(settings), ledger.check_database)
    replays = Replays(database, sealing, hours=settings.idempotency_hours)
    ledger.chores.append(replays.tend)
    accounts = build_accounts(settings, database, logger.log_security_event)
    auth = build_auth(settings, database, accounts, logger.log_security_event, later=_in_background)
    services = Services(
        settings,
        chain,
        pipeline,
        prices,
        ledger,
        cache,
        flights,
        gate,
        tracker,
        limits,
        writer,
        logger,
        metrics,
        Roads(),
        database,
        accounts,
        auth,
        soft_limits,
        events,
        replays,
    )
    metrics.read_from(functools.partial(readings, services))
    return services


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="later", daemon=True).start()


def asks_in_air(threads: int) -> int:
    """How many asks may wait for providers, so that an eighth of the threads stays for hits and health."""
    return threads - max(1, threads // 8)


def state_of(link: Link) -> str:
    """A provider's state in a word: that of its breaker, where it lets calls through only now and then."""
    if link.guard.breaker.state != CLOSED:
        return link.guard.breaker.state
    return "degraded" if link.provider.failures_in_a_row >= FAILING else "ok"


def _providers(settings: Settings) -> tuple[Provider, ...]:
    adapters: dict[str, Callable[[Settings], Provider]] = {
        "gemini": GeminiProvider.from_settings,
        "openai": OpenAIProvider.from_settings,
        "anthropic": AnthropicProvider.from_settings,
    }
    return tuple(adapters[name](settings) for name in settings.providers_at_hand) or (SandboxProvider(),)


def models_of(provider: Provider | GatedProvider) -> Sequence[str]:
    """The models that a provider is configured with, for texts and for embeddings."""
    embedding = provider.models(None, True) if EMBEDDINGS in provider.offers else ()
    return (*provider.models(None), *embedding)


def _chain(settings: Settings, providers: Sequence[Provider], gate: Gate, metrics: Metrics) -> Chain:
    links = [
        Link(GatedProvider(provider, gate, metrics), Guard(Breaker(provider.name))) for provider in providers
    ]
    return Chain(links, catch_all="openai" if settings.openai_base_url else "")


def waiting_seats(threads: int) -> tuple[int, int]:
    """How many asks may wait for what calls in flight hold of their budgets: half of those in the air, and a quarter for
    the asks of one budget."""
    asks = asks_in_air(threads)
    return max(1, asks // 2), max(1, asks // 4)


def _database_url(settings: Settings) -> URL:
    try:
        return ledger_url(settings.database_url, settings.data_dir)
    except ValueError as wrong:
        raise ConfigError(f"DATABASE_URL {wrong}.") from None


def _ledger(settings: Settings, soft_limits: SoftLimits, sealing: Sealing) -> Ledger:
    return Ledger(
        _database_url(settings),
        settings.data_dir,
        lease_seconds=settings.llm_timeout_seconds,
        kept_text=_kept_text(settings, sealing),
        seats=waiting_seats(settings.threads),
        on_soft_limit=soft_limits.reached,
    )


def _kept_text(settings: Settings, sealing: Sealing) -> Callable[[str], str | None]:
    """What a row keeps of a prompt or answer."""
    if settings.prompt_log == "off":
        return lambda _: None
    return lambda text: sealing.seal_text(storable(text))


def _events(settings: Settings) -> Events:
    if not settings.budget_webhook_url:
        return NoEvents()
    return Webhook(settings.budget_webhook_secret, http_post(settings.budget_webhook_url))


def _tracker(settings: Settings, writer: LogWriter, counter: TokenCounter, ledger: Ledger) -> CostTracker:
    path = Path(settings.log_dir) / "cost_tracking.log"
    channel = writer.channel(path, settings.log_max_bytes, settings.log_backups)
    return CostTracker(channel=channel, counter=counter, shown=_shown(settings), sink=ledger.close)


def _shown(settings: Settings) -> Callable[[str], str]:
    """How much of a text a cost record keeps."""
    redact = make_redactor(settings.secrets)
    return {
        "off": digest,
        "redacted": lambda text: redact(text)[:SHOWN_CHARS],
        "full": lambda text: text[:SHOWN_CHARS],
    }[settings.prompt_log]


def _logger(settings: Settings, writer: LogWriter) -> RequestLogger:
    return RequestLogger(
        settings.log_dir,
        writer=writer,
        prompt_log=settings.prompt_log,
        max_bytes=settings.log_max_bytes,
        backups=settings.log_backups,
    )
