"""Signing in, and every token that is not quite one of ours."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from sqlalchemy import text
from werkzeug.security import check_password_hash

from errors import LockedOut, Unauthorized
from identity import OPERATOR, SCOPES_OF
from security import guesses
from security.api_keys import new_secret
from security.guesses import MOST_GUESSES
from tests.account_house import ADDRESS, PASSWORD, Registry, refused

SECRET = new_secret()


@pytest.fixture
def house(make_registry: Callable[..., Registry]) -> Registry:
    """A registry with a user, whose signing key is known here."""
    made = make_registry(jwt_secret_key=(SECRET,))
    made.user()
    return made


def sign_in(house: Registry, password: str = PASSWORD, name: str = "ada") -> Any:
    return house.auth.sign_in(name, password, ADDRESS)


# Sessions.


def test_a_user_signs_in_with_any_case_of_their_name_and_is_who_they_are(house):
    for name in ("ada", "ADA", " Ada "):
        tokens = sign_in(house, name=name)
    who = house.who(tokens.access)
    assert (who.tenant, who.role, who.key_id) == (house.home.id, "developer", "")
    assert who.scopes == SCOPES_OF["developer"]
    assert tokens.expires_in == 900


def test_an_access_token_ends_by_itself_and_a_refresh_token_brings_the_next(house):
    tokens = sign_in(house)
    house.hands.now -= 950  # the library that reads tokens knows no clock but the machine's
    late = sign_in(house)
    house.hands.now += 950
    assert refused(house, late.access) == "expired"
    following = house.auth.refresh(late.refresh, ADDRESS)
    assert house.who(following.access) == house.who(tokens.access)


def test_a_session_is_over_at_its_end_however_often_it_was_refreshed(make_registry):
    house = make_registry(jwt_secret_key=(SECRET,), refresh_token_seconds=600)
    house.user()
    tokens = sign_in(house)
    ends = jwt.decode(tokens.refresh, options={"verify_signature": False})["exp"]
    house.hands.now += 400
    following = house.auth.refresh(tokens.refresh, ADDRESS)
    assert 199 <= following.expires_in <= 200
    for token in (following.access, following.refresh):
        assert abs(jwt.decode(token, options={"verify_signature": False})["exp"] - ends) <= 1


def test_a_refresh_token_that_comes_again_ends_the_whole_session(house):
    first = sign_in(house)
    second = house.auth.refresh(first.refresh, ADDRESS)
    other = sign_in(house)
    assert house.who(second.access)
    with pytest.raises(Unauthorized):
        house.auth.refresh(first.refresh, ADDRESS)
    with pytest.raises(Unauthorized):
        house.auth.refresh(second.refresh, ADDRESS)
    house.hands.now += 1
    assert refused(house, second.access) == "revoked"
    assert house.who(other.access), "another sign-in of the same user goes on"
    assert len(house.events("TOKEN_REUSED")) == 1


@pytest.mark.parametrize("which", ["access", "refresh"])
def test_to_revoke_a_token_ends_its_session_at_once(house, which):
    tokens = sign_in(house)
    house.who(tokens.access)
    house.auth.revoke(getattr(tokens, which), ADDRESS)
    assert refused(house, tokens.access) == "revoked"
    with pytest.raises(Unauthorized):
        house.auth.refresh(tokens.refresh, ADDRESS)
    with pytest.raises(Unauthorized):
        house.auth.revoke(tokens.access, ADDRESS)
    assert len(house.events("SESSION_ENDED")) == 1


def test_another_process_sees_the_end_of_a_session_within_a_second(house, make_registry):
    other = make_registry(jwt_secret_key=(SECRET,))
    tokens = sign_in(house)
    assert other.who(tokens.access)
    house.auth.revoke(tokens.refresh, ADDRESS)
    other.hands.now += 0.95
    assert refused(other, tokens.access) == "revoked"


@pytest.mark.parametrize("change", [{"password": PASSWORD + "-new"}, {"active": False}])
def test_a_new_password_and_an_end_of_access_end_the_sessions(house, change):
    tokens = sign_in(house)
    house.who(tokens.access)
    house.accounts.change_user(house.accounts.user_named("ADA").id, OPERATOR, **change)
    house.hands.now += 1
    refused(house, tokens.access)
    with pytest.raises(Unauthorized):
        sign_in(house)


def test_of_a_user_who_is_locked_out_no_token_is_good_whatever_became_of_the_session(house):
    tokens = house.auth.sign_in("ada", PASSWORD, ADDRESS)
    with house.database.change() as connection:
        connection.execute(text("UPDATE users SET active = :no"), {"no": False})
    house.hands.now += 1
    assert refused(house, tokens.access) == "inactive"
    with pytest.raises(Unauthorized):
        house.auth.refresh(tokens.refresh, ADDRESS)


def test_who_is_let_in_again_has_to_sign_in_again(house):
    user = house.accounts.user_named("ada")
    tokens = house.auth.sign_in("ada", PASSWORD, ADDRESS)
    for active in (False, True):
        house.accounts.change_user(user.id, OPERATOR, active=active)
    house.hands.now += 1
    assert refused(house, tokens.access) == "revoked"
    with pytest.raises(Unauthorized):
        house.auth.refresh(tokens.refresh, ADDRESS)


def test_names_and_passwords_that_are_wrong_are_refused_alike(house):
    house.user("nobody", password="")
    gone = house.user("gone")
    house.accounts.change_user(gone.id, OPERATOR, active=False)
    bodies = set()
    for number, (name, password) in enumerate(
        [
            ("ada", "wrong"),
            ("no-such", PASSWORD),
            ("nobody", ""),
            ("nobody", PASSWORD),
            ("gone", PASSWORD),
            ("a\0b", "x"),
            ("", ""),
            ("x" * 500, "x"),
            ("ada", "\ud800"),
        ]
    ):
        with pytest.raises(Unauthorized) as refusal:
            house.auth.sign_in(name, password, f"192.0.2.{number}")
        bodies.add((str(refusal.value), refusal.value.reason))
    assert bodies == {(Unauthorized.sentence, "password")}


def test_an_unknown_name_costs_as_much_as_a_wrong_password(house, monkeypatch):
    checked: list[str] = []

    def counted(kept: str, password: str) -> bool:
        checked.append(kept.partition("$")[0])
        return check_password_hash(kept, password)

    monkeypatch.setattr("security.passwords.check_password_hash", counted)
    for name in ("ada", "no-such"):
        with pytest.raises(Unauthorized):
            sign_in(house, "wrong", name)
    assert len(checked) == 2
    assert len(set(checked)) == 1, "as many rounds of the same kind"


def test_guessing_a_password_locks_the_address_and_the_name(house):
    for number in range(MOST_GUESSES):
        with pytest.raises(Unauthorized):
            house.auth.sign_in("ada", "wrong", f"192.0.2.{number}")
    with pytest.raises(LockedOut):
        house.auth.sign_in("Ada", PASSWORD, "198.51.100.1")
    house.user("bob")
    assert house.auth.sign_in("bob", PASSWORD, "192.0.2.1")
    assert [line["which"] for line in house.events("AUTH_LOCKOUT")] == ["ada"]


def lock_name(house: Registry) -> None:
    for number in range(MOST_GUESSES):
        with pytest.raises(Unauthorized):
            house.auth.sign_in("ada", "wrong", f"192.0.2.{100 + number}")


def test_strangers_lock_a_name_for_strangers_and_not_where_it_signed_in_lately(house):
    sign_in(house)
    house.hands.now += 7 * 86_400
    lock_name(house)
    with pytest.raises(LockedOut, match="too many wrong passwords for this name"):
        house.auth.sign_in("ada", PASSWORD, "198.51.100.1")
    assert sign_in(house, name="ADA")
    house.user("bob")
    assert house.auth.sign_in("bob", PASSWORD, "198.51.100.1")
    with pytest.raises(LockedOut, match="for this name"):  # bob's home is no home of ada's
        house.auth.sign_in("ada", PASSWORD, "198.51.100.1")
    for _ in range(MOST_GUESSES):
        with pytest.raises(Unauthorized):
            sign_in(house, "wrong")
    with pytest.raises(LockedOut, match="wrong keys or passwords from here"):
        sign_in(house)


def test_where_a_name_signed_in_is_forgotten_in_time_and_never_by_what_others_do(house, monkeypatch):
    monkeypatch.setattr(guesses, "MOST_NAMES", 3)
    known = guesses.Guesses(timer=house.hands)
    known.signed_in("ada", "192.0.2.1")
    for number in range(1000):
        known.signed_in("bob", f"198.51.100.{number % 250}")
    assert known._homes.size() == 2
    assert len(known._homes.get("bob")) == guesses.MOST_HOMES

    def lock() -> None:
        for number in range(MOST_GUESSES):
            known.refusal("password", f"203.0.113.{number}", name="ada")

    lock()
    known.check("192.0.2.1", "ada")
    house.hands.now += guesses.LATELY_SECONDS + 1
    lock()
    with pytest.raises(LockedOut):
        known.check("192.0.2.1", "ada")


def test_passwords_are_kept_as_scrypt_and_told_to_nobody(house):
    with house.database.look() as connection:
        kept = connection.execute(text("SELECT password_hash FROM users")).scalar()
    assert kept.startswith("scrypt:")
    house.accounts.change_user(house.accounts.user_named("ada").id, OPERATOR, password=PASSWORD + "2")
    assert PASSWORD not in str(house.lines)
    assert "scrypt" not in str(house.lines)
    assert house.lines[-1][2]["also"] == "password"


def test_after_a_new_signing_key_tokens_of_the_old_one_stay_good_as_long_as_it_is_listed(make_registry):
    newer = new_secret()
    house, both, alone = (
        make_registry(jwt_secret_key=keys) for keys in ((SECRET,), (newer, SECRET), (newer,))
    )
    house.user()
    old, new = sign_in(house), sign_in(both)
    assert both.who(old.access)
    assert both.who(new.access) == alone.who(new.access)
    assert refused(house, new.access) == refused(alone, old.access, "192.0.2.7") == "signature"


def test_an_installation_without_a_key_of_its_own_makes_one_and_keeps_it(
    make_registry, accounts_url, tmp_path
):
    if accounts_url.get_backend_name() != "sqlite":
        pytest.skip("only where one machine has the database to itself")
    house, other = make_registry(), make_registry()
    house.user()
    assert other.who(sign_in(house).access)
    assert (tmp_path / "data" / "jwt_secret_key").stat().st_mode & 0o777 == 0o600


# What is no token of ours.


def encoded(part: Any) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: Any, claims: Any, key: bytes = SECRET.encode(), digest: str = "sha256") -> str:
    body = f"{encoded(header)}.{encoded(claims)}"
    return f"{body}.{encoded(hmac.digest(key, body.encode(), digest))}"


def forgeries(good: str, refresh: str) -> dict[str, str]:
    """Tokens that are wrong in one thing each."""
    header, claims = jwt.get_unverified_header(good), jwt.decode(good, options={"verify_signature": False})
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    plain = f"{encoded(header)}.{encoded(claims)}"
    own_jwk = {"kty": "oct", "k": encoded(b"x" * 32)}

    def without(name: str) -> dict[str, Any]:
        return {key: value for key, value in claims.items() if key != name}

    now = claims["iat"]
    return {
        "alg none": f"{encoded(header | {'alg': 'none'})}.{encoded(claims)}.",
        "alg None": f"{encoded(header | {'alg': 'None'})}.{encoded(claims)}.",
        "alg nOnE": f"{encoded(header | {'alg': 'nOnE'})}.{encoded(claims)}.",
        "HS256 under a public key": signed(header, claims, public),
        "RS256": jwt.encode(claims, pem, "RS256"),
        "HS512": signed(header | {"alg": "HS512"}, claims, digest="sha512"),
        "empty signature": plain + ".",
        "no signature": plain,
        "empty key": signed(header, claims, b""),
        "another key": signed(header, claims, b"x" * 32),
        "expired": signed(header, claims | {"exp": now - 3600, "iat": now - 7200}),
        "nbf in the future": signed(header, claims | {"nbf": now + 3600}),
        "iat in the future": signed(header, claims | {"iat": now + 3600, "exp": now + 7200}),
        **{
            f"no {name}": signed(header, without(name))
            for name in ("exp", "iat", "aud", "iss", "sub", "jti", "sid", "use")
        },
        "wrong aud": signed(header, claims | {"aud": "another"}),
        "a list of aud without ours": signed(header, claims | {"aud": ["one", "two"]}),
        "a list of aud with ours": signed(header, claims | {"aud": ["llm_platform", "two"]}),
        "wrong iss": signed(header, claims | {"iss": "https://elsewhere.example"}),
        "numeric sub": signed(header, claims | {"sub": 7}),
        "another's sub": signed(header, claims | {"sub": "f" * 16}),
        "unknown session": signed(header, claims | {"sid": "f" * 16}),
        "injected session": signed(header, claims | {"sid": "' OR '1'='1"}),
        "exp as text": signed(header, claims | {"exp": "later"}),
        "claims are a list": signed(header, [claims]),
        "crit": signed(header | {"crit": ["exp"]}, claims),
        "kid as a path": signed(header | {"kid": "../../dev/null"}, claims, b""),
        "kid with SQL": signed(header | {"kid": "' UNION SELECT 'x"}, claims, b"x"),
        "jku": signed(header | {"jku": "http://127.0.0.1:9/keys"}, claims),
        "x5u": signed(header | {"x5u": "http://127.0.0.1:9/cert"}, claims),
        "jwk": signed(header | {"jwk": own_jwk}, claims, b"x" * 32),
        "typ": signed(header | {"typ": "at+jwt"}, claims),
        "refresh as access": refresh,
        "8 KB": signed(header, claims | {"more": "x" * 8192}),
        "two tokens": f"{good} {good}",
        "joined tokens": f"{good}.{good}",
        "tampered payload": ".".join(
            [good.split(".")[0], encoded(claims | {"sub": "admin"}), good.split(".")[2]]
        ),
        "JSON serialisation": encoded({"payload": encoded(claims), "signature": good.split(".")[2]}),
        "encrypted": ".".join([encoded({"alg": "dir", "enc": "A256GCM"}), "", "x", "y", "z"]),
        "a header that is no JSON": f"{encoded(b'{')}.{encoded(claims)}.x",
        "broken base64": "eyJ!!.eyJ!!.!!",
        "zip": signed(header | {"zip": "DEF"}, claims),
        "b64 false": signed(header | {"b64": False, "crit": ["b64"]}, claims),
        "NUL": good + "\0",
        "a digest of the key": signed(header, claims, hashlib.sha256(SECRET.encode()).digest()),
    }


def test_every_forged_or_malformed_token_is_refused_with_one_body(house):
    tokens = sign_in(house)
    assert house.who(tokens.access)
    forged = forgeries(tokens.access, tokens.refresh)
    assert len(forged) >= 25
    bodies = {}
    for name, token in forged.items():
        with pytest.raises(Unauthorized) as refusal:
            house.who(token)
        bodies[name] = (
            refusal.value.status,
            refusal.value.code,
            str(refusal.value),
            refusal.value.retry_after,
        )
    assert len(set(bodies.values())) == 1, bodies
    assert house.who(tokens.access)
    assert not house.events("AUTH_LOCKOUT"), "a forged token comes no nearer to a right one"
    assert {line["reason"] for line in house.events("AUTH_FAILURE")} >= {
        "signature",
        "header",
        "expired",
        "use",
        "shape",
    }


def test_access_tokens_refresh_nothing(house):
    tokens = sign_in(house)
    for wrong in (tokens.access, "", "x", tokens.refresh[:-2], forgeries(tokens.refresh, "")["alg none"]):
        with pytest.raises(Unauthorized):
            house.auth.refresh(wrong, ADDRESS)
    assert house.auth.refresh(tokens.refresh, ADDRESS)
