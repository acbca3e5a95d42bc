"""Settings: the only reader of the environment. A wrong value stops the start with one sentence."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values

VERSION = "0.1.0"
ROOT = Path(__file__).resolve().parent
LOOPBACK = ("127.0.0.1", "localhost", "::1")

# Switches by which libraries would move our calls or prompts somewhere else behind the settings' back.
LIBRARY_SWITCHES = (
    "GOOGLE_GENAI_USE_VERTEXAI",
    "GOOGLE_GENAI_USE_ENTERPRISE",
    "GOOGLE_GENAI_HTTP_CLIENT",
    "GOOGLE_GEMINI_BASE_URL",
    "LANGSMITH_GATEWAY",
    "LANGSMITH_TRACING",
    "LANGSMITH_TRACING_V2",
    "LANGCHAIN_TRACING_V2",
)


_ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


class ConfigError(ValueError):
    """A setting that the platform cannot start with; the sentence names the variable, never its value."""


def _text(name: str, raw: str) -> str:
    return raw


def _key(name: str, raw: str) -> str:
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


def _one_of(*choices: str) -> Callable[[str, str], str]:
    def read(name: str, raw: str) -> str:
        if raw.lower() not in choices:
            raise ConfigError(f"{name} must be one of: {', '.join(choices)}.")
        return raw.lower()

    return read


def _rates(name: str, raw: str) -> str:
    from limits import parse_many  # a heavy import, needed only where a limit is set

    try:
        parse_many(raw)
    except ValueError:
        raise ConfigError(
            f"{name} must be a rate such as `10 per minute` or `10 per minute; 500 per day`."
        ) from None
    return raw


def _base_url(name: str, raw: str) -> str:
    try:
        parts = urlsplit(raw)
        fine = bool(parts.hostname) and parts.username is None and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if fine and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)):
        return raw.rstrip("/")
    raise ConfigError(f"{name} must be an https:// address; http:// is allowed for this machine only.")


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


def _open_only(name: str, raw: str) -> str:
    if raw.lower() != "open":
        raise ConfigError(
            f"{name} must be `open`: this version has no accounts yet, so it cannot require them."
        )
    return "open"


def setting(default: Any, read: Callable[[str, str], Any] = _text, *, secret: bool = False) -> Any:
    """One setting: its value when unset, and how its text is read."""
    return field(default=default, repr=not secret, metadata={"read": read})


@dataclass(frozen=True)
class Settings:
    """Everything that can be set; a field's upper-case name is its environment variable."""

    google_api_key: str = setting("", _key, secret=True)
    gemini_model: str = setting("gemini-3.1-flash-lite")
    gemini_fallback_models: tuple[str, ...] = setting(("gemini-3.5-flash-lite",), _names)
    gemini_base_url: str = setting("", _base_url)
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
    auth: str = setting("open", _open_only)
    allow_anonymous: bool = setting(False, _yes_or_no)
    trusted_proxies: int = setting(0, _whole(0, 10))
    trusted_hosts: tuple[str, ...] = setting((), _names)
    cors_origins: tuple[str, ...] = setting((), _origins)

    cache_max_size: int = setting(1000, _whole(1, 10_000_000))
    cache_ttl_seconds: float = setting(3600.0, _seconds(0, 31_536_000))
    cache_max_bytes: int = setting(67_108_864, _whole(1024, 1 << 40))
    rate_limit: str = setting("10 per minute", _rates)
    rate_limit_reads: str = setting("120 per minute", _rates)
    rate_limit_max_keys: int = setting(100_000, _whole(10, 10_000_000))
    prices_file: str = setting("")
    tiktoken_cache_dir: str = setting(".tiktoken")

    data_dir: str = setting("data")
    database_url: str = setting("", _database_url, secret=True)

    log_dir: str = setting("logs")
    log_max_bytes: int = setting(10_485_760, _whole(4096, 1 << 40))
    log_backups: int = setting(5, _whole(1, 1000))
    prompt_log: str = setting("off", _one_of("off", "redacted", "full"))
    threat_mode: str = setting("log", _one_of("log", "block"))

    @property
    def mode(self) -> str:
        """`live` with a provider key, else `sandbox`."""
        return "live" if self.google_api_key else "sandbox"

    @property
    def on_loopback(self) -> bool:
        return self.host in LOOPBACK

    @property
    def accepted_hosts(self) -> tuple[str, ...] | None:
        """Host names that requests may carry; on this machine only its own names, so no page can rebind them."""
        if self.trusted_hosts:
            return tuple(name.lower() for name in self.trusted_hosts)
        return ("localhost", "127.0.0.1", "[::1]") if self.on_loopback else None

    @property
    def database_password(self) -> str:
        try:
            return unquote(urlsplit(self.database_url).password or "")
        except ValueError:
            return ""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must never appear in any output."""
        return tuple(filter(None, (self.google_api_key, self.database_password)))


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
    if settings.gemini_base_url and not settings.google_api_key:
        raise ConfigError(
            "GEMINI_BASE_URL needs GOOGLE_API_KEY beside it; any value will do for a test server."
        )
    return settings


def disarm_libraries(environ: MutableMapping[str, str] | None = None) -> None:
    """Take away the environment's switches that would redirect calls or ship prompts elsewhere."""
    environ = os.environ if environ is None else environ
    for name in LIBRARY_SWITCHES:
        environ.pop(name, None)
