"""No eight characters of a secret survive redaction, ordinary text does, and the time is linear."""

import random
import string
from json import dumps
from urllib.parse import quote

import pytest

from security.redaction import MARK, clean, make_redactor, redact
from tests.linear import grows_linearly

LETTERS = string.ascii_letters + string.digits
DICE = random.Random(7)


def letters(length):
    return "".join(DICE.choices(LETTERS, k=length))


# Assembled here, so that no file of ours holds what looks like a secret.
SHAPED = {
    "google": "AI" + "za" + letters(20) + "_-" + letters(13),
    "google, new": "A" + "Q." + letters(40),
    "openai": "s" + "k-" + letters(48),
    "openai project": "s" + "k-proj-" + letters(20) + "_" + letters(20) + "-" + letters(10),
    "anthropic": "s" + "k-ant-api03-" + letters(40) + "-" + letters(20) + "AA",
    "ours": "ll" + "m_" + letters(8) + "_" + letters(30) + "-_" + letters(8),
    "jwt": ".".join(["ey" + "J" + letters(20), "ey" + "J" + letters(60) + "-_", letters(43)]),
    "jwt without signature": ".".join(["ey" + "J" + letters(20), "ey" + "J" + letters(60), ""]),
}
PLACES = {
    "alone": "{}",
    "in words": "the key {} was refused",
    "in an exception": "ProviderError('API key not valid: {}')",
    "in a URL": "https://host/v1/models?key={}&alt=sse",
    "in an encoded URL": "/login?next=https%3A%2F%2Fhost%2F%3Fq%3D{}%26x%3D1",
    "in JSON": '{{"error": {{"message": "{}", "code": 401}}}}',
    "after a line break": "first line\n{}\nlast",
    "after an escaped line break": "first line\\n{}\\nlast",
    "beside itself": "{0},{0};{0}",
    "after a bracket": "[{}]<{}>",
    "in a path": "/api/{}/x",
    "after a dash": "value-{}",
}
PLAIN_SECRET = letters(24)
NAMED = (
    "Bearer {}", "bearer  {}", "authorization: Bearer {}", "Authorization%3A%20Bearer%20{}", "Bearer '{}'",
    "Basic {}=", "Authorization: Basic {}==", "Authorization: Token {}", "authorization: {}",
    "?key={}", "/v1/models?alt=sse&key={}&x=1", "&api_key={}", "apikey={}", "api-key: {}", "%3Fkey%3D{}%26",
    "x-api-key: {}", "X-API-Key:{}", "x-goog-api-key: {}", "GOOGLE_API_KEY={}", "openai_api_key = '{}'",
    "token={}", "access_token={}", "refreshToken: {}", "password={}", "db_password: {}", "passwd={}", "pwd={}",
    "client_secret={}", "secret: {}", "&sig={}", "signature={}", "private_key={}",
    '{{"password": "{}"}}', "{{'x-api-key': '{}'}}", '{{\\"apiKey\\": \\"{}\\"}}', "[('x-api-key', '{}')]",
    "(b'x-goog-api-key', b'{}')", 'password="{} with spaces {}"', "password='{}",
    "postgresql+psycopg://llm:{}@db:5432/llm", "redis://:{}@cache:6379/0", "https://user:{}%40x@host/path",
    "amqp://a:{}@{}@host", "Cookie: session={}; theme={}", "set-cookie: sid={}; HttpOnly",
)  # fmt: skip
ORDINARY = (
    "", "curl/8.5.0", "/api/v1/generate/text", "d3b07384d113edec49eaa6238ad5ff00", "2026-07-01T12:00:00.000+00:00",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "The monkey = banana of keyboards: nothing",
    "max_tokens=100 and input_tokens: 5", "a task-management-of-many-things desk-top risk-averse", "sk-learn",
    "https://example.org:8080/path?page=2&sort=asc", "gemini-3.1-flash-lite", "basically, the bearers agreed",
    "KeyError while reading", "sha256 608e160e5915", "llm_cost_total", "key prefix llm_ab12cd34",
    "mailto:someone@example.org", "a design: the signal", "12:30:45", "C:\\Users\\x", "text/*;q=0.8, */*",
)  # fmt: skip


