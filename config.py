"""Settings: the only reader of the environment. A wrong value stops the start with one sentence."""

# Above 300 lines, because every setting stands here once, with how its text is read.

from __future__ import annotations

import base64
import binascii
import math
import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, fields, replace
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values

import rate_windows

VERSION = "0.1.0"
# The day from which version 1 of the API had a successor.
V2_SINCE = date(2026, 11, 23)
ROOT = Path(__file__).resolve().parent
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROVIDERS = ("gemini", "openai", "anthropic")

# Switches by which libraries would move our calls or prompts somewhere else, change them or print them, behind the
# settings' back.
LIBRARY_SWITCHES = (
    "GOOGLE_GENAI_USE_VERTEXAI",
    "GOOGLE_GENAI_USE_ENTERPRISE",
    "GOOGLE_GENAI_HTTP_CLIENT",
    "GOOGLE_GEMINI_BASE_URL",
    "LANGSMITH_GATEWAY",
    "LANGSMITH_TRACING",
    "LANGSMITH_TRACING_V2",
    "LANGCHAIN_TRACING_V2",
    "LC_OUTPUT_VERSION",
    "OPENAI_ORG_ID",
    "OPENAI_ORGANIZATION",
    "OPENAI_PROJECT_ID",
    "OPENAI_CUSTOM_HEADERS",
    "OPENAI_LOG",
    "OPENAI_PROXY",
    "ANTHROPIC_CUSTOM_HEADERS",
    "ANTHROPIC_LOG",
    "ANTHROPIC_PROXY",
)

_ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


SECRET_BYTES = 32
_PLACEHOLDER = re.compile(
    r"change[-_ ]?me|change[-_ ]this|your[-_ ]|placeholder|insecure|example", re.IGNORECASE
)


class ConfigError(ValueError):
    """A setting that the platform cannot start with; the sentence names the variable, never its value."""


def _text(name: str, raw: str) -> str:
    return raw


def plain_key(name: str, raw: str) -> str:
    if not (raw.isascii() and raw.isprintable() and " " not in raw):
        raise ConfigError(f"{name} must be plain letters, digits and signs, without spaces or line breaks.")
    return raw


def _names(name: str, raw: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in raw.split(",") if part.strip())


def _yes_or_no(name: str, raw: str) -> bool:
    if raw.lower() in ("true", "1", "yes", "on"):
        return True
    if raw.lower() in ("false", "0", "no", "off"):
        return False
    raise ConfigError(f"{name} must be true or false.")


def _whole(low: int, high: int) -> Callable[[str, str], int]:
    def read(name: str, raw: str) -> int:
        try:
            number = int(raw)
        except ValueError:
            raise ConfigError(f"{name} must be a whole number from {low} to {high}.") from None
        if not low <= number <= high:
            raise ConfigError(f"{name} must be a whole number from {low} to {high}.")
        return number

    return read


def _seconds(low: float, high: float) -> Callable[[str, str], float]:
    def read(name: str, raw: str) -> float:
        try:
            number = float(raw)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise ConfigError(f"{name} must be a number of seconds from {low:g} to {high:g}.")
        return number

    return read


def _sunset(name: str, raw: str) -> date:
    try:
        day = date.fromisoformat(raw)
    except ValueError:
        day = date.min
    if day < V2_SINCE:
        raise ConfigError(f"{name} must be a date such as 2027-06-30, and not before {V2_SINCE}.")
    return day


def _one_of(*choices: str) -> Callable[[str, str], str]:
    def read(name: str, raw: str) -> str:
        if raw.lower() not in choices:
            raise ConfigError(f"{name} must be one of: {', '.join(choices)}.")
        return raw.lower()

    return read


def _providers(name: str, raw: str) -> tuple[str, ...]:
    named = tuple(part.lower() for part in _names(name, raw))
    if not set(named) <= set(PROVIDERS) or len(set(named)) < len(named):
        raise ConfigError(f"{name} must list some of {', '.join(PROVIDERS)}, each at most once.")
    return named or PROVIDERS


def _rates(name: str, raw: str) -> str:
    try:
        rate_windows.check(raw)
    except ValueError:
        raise ConfigError(
            f"{name} must be a rate such as `10 per minute` or `10 per minute; 500 per day`, over a year at most."
        ) from None
    return raw


