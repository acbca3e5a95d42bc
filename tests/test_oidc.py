"""Tokens of another issuer: real RSA keys, published by a server on this machine."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from errors import Forbidden, IssuerUnavailable, Unauthorized
from identity import OPERATOR, Budget, Role, Scope
from security import oidc
from security.oidc import KeySet
from security.tokens import BadToken
from tests.account_house import ADDRESS, Registry, refused

ISSUER, AUDIENCE = "https://issuer.example", "our-platform"


class KeyServer:
    """Publishes whatever stands in `document`, and counts who asks."""

    def __init__(self) -> None:
        self.document: Any = {"keys": []}
        self.status, self.asked = 200, 0
        self.answering = threading.Event()
        self.answering.set()
        outer = self

        class Door(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer.answering.wait(60)
                body = (
                    outer.document
                    if isinstance(outer.document, bytes)
                    else json.dumps(outer.document).encode()
                )
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Location", f"{outer.url}/elsewhere")
                self.end_headers()
                with suppress(OSError):  # whoever asked may have stopped reading
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def publish(self, **keys: rsa.RSAPrivateKey) -> None:
        self.document = {"keys": [published(name, key) for name, key in keys.items()]}


def published(name: str, key: rsa.RSAPrivateKey, **more: Any) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    return {
        "kty": "RSA",
        "use": "sig",
        "alg": "RS256",
        "kid": name,
        "n": _text(numbers.n),
        "e": _text(numbers.e),
    } | more


def _text(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8)).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def server(key: rsa.RSAPrivateKey) -> Iterator[KeyServer]:
    made = KeyServer()
    made.publish(one=key)
    yield made
    made.answering.set()
    made.server.shutdown()
    made.server.server_close()


def issuer_at(server: KeyServer) -> dict[str, str]:
    return {"oidc_issuer": ISSUER, "oidc_audience": AUDIENCE, "oidc_jwks_url": server.url}


@pytest.fixture
def house(make_registry: Callable[..., Registry], server: KeyServer) -> Registry:
    return make_registry(**issuer_at(server), oidc_organisation_claim="organisation")


@pytest.fixture
def accounts_url(tmp_path: Any) -> Any:
    """One database is enough here: what differs is the issuer."""
    from store.db import ledger_url

    (tmp_path / "data").mkdir()
    return ledger_url("", str(tmp_path / "data"))


def token(key: Any, kid: Any = "one", algorithm: str = "RS256", headers: Any = None, **claims: Any) -> str:
    now = int(time.time())
    given = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "u-1",
        "iat": now,
        "exp": now + 300,
        "organisation": "main",
    } | claims
    kept = {name: value for name, value in given.items() if value is not None}
    return jwt.encode(kept, key, algorithm, headers=({"kid": kid} if kid else {}) | (headers or {}))


def test_a_token_of_the_issuer_is_somebody_of_the_organisation_and_role_that_it_says(house, key):
    house.accounts.change_organisation(house.home.id, OPERATOR, budget=Budget("", "month", 5))
    who = house.who(token(key, role="developer"))
    assert (who.tenant, who.role, who.key_id) == (house.home.id, Role.DEVELOPER, "")
    assert who.scopes == {Scope.TASKS, Scope.REPORTS}
    assert who.budgets == (Budget(f"tenant:{house.home.id}", "month", 5),)
    assert who.user_id == house.who(token(key)).user_id != house.who(token(key, sub="u-2")).user_id
    assert house.who(token(key, role=["x", "viewer", "admin"])).role is Role.ADMIN


@pytest.mark.parametrize("role", [None, "owner", 5, ["x"], {"admin": True}, "Admin"])
def test_whoever_has_no_role_here_is_a_viewer(house, key, role):
    assert house.who(token(key, role=role)).scopes == {Scope.REPORTS}


def test_all_of_the_issuer_are_of_the_organisation_that_is_set_whatever_their_tokens_say(
    make_registry, server, key
):
    """Whoever could write a claim of that name would else choose whose budget to spend and whose usage to read."""
    house = make_registry(**issuer_at(server), oidc_organisation="main")
    house.accounts.create_organisation("other", OPERATOR)
    for claimed in ("other", "main", None, "", 5):
        assert house.who(token(key, organisation=claimed)).tenant == house.home.id
        assert house.who(token(key, **{"": claimed})).tenant == house.home.id, (
            "a claim without a name is none"
        )


def test_where_a_claim_chooses_the_organisation_is_that_and_the_set_one_is_for_tokens_without_it(
    make_registry, server, key
):
    house = make_registry(
        **issuer_at(server),
        oidc_organisation="main",
        oidc_organisation_claim="tenant",
        oidc_role_claim="groups",
    )
    other = house.accounts.create_organisation("other", OPERATOR)
    assert house.who(token(key, tenant="other")).tenant == other.id
    assert house.who(token(key, organisation="other", groups=["developer"])).tenant == house.home.id
    for number, named in enumerate(("nowhere", "", 5, ["main"], "a\0b")):
        assert refused(house, token(key, tenant=named), f"192.0.2.{number}") == "organisation"


def test_nobody_of_the_issuer_is_served_in_a_locked_organisation(house, key):
    given = token(key)
    assert house.who(given)
    house.accounts.change_organisation(house.home.id, OPERATOR, active=False)
    house.hands.now += 0.95
    assert refused(house, given) == refused(house, token(key, sub="u-2")) == "inactive"
    house.accounts.change_organisation(house.home.id, OPERATOR, active=True)
    assert house.who(given)


def test_an_administrator_from_outside_makes_keys_of_no_user(house, key):
    admin = house.who(token(key, role="admin"))
    made, _ = house.accounts.create_key("k", "developer", admin)
    assert (made.organisation, made.user_id) == (house.home.id, "")


def test_a_developer_from_outside_makes_no_keys(house, key):
    """They would outlive what the issuer says of them."""
    with pytest.raises(Forbidden):
        house.accounts.create_key("k", "developer", house.who(token(key, role="developer")))


def test_every_token_that_the_issuer_did_not_make_for_us_is_refused_alike(house, key, server):
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    server.document["keys"] += [
        published("small", small),
        published("enc", key, use="enc"),
        published("ps", key, alg="PS256"),
    ]
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    now = int(time.time())
    good = token(key)
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        weak = token(small, "small")
    bad = [
        token(other),
        weak,
        token(key, "enc"),
        token(key, "ps"),
        token(key, "unknown"),
        token(key, None),
        token(key, algorithm="RS512"),
        token(key, algorithm="PS256"),
        token("x" * 32, algorithm="HS256"),
        jwt.api_jws.encode(b"{}", public.decode().replace("-", "").encode(), "HS256", headers={"kid": "one"}),
        token(key, headers={"jku": server.url}),
        token(key, headers={"x5u": server.url}),
        token(other, headers={"jwk": published("one", other)}),
        token(key, headers={"crit": ["exp"], "exp": 1}),
        token(key, exp=now - 60),
        token(key, iat=now + 3600),
        token(key, nbf=now + 3600),
        token(key, aud="another"),
        token(key, aud=["another"]),
        token(key, iss="https://elsewhere.example"),
        *(token(key, **{name: None}) for name in ("exp", "iat", "aud", "iss", "sub")),
        good[:-6] + "AAAAAA",
        good.rpartition(".")[0] + ".",
        token(key, more="x" * 8000),
    ]
    assert house.who(good)
    bodies = set()
    for each in bad:
        with pytest.raises(Unauthorized) as refusal:
            house.who(each)
        bodies.add(str(refusal.value))
    assert bodies == {Unauthorized.sentence}


def test_without_the_settings_no_other_issuer_is_believed(make_registry, key):
    assert refused(make_registry(), token(key)) == "header"


def test_keys_are_fetched_once_and_for_an_unknown_one_at_most_once_a_minute(house, key, server):
    keys = house.auth._outside._keys
    keys._timer = house.hands
    for _ in range(5):
        house.who(token(key, jti=str(time.perf_counter_ns())))
    for _ in range(5):
        refused(house, token(key, "two", jti=str(time.perf_counter_ns())))
    assert server.asked == 1
    newer = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    server.publish(one=key, two=newer)
    house.hands.now += oidc.AGAIN_SECONDS
    assert house.who(token(newer, "two"))
    assert server.asked == 2


def test_an_issuer_that_cannot_be_asked_stops_nobody_whose_key_is_known(house, key, server):
    keys = house.auth._outside._keys
    keys._timer = house.hands
    assert house.who(token(key))
    server.status = 500
    house.hands.now += oidc.KEEP_SECONDS + 1
    assert house.who(token(key, exp=int(time.time()) + 7200)).tenant


@pytest.mark.parametrize(
    "wrong",
    [
        b"{",
        b"[]",
        b'{"keys": 5}',
        b'{"keys": [5]}',
        b'{"keys": [{"kty": "RSA", "kid": "one", "n": "!", "e": ""}]}',
        b"x" * (oidc.MOST_BYTES + 1),
        b'{"keys":' + b"[" * 50_000,
    ],
)
def test_a_key_set_that_is_none_is_no_way_in_and_no_bug(house, key, server, wrong):
    server.document = wrong
    with pytest.raises(IssuerUnavailable, match="issuer"):
        house.who(token(key))
    assert house.who(house.key()[1]), "whoever has a key of ours is served"


@pytest.mark.parametrize(
    "odd",
    [
        {"n": "AA"},
        {"n": 5},
        {"n": "\u00e9"},
        {"n": None},
        {"e": "Ag"},
        {"e": ""},
        {"kid": None},
        {"kid": 5},
        {"kty": ["RSA"]},
    ],
)
def test_one_odd_entry_of_a_key_set_does_not_end_the_others(house, key, server, odd):
    server.document = {"keys": [published("odd", key) | odd, published("one", key)]}
    assert house.who(token(key))


def test_claims_of_the_issuer_that_are_no_moments_are_refused_and_any_subject_is_somebody(house, key):
    later = int(time.time()) + 300
    for exp in (str(later), 10**400, 1e300, 10**15):
        assert refused(house, token(key, exp=exp)) == "claims"
    assert house.who(token(key, exp=later + 0.5))
    assert house.who(token(key, sub="\ud800")).user_id != house.who(token(key, sub="\ud801")).user_id


def test_redirects_are_not_followed(house, key, server):
    server.status = 302
    with pytest.raises(IssuerUnavailable):
        house.who(token(key))
    assert server.asked == 1


def test_an_issuer_that_hangs_is_waited_for_in_bounds(house, key, server, monkeypatch):
    monkeypatch.setattr(oidc, "FETCH_SECONDS", 0.3)
    server.answering.clear()
    begun = time.monotonic()
    with pytest.raises(IssuerUnavailable):
        house.auth.identify(f"Bearer {token(key)}", None, ADDRESS)
    assert time.monotonic() - begun < 30  # on a busy machine; without the bound it lasts a minute


def test_a_key_that_the_issuer_takes_back_is_good_for_an_hour_at_most(server, key):
    now = [1000.0]
    keys = KeySet(server.url, lambda: now[0])
    assert keys.key("one")
    server.document = {"keys": [published("other", key)]}
    now[0] += 3599
    assert keys.key("one")
    now[0] += 2
    with pytest.raises(BadToken):
        keys.key("one")


def test_the_same_subject_of_another_issuer_is_somebody_else(make_registry, server, key):
    ids = set()
    for issuer in (ISSUER, ISSUER + "/other"):
        house = make_registry(**issuer_at(server) | {"oidc_issuer": issuer}, oidc_organisation="main")
        ids.add(house.who(token(key, iss=issuer)).user_id)
    assert len(ids) == 2