def survivors(text, secret):
    return [secret[at : at + 8] for at in range(len(secret) - 7) if secret[at : at + 8] in text]


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("secret", SHAPED.values(), ids=SHAPED.keys())
def test_no_eight_characters_of_a_shaped_secret_survive(secret, place):
    assert not survivors(redact(place.format(secret, secret)), secret)


@pytest.mark.parametrize("place", NAMED)
def test_no_eight_characters_of_a_named_secret_survive_whatever_its_shape(place):
    redacted = redact(place.format(PLAIN_SECRET, PLAIN_SECRET))
    assert not survivors(redacted, PLAIN_SECRET)
    assert MARK in redacted


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_as_it_is(text):
    assert redact(text) == text


def test_what_surrounds_a_secret_stays():
    key = SHAPED["google"]
    assert redact(f"GET /v1?key={key}&alt=sse failed") == f"GET /v1?key={MARK}&alt=sse failed"
    assert redact("{'x-api-key': 'abc', 'b': \"c\"}") == f"{{'x-api-key': '{MARK}', 'b': \"c\"}}"
    assert redact("redis://:abcdefghij@cache:6379/0") == f"redis://:{MARK}@cache:6379/0"


@pytest.mark.parametrize("place", [*NAMED, *PLACES.values()])
def test_redacting_twice_changes_nothing_more(place):
    once = redact(place.format(SHAPED["openai"], PLAIN_SECRET))
    assert redact(once) == once


@pytest.mark.parametrize(
    "secret", ["correct horse battery staple", 'quo"ted\\secret', "schlüssel-ß-1234", "a+b/c=d&e?f#g"]
)
@pytest.mark.parametrize("place", ["said {} aloud", "{}", "x={}y", "'{}'"])
def test_a_configured_secret_of_any_shape_vanishes_in_any_spelling(secret, place):
    known = make_redactor([secret])
    for spelling in (secret, quote(secret, safe=""), dumps(secret)[1:-1]):
        assert not survivors(known(place.format(spelling)), spelling)


def test_the_password_of_a_configured_url_vanishes_on_its_own():
    password = letters(12)
    known = make_redactor([f"postgresql+psycopg://llm:{password}%21@db/llm"])
    assert not survivors(known(f"authentication failed with '{password}!' or {password}%21"), password)


def test_empty_and_very_short_secrets_are_not_looked_for():
    assert make_redactor(["", "a", "test"])("a test of words") == "a test of words"


def test_a_redactor_with_secrets_still_knows_the_shapes():
    assert not survivors(make_redactor([letters(20)])(SHAPED["anthropic"]), SHAPED["anthropic"])


def test_texts_of_one_record_do_not_hide_each_others_secrets():
    record = {"a": "plain text", "b": f"x {SHAPED['jwt']}", "c": {"d": SHAPED["openai"]}, SHAPED["ours"]: "e"}
    redacted = str(clean(record))
    assert "plain text" in redacted
    assert not [secret for secret in SHAPED.values() if survivors(redacted, secret)]


SEEDS = (
    "a", " ", ".", "-", "_", "=", ":", "/", "@", "%", "'", '"', "\\", "key", "key ", "key=", 'key="', "key='", 'key\\"',
    "token: ", "password\\\\\"", '"key","', "authorization: ", "cookie:", "bearer ", "Bearer%20", "basic ", "basic A",
    "sk" + "-", "sk" + "-a1 ", "llm" + "_", "llm" + "_a_", "llm" + "_a", "ey" + "J", "eyJaaaaa.", "AIza", "AQ.", "://",
    "://a:", "://a@", "://:", "%3d", "secret\t", "x" * 40 + "sk-", "=>", "api_key", "api-",
)  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_redaction_takes_linear_time(seed):
    for prefix in ("", 'key="', "://a:", "bearer "):
        text = (prefix + seed * 65_536)[:65_536]
        assert grows_linearly(redact, text), prefix