def _base_url(name: str, raw: str) -> str:
    return _address(name, raw).rstrip("/")


def _address(name: str, raw: str) -> str:
    try:
        parts = urlsplit(raw)
        fine = bool(parts.hostname) and parts.username is None and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if fine and parts.scheme in ("https", "http"):
        return raw
    raise ConfigError(f"{name} must be an https:// address, or http:// where the server is this machine.")


def _database_url(name: str, raw: str) -> str:
    if not re.match(r"(postgresql(\+psycopg)?|postgres|sqlite)://", raw):
        raise ConfigError(f"{name} must begin with postgresql+psycopg:// or sqlite:///.")
    return raw


def _origins(name: str, raw: str) -> tuple[str, ...]:
    origins = _names(name, raw)
    if not all(_ORIGIN.fullmatch(origin) for origin in origins):
        raise ConfigError(
            f"{name} must list origins such as https://app.example.org, each by name: a pattern or `*` would let "
            "strange web pages spend your budget."
        )
    return origins


def _secret(name: str, raw: str) -> str:
    """A secret that nobody can guess: long, of many characters, and none that stands in an example."""
    if len(raw.encode()) < SECRET_BYTES or len(set(raw)) < 8 or _PLACEHOLDER.search(raw):
        raise ConfigError(
            f"{name} must be a random secret of at least {SECRET_BYTES} characters. `openssl rand -hex 32` makes one."
        )
    return plain_key(name, raw)


def _secrets(name: str, raw: str) -> tuple[str, ...]:
    return tuple(_secret(name, part) for part in _names(name, raw))


def _encryption_keys(name: str, raw: str) -> tuple[str, ...]:
    keys = _names(name, raw)
    if not keys or not all(is_encryption_key(key) for key in keys):
        raise ConfigError(
            f"{name} must list keys as `python cli.py new-encryption-key` prints them, with commas, the newest first."
        )
    return keys


def is_encryption_key(text: str) -> bool:
    """Whether it is the url-safe base64 of 32 bytes."""
    try:
        return len(text) == 44 and len(base64.b64decode(text, altchars=b"-_", validate=True)) == SECRET_BYTES
    except (binascii.Error, ValueError):
        return False


def setting(default: Any, read: Callable[[str, str], Any] = _text, *, secret: bool = False) -> Any:
    """One setting: its value when unset, and how its text is read."""
    return field(default=default, repr=not secret, metadata={"read": read})


