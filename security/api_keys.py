"""API keys, `llm_<id>_<secret>`: 256 random bits that are shown once, and kept as a digest under a pepper."""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass

_KEY = re.compile(r"llm_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_PREFIX = re.compile(r"llm_[0-9a-f]{12}(?=_)")
# Stands in for what an unknown key would be compared with, so that it takes the same time.
_NOTHING = bytes(32)


@dataclass(frozen=True, slots=True)
class Presented:
    """A key as a caller sends it: well-formed, and not yet known to be good."""

    id: str
    secret: str


def read_key(text: str) -> Presented | None:
    """The parts of a key; None if it has not the shape of one."""
    found = _KEY.fullmatch(text)
    return Presented(found[1], found[2]) if found else None


def prefix_of(text: str) -> str:
    """What logs may show of a key: that which names it and guards nothing."""
    found = _PREFIX.match(text)
    return found[0] if found else ""


def new_id() -> str:
    return secrets.token_hex(6)


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def key_text(key_id: str, secret: str) -> str:
    return f"llm_{key_id}_{secret}"


def mac_of(pepper: bytes, key_id: str, secret: str) -> bytes:
    """HMAC-SHA256: a slow hash is for secrets that people think of, and these have 256 random bits."""
    return hmac.digest(pepper, f"{key_id}_{secret}".encode(), "sha256")


def matches(mac: bytes, kept: bytes | None) -> bool:
    """Whether the digests are equal, in a time that tells nothing; also where there is none to compare with."""
    return hmac.compare_digest(mac, kept or _NOTHING) and kept is not None
