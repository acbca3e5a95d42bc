"""Takes secrets out of texts and records before they reach a log, an error or an export."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Set
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote, unquote

MARK = "[redacted]"
FIELD_BYTES = 2048
_SHORTEST_SECRET = 6
_LONGEST_FRAGMENT = 512
_READ_AT_MOST = 16_384  # characters of one field, before it is cut to FIELD_BYTES
_SHORT = FIELD_BYTES // 4  # characters that fit however they are encoded
_DEPTH, _ITEMS = 5, 50

Redact = Callable[[str], str]

# Most texts hold no secret. Each rule below needs one of these words, and looking for plain words is
# ten times as quick as one pattern of them all.
_HINTS = (
    "aiza", "sk-", "llm_", "eyj", "aq.", "://", "key", "token", "secret", "passw", "passphrase", "pwd",
    "bearer", "basic", "auth", "sig", "credential", "cookie", "jwt",
)  # fmt: skip
_URL_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^\s/]+@")
_SCHEME = re.compile(
    r"\b((?:bearer)(?:\s|%20|\+){1,4})[\"']?[^\s\"'&<>]+"
    r"|\b((?:basic)(?:\s|%20|\+){1,4})[\"']?[\w+/=%.~-]{6,}",
    re.IGNORECASE,
)
_QUOTE = r"\\{0,2}[\"']"
_SEPARATOR = rf"(?:(?:{_QUOTE})?\s{{0,3}}(?:=>?|:|%3d|%3a)\s{{0,3}}|{_QUOTE},\s?(?=b?[\"']))"
_WHOLE_LINE = re.compile(
    rf"((?:authorization|cookie){_SEPARATOR}(?:b?{_QUOTE})?)[^\"'\r\n]+",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"((?:(?:(?<![a-z])|(?<=%[0-9a-f][0-9a-f]))(?:key|auth|jwt|sig)"
    r"|api[_-]?key|private[_-]?key|token|secret|passw(?:or)?d|passphrase|pwd|credentials?|signature)"
    rf"{_SEPARATOR})"
    # A quoted value need not be closed: always matching is what keeps the time linear.
    rf"(?:b?(\\{{0,2}}\")[^\"]*\"?|b?(\\{{0,2}}')[^']*'?|[^\s&\"'<>]+)",
    re.IGNORECASE,
)
_SHAPES = re.compile(
    r"AIza[\w-]{4,}"
    r"|(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt]))sk-[\w-]{8,}"
    r"|sk-(?=[A-Za-z_-]{0,40}[0-9])[\w-]{16,}"  # glued to a word, so it has to look like a key
    r"|llm_[A-Za-z0-9-]{1,64}_[\w.~+/=-]{16,}"
    r"|AQ\.[\w-]{16,}"
    r"|eyJ[\w-]{5,}(?:\.[\w-]*){0,4}"
)


def redact(text: str) -> str:
    """The text without anything that has the shape or the name of a secret, in linear time."""
    if not _may_hold_a_secret(text):
        return text
    text = _URL_PASSWORD.sub(rf"\1{MARK}@", text)
    text = _SCHEME.sub(lambda found: f"{found[1] or found[2]}{MARK}", text)
    text = _WHOLE_LINE.sub(rf"\1{MARK}", text)
    text = _NAMED.sub(_without_value, text)
    return _SHAPES.sub(MARK, text)


def _without_value(found: re.Match[str]) -> str:
    quotes = found[2] or found[3] or ""
    return f"{found[1]}{quotes}{MARK}{quotes}"


def _may_hold_a_secret(text: str) -> bool:
    lowered = text.lower()
    for hint in _HINTS:  # noqa: SIM110 - a plain loop is twice as quick as any() here
        if hint in lowered:
            return True
    return False


def make_redactor(secrets: Iterable[str]) -> Redact:
    """`redact` that also knows the exact values of the configured secrets, whatever their shape.

    Of a value that is a URL with a password, the password alone is known too. Values below six
    characters are left out: they would take ordinary words out of every line.
    """
    known = sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)

    def redact_known(text: str) -> str:
        for secret in known:
            if secret in text:
                text = text.replace(secret, MARK)
        return redact(text)

    return redact_known


def _forms(secret: str) -> set[str]:
    """How the secret may be spelt: as it is, in a URL, in JSON; and the password inside a URL."""
    found = re.search(r"://[^/\s:@]*:([^\s/]+)@", secret)
    values = {secret, found[1], unquote(found[1])} if found else {secret}
    spelt = {form for value in values for form in (value, quote(value, safe=""), json.dumps(value)[1:-1])}
    return {form for form in spelt if len(form) >= _SHORTEST_SECRET}


class Verbatim(str):
    """Text that `clean` cuts to size, but does not redact."""

    __slots__ = ()


def clean(value: object, redact: Redact = redact, depth: int = _DEPTH) -> object:
    """A bounded copy made of JSON's types: each text in it, keys too, redacted and at most 2 KB of UTF-8."""
    if isinstance(value, str):
        return _clean_text(value, redact)
    if value is None or isinstance(value, int):
        return value if value is None or value.bit_length() <= 64 else "[a very large integer]"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    if isinstance(value, _CONTAINERS):
        return _clean_items(value, redact, depth - 1) if depth else "[nested too deeply]"
    return _clean_text(str(value), redact)


_CONTAINERS = (dict, list, tuple, Mapping, Set)


def _clean_items(value: Iterable[object], redact: Redact, depth: int) -> object:
    if not isinstance(value, Mapping):
        return [clean(item, redact, depth) for item in list(value)[:_ITEMS]]
    pairs = list(value.items())[:_ITEMS]
    # Short texts are read together: one look instead of ten, and most of them hold no secret.
    together = "\n".join([item for _, item in pairs if item.__class__ is str and len(item) <= _SHORT])
    plain = redact(together) == together
    return {
        _clean_key(str(key), redact): item
        if plain and item.__class__ is str and len(item) <= _SHORT
        else clean(item, redact, depth)
        for key, item in pairs
    }


def _clean_text(text: str, redact: Redact) -> str:
    length = len(text)
    if length < 8:
        return text  # eight characters of a secret are a leak, fewer are not
    readable = text[:_READ_AT_MOST]
    if not isinstance(text, Verbatim):
        readable = redact(readable)
    if length > _READ_AT_MOST:  # a secret cut in two at the end may not have looked like one
        return _cut(readable[:-_LONGEST_FRAGMENT], length)
    return readable if len(readable) <= _SHORT else _cut(readable, length)


_clean_key = lru_cache(maxsize=256)(_clean_text)  # the same few words, line after line


def _cut(text: str, length: int) -> str:
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= FIELD_BYTES and length <= _READ_AT_MOST:
        return text
    marker = f"...[cut, {length} characters]"
    return data[: FIELD_BYTES - len(marker)].decode("utf-8", "ignore") + marker