@dataclass(frozen=True)
class Settings:
    """Everything that can be set; a field's upper-case name is its environment variable."""

    google_api_key: str = setting("", plain_key, secret=True)
    gemini_model: str = setting("gemini-3.1-flash-lite")
    gemini_fallback_models: tuple[str, ...] = setting(("gemini-3.5-flash-lite",), _names)
    gemini_base_url: str = setting("", _base_url)
    openai_api_key: str = setting("", plain_key, secret=True)
    openai_model: str = setting("gpt-5.4-nano")
    openai_embedding_model: str = setting("text-embedding-3-small")
    openai_base_url: str = setting("", _base_url)
    anthropic_api_key: str = setting("", plain_key, secret=True)
    anthropic_model: str = setting("claude-haiku-5-5")
    anthropic_base_url: str = setting("", _base_url)
    allow_http_providers: bool = setting(False, _yes_or_no)
    llm_providers: tuple[str, ...] = setting(PROVIDERS, _providers)
    llm_timeout_seconds: float = setting(30.0, _seconds(0.1, 3600))
    llm_max_attempts: int = setting(5, _whole(1, 20))
    max_output_tokens: int = setting(8192, _whole(1, 1_000_000))
    max_prompt_chars: int = setting(100_000, _whole(1, 1_000_000))

    host: str = setting("127.0.0.1")
    port: int = setting(5000, _whole(0, 65535))
    threads: int = setting(96, _whole(4, 1000))
    upstream_concurrency: int = setting(64, _whole(1, 1000))
    max_queue: int = setting(200, _whole(1, 100_000))
    drain_seconds: float = setting(35.0, _seconds(0, 3600))
    stream_heartbeat_seconds: float = setting(5.0, _seconds(0.01, 3600))
    allow_anonymous: bool = setting(False, _yes_or_no)
    trusted_proxies: int = setting(0, _whole(0, 10))
    trusted_hosts: tuple[str, ...] = setting((), _names)
    cors_origins: tuple[str, ...] = setting((), _origins)
    api_v1_sunset: date | None = setting(None, _sunset)  # noqa: RUF009  a field, as all of them

    auth: str = setting("open", _one_of("open", "required"))
    api_key_pepper: str = setting("", _secret, secret=True)
    jwt_secret_key: tuple[str, ...] = setting((), _secrets, secret=True)
    access_token_seconds: int = setting(900, _whole(60, 3600))
    refresh_token_seconds: int = setting(1_209_600, _whole(300, 31_536_000))
    admin_bootstrap_token: str = setting("", _secret, secret=True)
    oidc_issuer: str = setting("")
    oidc_audience: str = setting("")
    oidc_jwks_url: str = setting("", _base_url)
    oidc_role_claim: str = setting("role")
    oidc_organisation_claim: str = setting("")
    oidc_organisation: str = setting("")

    cache_max_size: int = setting(1000, _whole(1, 10_000_000))
    cache_ttl_seconds: float = setting(3600.0, _seconds(0, 31_536_000))
    cache_max_bytes: int = setting(67_108_864, _whole(1024, 1 << 40))
    rate_limit: str = setting("10 per minute", _rates)
    rate_limit_reads: str = setting("120 per minute", _rates)
    rate_limit_max_keys: int = setting(100_000, _whole(10, 10_000_000))
    prices_file: str = setting("")
    tiktoken_cache_dir: str = setting(".tiktoken")
    budget_webhook_url: str = setting("", _address, secret=True)
    budget_webhook_secret: str = setting("", _secret, secret=True)

    data_dir: str = setting("data")
    database_url: str = setting("", _database_url, secret=True)
    idempotency_hours: int = setting(24, _whole(1, 8760))
    encryption_keys: tuple[str, ...] = setting((), _encryption_keys, secret=True)

    log_dir: str = setting("logs")
    log_max_bytes: int = setting(10_485_760, _whole(4096, 1 << 40))
    log_backups: int = setting(5, _whole(1, 1000))
    prompt_log: str = setting("off", _one_of("off", "redacted", "full"))
    threat_mode: str = setting("log", _one_of("log", "block"))

    @property
    def mode(self) -> str:
        """`live` with a provider that can be called, else `sandbox`."""
        return "live" if self.providers_at_hand else "sandbox"

    @property
    def providers_at_hand(self) -> tuple[str, ...]:
        """The providers that can be called, in the order of LLM_PROVIDERS. A server of one's own may need no key."""
        keys = {
            "gemini": self.google_api_key,
            "openai": self.openai_api_key or self.openai_base_url,
            "anthropic": self.anthropic_api_key,
        }
        return tuple(name for name in self.llm_providers if keys[name])

    @property
    def on_loopback(self) -> bool:
        return self.host in LOOPBACK

    @property
    def is_exposed(self) -> bool:
        """Whether others can reach the platform and need no key; what comes through a proxy comes from others."""
        return self.auth == "open" and (not self.on_loopback or self.trusted_proxies > 0)

    @property
    def accepted_hosts(self) -> tuple[str, ...] | None:
        """Host names that requests may carry; on this machine only its own names, so no page can rebind them."""
        if self.trusted_hosts:
            return tuple(name.lower() for name in self.trusted_hosts)
        return ("localhost", "127.0.0.1", "[::1]") if self.on_loopback else None

    @property
    def on_postgresql(self) -> bool:
        return self.database_url.startswith("postgres")

    @property
    def database_password(self) -> str:
        try:
            return unquote(urlsplit(self.database_url).password or "")
        except ValueError:
            return ""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must never appear in any output."""
        keys = (self.google_api_key, self.openai_api_key, self.anthropic_api_key)
        own = (
            self.api_key_pepper,
            *self.jwt_secret_key,
            self.admin_bootstrap_token,
            self.budget_webhook_secret,
            *self.encryption_keys,
        )
        return tuple(filter(None, (*keys, *own, self.database_password)))


def load_settings(environ: Mapping[str, str] | None = None, dotenv: Path | None = ROOT / ".env") -> Settings:
    """Settings from the environment, then `.env`, then the defaults. An empty value means the default."""
    environ = os.environ if environ is None else environ
    written = _written(dotenv)
    values: dict[str, Any] = {}
    for entry in fields(Settings):
        name = entry.name.upper()
        raw = (environ[name] if name in environ else written.get(name) or "").strip()
        if raw:
            values[entry.name] = entry.metadata["read"](name, raw)
    return _checked(Settings(**values))


def _written(dotenv: Path | None) -> Mapping[str, str | None]:
    if dotenv is None or not dotenv.is_file():
        return {}
    try:
        return dotenv_values(dotenv)
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            "The file .env cannot be read as UTF-8 text. Write it anew from .env.example."
        ) from None


def _checked(settings: Settings) -> Settings:
    if settings.upstream_concurrency >= settings.threads:
        raise ConfigError(
            "UPSTREAM_CONCURRENCY must be smaller than THREADS, so that cache hits keep a thread."
        )
    _check_addresses(settings)
    _check_accounts(settings)
    _check_webhook(settings)
    if not settings.encryption_keys:  # else they may be kept in the database: checked once they are known
        check_providers(settings)
    return settings


def check_providers(settings: Settings) -> None:
    """Refuse what would start without the provider that was meant. Raises ConfigError."""
    if settings.mode != replace(settings, llm_providers=PROVIDERS).mode:
        raise ConfigError("LLM_PROVIDERS names no provider whose key is set. Add one, or leave it empty.")
    for name, key in (("GEMINI", "GOOGLE"), ("ANTHROPIC", "ANTHROPIC")):
        if getattr(settings, f"{name.lower()}_base_url") and not getattr(settings, f"{key.lower()}_api_key"):
            raise ConfigError(
                f"{name}_BASE_URL needs {key}_API_KEY beside it; any value will do for a test server."
            )


def _check_accounts(settings: Settings) -> None:
    if settings.on_postgresql and settings.auth == "required":
        for name in ("API_KEY_PEPPER", "JWT_SECRET_KEY"):
            if not getattr(settings, name.lower()):
                raise ConfigError(
                    f"{name} must be set where AUTH=required and DATABASE_URL is PostgreSQL: instances have to share it."
                )
    if not _is_private(settings.oidc_jwks_url):
        raise ConfigError(
            "OIDC_JWKS_URL must be an https:// address, or http:// on this machine: who may sign in hangs on it."
        )
    issuer = settings.oidc_issuer, settings.oidc_audience, settings.oidc_jwks_url
    if any(issuer) and not all(issuer):
        raise ConfigError(
            "OIDC_ISSUER, OIDC_AUDIENCE and OIDC_JWKS_URL must be set together, or none of them."
        )
    if settings.oidc_issuer and not (settings.oidc_organisation or settings.oidc_organisation_claim):
        raise ConfigError(
            "OIDC_ORGANISATION must name the organisation of the issuer's users, or OIDC_ORGANISATION_CLAIM the claim that does."
        )


def _check_addresses(settings: Settings) -> None:
    """OPENAI_BASE_URL may stand alone: servers of one's own often ask for no key."""
    addresses = {
        name: getattr(settings, f"{name.lower()}_base_url") for name in ("GEMINI", "OPENAI", "ANTHROPIC")
    }
    for name, address in addresses.items():
        if not (settings.allow_http_providers or _is_private(address)):
            raise ConfigError(
                f"{name}_BASE_URL must be an https:// address; http:// is allowed for this machine, and for others "
                "with ALLOW_HTTP_PROVIDERS=true: keys and prompts then travel for all to read."
            )


def _check_webhook(settings: Settings) -> None:
    if not _is_private(settings.budget_webhook_url):
        raise ConfigError("BUDGET_WEBHOOK_URL must be an https:// address, or http:// on this machine.")
    if bool(settings.budget_webhook_url) != bool(settings.budget_webhook_secret):
        raise ConfigError("BUDGET_WEBHOOK_URL and BUDGET_WEBHOOK_SECRET are set together, or neither.")


def _is_private(address: str) -> bool:
    """Whether nobody on the way can read what is sent there."""
    parts = urlsplit(address)
    return parts.scheme != "http" or parts.hostname in LOOPBACK


def disarm_libraries(environ: MutableMapping[str, str] | None = None) -> None:
    """Take away the environment's switches that would redirect calls or ship prompts elsewhere."""
    environ = os.environ if environ is None else environ
    for name in LIBRARY_SWITCHES:
        environ.pop(name, None)
